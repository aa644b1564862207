//! What operators ask of hosts, at random: each verb takes the product's steps in the product's order.
use std::net::IpAddr;
use std::rc::Rc;

use super::claiming::Refusal;
use super::cluster::Cluster;
use crate::catalog::facts::{ClaimKey, HostFact, Key, Value};
use crate::claims::Member;
use crate::model::{Name, NodeId};
use crate::runtime::claiming;
use crate::runtime::peers;
use crate::runtime::verbs::leave;
use crate::store::Writes;

pub(super) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Why a verb did nothing; none of them is an error of the product.
pub(super) struct Refused;

impl From<Refusal> for Refused {
    fn from(_: Refusal) -> Self {
        Self
    }
}

pub(super) type Done = Result<(), Refused>;

impl Cluster {
    /// Joins, then does one thing after the other.
    pub(super) async fn operate(self: Rc<Self>, at: usize) {
        if self.join(at).await.is_err() {
            return;
        }
        loop {
            let pause_ms = self.random.borrow_mut().between(50..800);
            self.clock.sleep(pause_ms).await;
            if !self.busy.get() {
                return;
            }
            let _under_way = UnderWay::begin(&self);
            let done = self.verb(at).await;
            self.counts.borrow_mut().refused += usize::from(done.is_err());
        }
    }

    async fn verb(self: &Rc<Self>, at: usize) -> Done {
        let choice = self.random.borrow_mut().below(100);
        match choice {
            // Where somebody has been away for long there is something to be taken over.
            0..45 if self.long_away.get() => self.take_over(at).await,
            0..12 => self.create(at).await,
            12..16 => self.remove_network(at),
            16..38 => self.attach(at, false).await,
            38..46 => self.take_over(at).await,
            46..52 => self.attach(at, true).await,
            52..62 => self.detach(at),
            62..80 => self.register(at).await,
            80..86 => self.deregister(at),
            86..90 => self.deregister_all(at),
            90..95 => self.drain(at),
            95..99 => self.remove_node(at).await,
            _ => self.leave(at).await,
        }
    }

    async fn join(self: &Rc<Self>, at: usize) -> Done {
        let number = self.with(at, |it, _, _| it.state.books.promises.number()).ok_or(Refused)?;
        let number = match number {
            Some(number) => number,
            None if at == 0 => {
                let mut host = self.hosts[at].borrow_mut();
                host.step(|state, commit| claiming::steps::found(state, commit)).ok_or(Refused)?.ok();
                drop(host);
                self.with(at, |running, _, _| running.state.synced = true);
                1
            }
            None => self.join_cluster(at).await?,
        };
        let fact = HostFact {
            name: format!("host-{at}"),
            number,
            address: IpAddr::from([192, 0, 2, u8::try_from(at).unwrap() + 1]),
            gossip_port: 7946,
            vxlan_port: 4789,
            former_vxlan_ports: Vec::new(),
            underlay_mtu: 1500,
            agent_version: "0.1.0".to_owned(),
            narrow: Default::default(),
            routes: Vec::new(),
        };
        // A disk that refuses is asked again by the next start, as in the product.
        self.write(at, vec![(Key::Host, Some(Value::Host(fact)))], Writes::default()).ok_or(Refused)?.ok();
        Ok(())
    }

    async fn join_cluster(self: &Rc<Self>, at: usize) -> Result<u32, Refused> {
        let mut silent = None;
        loop {
            let live = self.with(at, |running, node, _| {
                let known = running.beats.keys().copied().filter(|of| *of != node);
                let live = known.filter(|of| running.liveness.state(*of).is_some_and(|(live, _)| live));
                live.collect::<Vec<_>>()
            });
            let mut live = live.ok_or(Refused)?;
            peers::spare(&mut live, silent);
            let from = self.random.borrow_mut().pick(&live).copied();
            let pulled = match from {
                Some(from) => self.pull(at, from).await,
                None => None,
            };
            silent = from.filter(|_| pulled.is_none());
            let pulled = pulled.unwrap_or(false);
            let known = self.with(at, |it, _, _| it.state.catalog.hosts().next().is_some());
            if pulled && known == Some(true) {
                let any = ClaimKey::Node { number: 0 };
                let view = self.with(at, |it, _, _| claiming::steps::current_view(&mut it.state, &any));
                let number = view.ok_or(Refused)?.next_number();
                match self.claim(at, ClaimKey::Node { number }).await {
                    Ok(ClaimKey::Node { number }) => {
                        self.note(|| format!("host {at} joins as number {number}"));
                        self.counts.borrow_mut().joined += 1;
                        return Ok(number);
                    }
                    Err(Refusal::Removed) => return Err(Refused),
                    _ => {}
                }
            }
            let pause_ms = self.random.borrow_mut().between(50..151);
            self.clock.sleep(pause_ms).await;
        }
    }

