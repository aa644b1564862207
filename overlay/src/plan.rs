//! Decides what to do: compares what is wanted with what was seen. No I/O, no clock, no memory.
mod attachment;
mod changes;
mod egress;
mod fences;
mod forwarding;
mod host;
mod network;
mod paths;
mod ports;
mod prune;

use std::collections::{BTreeMap, BTreeSet};

use netfilter::Family;

use crate::observed::TableState;
use crate::op::Step;
use crate::reconcile::Phase;
use crate::rule::Table;
use crate::{Desired, Link, Mac, Object, Observed, Op, PortFlags, Space};

pub(crate) use fences::Fences;
pub(crate) use prune::teardown;

/// Routing protocol number of our routes (include/uapi/linux/rtnetlink.h leaves 5 to 255 to user space; "S").
pub const ROUTE_PROTOCOL: u8 = 83;

/// What is to be done, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What adds, changes and replaces. Done first, everywhere.
    pub additions: Vec<Step>,
    /// What takes away. Done once nothing refers to it any more.
    pub removals: Vec<Step>,
    /// What cannot be done.
    pub problems: Vec<Problem>,
}

/// Why an object is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The object.
    pub object: Object,
    /// What was tried or is wanted.
    pub operation: String,
    /// The kernel's error number, if it was the kernel's refusal.
    pub errno: Option<i32>,
    /// What stands against it.
    pub error: String,
}

/// Compares what is wanted with what the observed namespaces hold. Namespaces that are wanted but not observed
/// give problems; nothing is planned for them.
pub fn plan(desired: &Desired, observed: &BTreeMap<Space, Observed>) -> Plan {
    plan_changed(desired, observed, None, &mut Fences::default())
}

/// What is taken on trust: before `desired` was first seen, the networks' forwarding tables held exactly what this wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Base<'a> {
    pub(crate) desired: &'a Desired,
    /// And so did everything else.
    pub(crate) whole: bool,
}

/// As [`plan`], but where there is a base only what differs from it is looked at: of forwarding tables, or, where nothing but
/// attachments of other hosts differs, at all.
pub(crate) fn plan_changed(
    desired: &Desired,
    observed: &BTreeMap<Space, Observed>,
    base: Option<Base<'_>>,
    fences: &mut Fences,
) -> Plan {
    let narrow = base.is_some_and(|base| base.whole && changes::only_remotes(base.desired, desired));
    let base = base.map(|base| base.desired);
    let mut planner = Planner {
        desired,
        observed,
        fences,
        plan: Plan::default(),
        wanted: BTreeSet::new(),
        taken: BTreeMap::new(),
        unseen: BTreeSet::new(),
        rewritten: BTreeMap::new(),
        bare: BTreeSet::new(),
    };
    if narrow {
        for (name, network) in &desired.networks {
            planner.forwarding(name, network, base.and_then(|base| base.networks.get(name)));
        }
        return planner.plan;
    }
    planner.host();
    if let Some(paths) = &desired.paths {
        planner.paths(paths);
    }
    for (name, network) in &desired.networks {
        planner.network(name, network);
        let base = base.filter(|base| base.host == desired.host);
        planner.forwarding(name, network, base.and_then(|base| base.networks.get(name)));
        for (attachment_name, attachment) in network.attachments.iter() {
            planner.attachment(name, network, attachment_name, attachment);
        }
        planner.tunnel_way(name, network);
    }
    planner.prune();
    planner.fences.keep(desired);
    // The host's fence forgets a VNI or a peer only once no device and no entry is left that it was for.
    planner.plan.removals.sort_by_key(|step| step.object == Object::Host);
    planner.plan
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a BTreeMap<Space, Observed>,
    fences: &'a mut Fences,
    plan: Plan,
    /// Links that are to stay.
    wanted: BTreeSet<(Space, String)>,
    /// Tags of objects that could not be looked at: their links stay.
    unseen: BTreeSet<String>,
    /// Networks' namespaces whose ports' table this plan writes anew, and the ports whose chains it then has.
    rewritten: BTreeMap<Space, BTreeSet<String>>,
    /// Networks whose bridge is without an IPv4 address for an instant of this phase or from then on. It loses its
    /// IPv4 neighbours with it, permanent ones too (net/ipv4/fib_frontend.c, fib_inetaddr_event): they are written
    /// again.
    bare: BTreeSet<(Space, Phase)>,
    /// Names that this plan gives to links of containers.
    taken: BTreeMap<Space, BTreeSet<String>>,
}

/// How a link shall be. MAC, controller and flags only where they matter.
struct Wanted<'a> {
    mtu: u32,
    alias: String,
    mac: Option<Mac>,
    port_of: Option<(&'a str, PortFlags)>,
}

