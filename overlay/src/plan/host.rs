//! The host's own namespace: forwarding, the tunnel's fence, the exception in other tools' forward chains.
use std::collections::BTreeMap;

use netfilter::Family;

use super::Planner;
use crate::fence::host_table;
use crate::name::HOST_LINK_PREFIX;
use crate::{Object, Op, Space};

impl Planner<'_> {
    /// Before any network: the fence stands before the first tunnel does, peers before their entries.
    pub(super) fn host(&mut self) {
        let (object, space) = (Object::Host, Space::Host);
        let Some(observed) = self.observed.get(&space) else {
            return self.problem(&object, "look at it", "its namespace is not open");
        };
        if !self.desired.is_empty() {
            // While a network's link is still there its traffic is judged; once it is gone nothing needs tracking.
            let wanted = self.desired.networks.values().any(|network| !network.internal);
            let linked = observed.links.keys().any(|name| name.starts_with(HOST_LINK_PREFIX));
            let moved = self.moved_vnis();
            self.table(&object, &space, host_table(self.desired, &moved, wanted || linked));
            if linked && !wanted {
                self.remove(&object, &space, Op::SetTable { table: host_table(self.desired, &moved, false) });
            }
        }
        if !self.desired.networks.values().any(|network| !network.internal) {
            return;
        }
        self.sysctls(&object, &space, &[("net/ipv4/ip_forward", "1")]);
        if self.desired.networks.values().any(|network| !network.internal && network.has_six()) {
            self.forward_six(&object, &space, &observed.sysctls);
        }
        let hook = &observed.forward_hook;
        let leaves = |family| self.desired.networks.values().any(|network| network.leaves_by(family));
        let [four, six] = [Family::Ip, Family::Ip6].map(leaves);
        for family in hook.docker_user.difference(&hook.exceptions).copied() {
            if if family == Family::Ip6 { six } else { four } {
                self.add(&object, &space, Op::SetForwardException { family });
            }
        }
        for (family, chain) in &hook.blocking {
            // A chain of inet is there for both.
            if (*family == Family::Ip && !four) || (*family == Family::Ip6 && !six) {
                continue;
            }
            self.problem(
                &object,
                "forward egress of networks",
                format!(
                    "chain {chain} drops forwarded packets and offers no DOCKER-USER chain; allow forwarding from and to \
                     interfaces named {}* there",
                    HOST_LINK_PREFIX
                ),
            );
        }
    }

    /// A host that forwards IPv6 takes no router advertisements where accept_ra is 1, and would lose its default route
    /// (Documentation/networking/ip-sysctl.rst): first it is told to take them all the same. Where forwarding was on
    /// before us, that is its administrator's choice.
    fn forward_six(&mut self, object: &Object, space: &Space, now: &BTreeMap<String, String>) {
        const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
        if now.get(FORWARDING).is_none_or(|value| value != "0") {
            return;
        }
        let takes = |(key, value): &(&String, &String)| key.ends_with("/accept_ra") && *value == "1";
        let mut wanted: Vec<(&str, &str)> =
            now.iter().filter(takes).map(|(key, _)| (key.as_str(), "2")).collect();
        wanted.push((FORWARDING, "1"));
        self.sysctls(object, space, &wanted);
    }
}