    /// Removes a host whose machine is down, as its operator knows.
    async fn remove_node(self: &Rc<Self>, at: usize) -> Done {
        let down: Vec<usize> =
            (0..self.hosts.len()).filter(|of| *of != at && self.hosts[*of].borrow().machine_down).collect();
        let other = self.random.borrow_mut().pick(&down).copied().ok_or(Refused)?;
        let node = self.hosts[other].borrow().node;
        let member = self.with(at, |it, _, _| {
            let candidates = crate::runtime::verbs::node::candidates(&it.state);
            let found = candidates.into_iter().find(|candidate| candidate.member.node == node)?;
            it.state.suspended.contains(&node).then_some(found.member)
        });
        let member = member.flatten().ok_or(Refused)?;
        // It does not come back while it is being removed: nobody starts a machine that he is about to give up.
        let given_up = GivenUp::new(self, other);
        if !self.agree(at, member).await {
            return Err(Refused);
        }
        drop(given_up);
        self.say_removed(at, node)
    }

    fn say_removed(&self, at: usize, node: NodeId) -> Done {
        let said = self.with(at, |it, _, _| crate::runtime::verbs::node::removal(&it.state, node));
        self.write(at, said.ok_or(Refused)?, Writes::default()).ok_or(Refused)?.map_err(|_| Refused)?;
        self.counts.borrow_mut().removed += 1;
        Ok(())
    }

    /// Removes those who left and whose leaving was not settled, as they told their operators to. Says whether there
    /// is anybody.
    pub(super) fn tidy(self: &Rc<Self>) -> bool {
        let left = |node: NodeId| self.index_of(node).is_some_and(|of| self.hosts[of].borrow().ended);
        let untidy: Vec<(usize, Member)> = self
            .live()
            .flat_map(|at| {
                let counted = self.with(at, |it, _, _| {
                    let promises = &it.state.books.promises;
                    let counted = promises.members().chain(promises.pending());
                    let counted = counted.filter(|_| promises.number().is_some());
                    counted.map(|member| (at, member)).collect::<Vec<_>>()
                });
                counted.unwrap_or_default()
            })
            .filter(|(_, member)| left(member.node))
            .collect();
        // One that is frozen for another removal refuses this one, so any of them may be the one to begin with.
        let Some((at, member)) = self.random.borrow_mut().pick(&untidy).copied() else { return false };
        let cluster = Rc::clone(self);
        self.clock.spawn(at, async move {
            let _under_way = UnderWay::begin(&cluster);
            if cluster.agree(at, member).await {
                cluster.say_removed(at, member.node).ok();
            }
        });
        true
    }

    async fn leave(self: &Rc<Self>, at: usize) -> Done {
        let number = self.with(at, |it, node, _| {
            let promises = &it.state.books.promises;
            // Of two members the one that stays could not settle it while a third host keeps trying to join.
            let many = promises.members().filter(|member| member.node != node).count() >= 2;
            promises.number().filter(|_| many)
        });
        let number = number.flatten().ok_or(Refused)?;
        let unsettled = |host: &std::cell::RefCell<super::host::Host>| {
            let host = host.borrow();
            host.ended && !self.gone.borrow().contains(&host.node)
        };
        // Several that leave at once and are heard by nobody take the majority with them; their operators are told.
        if self.hosts.iter().any(unsettled) {
            return Err(Refused);
        }
        self.hosts[at].borrow_mut().ended = true;
        let node = self.hosts[at].borrow().node;
        self.note(|| format!("host {at} leaves"));
        self.agree(at, Member { number, node }).await;
        let batch = self.with(at, |it, node, _| leave::facts(&it.state, node)).ok_or(Refused)?;
        self.write(at, batch, Writes::default()).ok_or(Refused)?.ok();
        // What it says goes out, then its agent ends.
        let cluster = Rc::clone(self);
        self.clock.after(2_000, move || cluster.crash(at, true));
        self.counts.borrow_mut().removed += 1;
        std::future::pending::<()>().await;
        Ok(())
    }
}

/// A host that is not started again until this is dropped, or for good once it is removed, or had left before.
struct GivenUp(Rc<Cluster>, usize, bool);

impl GivenUp {
    fn new(cluster: &Rc<Cluster>, at: usize) -> Self {
        let before = std::mem::replace(&mut cluster.hosts[at].borrow_mut().ended, true);
        Self(Rc::clone(cluster), at, before)
    }
}

impl Drop for GivenUp {
    fn drop(&mut self) {
        let node = self.0.hosts[self.1].borrow().node;
        // Somebody who does not know may start it all the same.
        let stays = self.0.gone.borrow().contains(&node) && self.0.random.borrow_mut().chance(50);
        self.0.hosts[self.1].borrow_mut().ended = stays || self.2;
    }
}

/// A verb under way; over when it is dropped, also by a crash.
struct UnderWay(Rc<Cluster>);

impl UnderWay {
    fn begin(cluster: &Rc<Cluster>) -> Self {
        cluster.verbs.set(cluster.verbs.get() + 1);
        Self(Rc::clone(cluster))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.verbs.set(self.0.verbs.get() - 1);
    }
}