impl Planner<'_> {
    fn add(&mut self, object: &Object, space: &Space, op: Op) {
        self.plan.additions.push(Step { object: object.clone(), space: space.clone(), op });
    }

    fn remove(&mut self, object: &Object, space: &Space, op: Op) {
        self.plan.removals.push(Step { object: object.clone(), space: space.clone(), op });
    }

    fn problem(&mut self, object: &Object, operation: impl Into<String>, error: impl Into<String>) {
        let (operation, error) = (operation.into(), error.into());
        self.plan.problems.push(Problem { object: object.clone(), operation, errno: None, error });
    }

    fn want(&mut self, space: &Space, name: &str) {
        self.wanted.insert((space.clone(), name.to_owned()));
    }

    fn sysctls(&mut self, object: &Object, space: &Space, wanted: &[(&str, &str)]) {
        let Some(observed) = self.observed.get(space) else { return };
        for (key, value) in wanted {
            // A file that is not there (no br_netfilter, no IPv6) needs no value.
            if observed.sysctls.get(*key).is_some_and(|now| now != value) {
                let op = Op::SetSysctl { key: (*key).to_owned(), value: (*value).to_owned() };
                self.add(object, space, op);
            }
        }
    }

    /// Brings a link's settings to what is wanted; `link` is `None` for one that this plan has just made.
    fn settle(
        &mut self,
        object: &Object,
        space: &Space,
        name: &str,
        link: Option<&Link>,
        wanted: &Wanted<'_>,
    ) {
        let name = name.to_owned();
        if link.is_none_or(|link| link.alias.as_deref() != Some(wanted.alias.as_str())) {
            self.add(object, space, Op::SetAlias { name: name.clone(), alias: wanted.alias.clone() });
        }
        if link.is_some_and(|link| link.mtu != wanted.mtu) {
            self.add(object, space, Op::SetMtu { name: name.clone(), mtu: wanted.mtu });
        }
        if let Some((link, mac)) = link.zip(wanted.mac)
            && link.mac != Some(mac)
        {
            self.add(object, space, Op::SetMac { name: name.clone(), mac });
        }
        let Some((bridge, flags)) = wanted.port_of else { return };
        let is_port = link.is_some_and(|link| link.controller.as_deref() == Some(bridge));
        if !is_port {
            let controller = bridge.to_owned();
            self.add(object, space, Op::SetController { name: name.clone(), controller });
        }
        if !is_port || link.is_some_and(|link| link.port != Some(flags)) {
            self.add(object, space, Op::SetPort { name, flags });
        }
    }

    fn up(&mut self, object: &Object, space: &Space, name: &str, link: Option<&Link>) {
        if link.is_none_or(|link| !link.up) {
            self.add(object, space, Op::SetUp { name: name.to_owned() });
        }
    }

    /// A table: written whole if its chains or rules differ, else element by element.
    fn table(&mut self, object: &Object, space: &Space, table: Table) {
        let wanted = table.state();
        let now = self.observed.get(space).and_then(|observed| observed.tables.get(&table.family));
        let same_shape =
            now.is_some_and(|now| now.chains == wanted.chains && now.sets.keys().eq(wanted.sets.keys()));
        let family = table.family;
        let there = match now.filter(|_| same_shape) {
            Some(now) => now.sets.clone(),
            None => {
                let table = keeping(table, now);
                let there = table.state().sets;
                self.add(object, space, Op::SetTable { table });
                there
            }
        };
        for ((set, wanted), there) in wanted.sets.iter().zip(there.values()) {
            self.add_elements(object, space, family, set, wanted.difference(there).cloned().collect());
            let delete: BTreeSet<Vec<u8>> = there.difference(wanted).cloned().collect();
            if !delete.is_empty() {
                let (set, add) = (set.clone(), BTreeSet::new());
                self.remove(object, space, Op::ChangeElements { family, set, add, delete });
            }
        }
    }

    /// The elements that are missing.
    fn add_elements(
        &mut self,
        object: &Object,
        space: &Space,
        family: Family,
        set: &str,
        add: BTreeSet<Vec<u8>>,
    ) {
        if !add.is_empty() {
            let (set, delete) = (set.to_owned(), BTreeSet::new());
            self.add(object, space, Op::ChangeElements { family, set, add, delete });
        }
    }

    /// The two ends of a veth pair, if both are there and belong together.
    fn pair(&self, near: (&Space, &str), far: (&Space, &str)) -> Option<(&Link, &Link)> {
        let link = |(space, name): (&Space, &str)| self.observed.get(space)?.links.get(name);
        let (near, far) = (link(near)?, link(far)?);
        let belong = near.peer_index == Some(far.index) && far.peer_index == Some(near.index);
        belong.then_some((near, far))
    }
}

/// With the elements that are there now: those that nobody wants go with the removals, like all that does.
fn keeping(mut table: Table, now: Option<&TableState>) -> Table {
    for (name, set) in &mut table.sets {
        let length = usize::try_from(set.key_length()).unwrap_or_default();
        let there = now.and_then(|now| now.sets.get(*name)).into_iter().flatten();
        // An older agent's set may have had another key.
        set.elements.extend(there.filter(|key| key.len() == length).cloned());
    }
    table
}
