//! Attachments come and go, with any address or a certain one.
use std::net::IpAddr;
use std::rc::Rc;

use super::claiming::Refusal;
use super::cluster::Cluster;
use super::host::unplumbed;
use super::verbs::{Done, Refused, name};
use crate::addresses::{self, Allocation, Layout, Wanted};
use crate::catalog::facts::{ClaimKey, Region, Taken};
use crate::model::Name;
use crate::runtime::claiming;
use crate::runtime::local::{LocalAttachment, StoredPlace};
use crate::runtime::messages::{Answer, Request};
use crate::runtime::verbs::addressing::{self, Wish};
use crate::runtime::verbs::takeover::{self, Predecessor};
use crate::runtime::verbs::{attach, detach};
use crate::store::Writes;

/// Attachments of these names are wanted on every host.
const SHARED: [&str; 2] = ["web", "db"];

/// As `claiming::Hold`.
pub(super) struct Taking {
    cluster: Rc<Cluster>,
    at: usize,
    keys: Vec<ClaimKey>,
}

impl Taking {
    pub(super) fn begin(cluster: &Rc<Cluster>, at: usize, keys: Vec<ClaimKey>) -> Self {
        cluster.with(at, |it, _, _| it.state.books.taking.extend(keys.iter().cloned()));
        Self { cluster: Rc::clone(cluster), at, keys }
    }

    fn add(&mut self, key: ClaimKey) {
        self.cluster.with(self.at, |it, _, _| it.state.books.taking.insert(key.clone()));
        self.keys.push(key);
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        self.cluster.with(self.at, |it, _, _| it.state.books.taking.retain(|key| !self.keys.contains(key)));
    }
}

impl Cluster {
    pub(super) async fn attach(self: &Rc<Self>, at: usize, with_ip: bool) -> Done {
        let Some(network) = self.some_network(at) else { return self.create(at).await };
        let own = self.random.borrow_mut().below(8);
        let text = if self.random.borrow_mut().chance(15) {
            self.random.borrow_mut().pick(&SHARED).map(|it| (*it).to_owned()).ok_or(Refused)?
        } else {
            format!("box-{at}-{own}")
        };
        let attachment = name(&text);
        let layout = self.layout(at, &network)?;
        let ip = match with_ip {
            true => {
                let all: Vec<u32> = (1..8).collect();
                let index = self.random.borrow_mut().pick(&all).copied().ok_or(Refused)?;
                let any = layout.block_addresses(Region::Endpoint, index).next();
                Some(any.or_else(|| layout.single_addresses(Region::Endpoint).nth(9)).ok_or(Refused)?)
            }
            false => None,
        };
        self.attach_as(at, &network, &attachment, ip).await
    }

    /// Takes a name, an address or both over from some host that is suspended.
    pub(super) async fn take_over(self: &Rc<Self>, at: usize) -> Done {
        let there = self.with(at, |it, _, _| {
            let state = &it.state;
            let all = state.catalog.networks().flat_map(|network| {
                let attachments = state.catalog.attachments(network);
                let away = attachments.filter(|(_, owner, _)| state.suspended.contains(owner));
                away.map(move |(name, _, fact)| (network.clone(), name.clone(), fact.addresses[0]))
            });
            all.collect::<Vec<_>>()
        });
        let some = self.random.borrow_mut().pick(&there.ok_or(Refused)?).cloned();
        let (network, named, address) = some.ok_or(Refused)?;
        let (by_name, by_address) = self
            .random
            .borrow_mut()
            .pick(&[(true, false), (false, true), (true, true)])
            .copied()
            .ok_or(Refused)?;
        let own = name(&format!("heir-{at}-{}", self.random.borrow_mut().below(4)));
        let attachment = if by_name { named } else { own };
        self.attach_as(at, &network, &attachment, by_address.then_some(address)).await
    }

    /// As `verbs::attach::make`.
    async fn attach_as(
        self: &Rc<Self>,
        at: usize,
        network: &Name,
        attachment: &Name,
        ip: Option<IpAddr>,
    ) -> Done {
        let (network, attachment) = (network.clone(), attachment.clone());
        let layout = self.layout(at, &network)?;
        let place = (network.clone(), attachment.clone());
        let heirs = self.with(at, |running, node, _| {
            let state = &running.state;
            let fenced = takeover::fenced(state, node).any(|(of, it, _)| (of, it) == (&network, &attachment));
            if state.local.contains_key(&place) && !fenced {
                return None;
            }
            takeover::predecessors(state, node, &network, &attachment, ip).ok()
        });
        let predecessors = heirs.flatten().ok_or(Refused)?;
        let keys: Vec<ClaimKey> = predecessors.iter().map(|it| it.key(&network)).collect();
        let mut taking = Taking::begin(self, at, keys.clone());
        for key in keys {
            self.claim(at, key).await?;
        }
        let copy = self.with(at, |it, _, _| it.state.local.get(&place).cloned()).flatten();
        if let Some(copy) = copy
            && !self.take_out(at, &copy)
        {
            return Err(Refused);
        }
        let taken = predecessors.iter().any(|it| matches!(it.object, Taken::Address(_)));
        let address = match ip.filter(|_| taken) {
            Some(address) => address,
            None => {
                let wanted = ip.map_or(Wanted::Any, Wanted::Exactly);
                let wish = Wish { network: &network, layout, region: Region::Endpoint, wanted };
                self.allocate(at, &wish, &mut taking).await?
            }
        };
        let record = self.reserve(at, &network, &attachment, (address, &predecessors))?;
        drop(taking);
        let plumbing_ms = self.random.borrow_mut().between(2..40);
        self.clock.sleep(plumbing_ms).await;
        let record = LocalAttachment { announced: true, ..record };
        let told = self.with(at, |it, _, _| attach::announcement(&mut it.state, &record));
        let (batch, extra) = told.ok_or(Refused)?.map_err(|_| Refused)?;
        self.write(at, batch, extra).ok_or(Refused)?.map_err(|_| Refused)?;
        self.note(|| format!("host {at} attaches {attachment} to {network} with {address}"));
        self.counts.borrow_mut().attached += 1;
        self.counts.borrow_mut().taken_over += predecessors.len();
        self.check_address(&network, address);
        Ok(())
    }

    fn reserve(
        &self,
        at: usize,
        network: &Name,
        attachment: &Name,
        (address, predecessors): (IpAddr, &[Predecessor]),
    ) -> Result<LocalAttachment, Refused> {
        let host = &mut *self.hosts[at].borrow_mut();
        let node = host.node;
        let reserved = host.step(|state, commit| {
            let since = state.catalog.next_stamp(node);
            let record = LocalAttachment {
                network: network.clone(),
                name: attachment.clone(),
                place: StoredPlace::Host,
                boot_id: String::new(),
                cookie: since.clock,
                addresses: vec![address],
                mac: addresses::format_mac(addresses::mac_for(address)),
                aliases: Vec::new(),
                default_route: false,
                order: since.clock,
                since,
                succeeds: takeover::successions(state, node, network, predecessors),
                resolv_conf: None,
                endpoint: None,
                announced: false,
                detaching: false,
            };
            let mut writes = Writes::default();
            writes.put_local(&record.key(), Some(&record)).unwrap();
            commit(&writes).ok()?;
            state.local.insert((network.clone(), attachment.clone()), record.clone());
            Some(record)
        });
        reserved.flatten().ok_or(Refused)
    }

    pub(super) fn layout(&self, at: usize, network: &Name) -> Result<Layout, Refused> {
        let record = self.with(at, |it, _, _| it.state.catalog.network(network)).flatten().ok_or(Refused)?;
        Layout::new(record.definition.subnets[0]).map_err(|_| Refused)
    }

    /// As `verbs::addressing::allocate`.
    pub(super) async fn allocate(
        self: &Rc<Self>,
        at: usize,
        wish: &Wish<'_>,
        taking: &mut Taking,
    ) -> Result<IpAddr, Refused> {
        let mut may_claim = true;
        for _ in 0..addressing::ROUNDS_MAX {
            let decided = self.with(at, |running, node, now| {
                addressing::decide(&running.state, node, (running.began, now), wish, may_claim)
            });
            let (decision, ahead) = decided.ok_or(Refused)?;
            let (network, region) = (wish.network.clone(), wish.region);
            let block = |network: &Name, index| ClaimKey::Block { network: network.clone(), region, index };
            match decision.map_err(|_| Refused)? {
                Allocation::Address { address, .. } => {
                    let place = (network.clone(), region);
                    let begun = ahead.is_some()
                        && self.with(at, |it, _, _| it.state.books.ahead.insert(place.clone())) == Some(true);
                    if begun {
                        let keys = ahead.into_iter().flatten().map(|index| block(&network, index)).collect();
                        let cluster = Rc::clone(self);
                        self.clock.spawn(at, async move {
                            drop(cluster.claim_one(at, keys).await);
                            cluster.with(at, |it, _, _| it.state.books.ahead.remove(&place));
                        });
                    }
                    return Ok(address);
                }
                Allocation::NeedBlock { candidates } => {
                    let keys = candidates.into_iter().map(|index| block(&network, index));
                    may_claim = self.claim_one(at, keys.collect()).await?;
                }
                Allocation::NeedAddress { candidates } => {
                    let key = |address| ClaimKey::Address { network: network.clone(), address };
                    may_claim = self.claim_one(at, candidates.into_iter().map(key).collect()).await?;
                }
                Allocation::RequestOther { region, index } => {
                    let Wanted::Exactly(address) = wish.wanted else { return Err(Refused) };
                    let holder = self.with(at, |it, _, _| {
                        let holder = addressing::holder(&it.state, &network, region, index)?;
                        (!it.state.suspended.contains(&holder)).then_some(holder)
                    });
                    let holder = holder.flatten().ok_or(Refused)?;
                    let key = ClaimKey::Granted { network: network.clone(), address, by: holder };
                    taking.add(key.clone());
                    let asked = self.clock.now();
                    let request = Request::Grant { network, address };
                    let Some(Answer::Grant(Ok(()))) = self.ask(at, holder, request, 1_000).await else {
                        return Err(Refused);
                    };
                    self.claim(at, key.clone()).await.map_err(|_| Refused)?;
                    if self.clock.now() - asked > addressing::CLAIMED_WITHIN {
                        return Err(Refused);
                    }
                    let fact = vec![claiming::fact(key)];
                    self.write(at, fact, Writes::default()).ok_or(Refused)?.map_err(|_| Refused)?;
                    self.counts.borrow_mut().granted += 1;
                    return Ok(address);
                }
                Allocation::Exhausted(_) => return Err(Refused),
            }
        }
        Err(Refused)
    }

    async fn claim_one(self: &Rc<Self>, at: usize, keys: Vec<ClaimKey>) -> Result<bool, Refused> {
        for key in keys.into_iter().take(addressing::CLAIMS_MAX) {
            match self.claim(at, key.clone()).await {
                Ok(_) => {
                    let fact = vec![claiming::fact(key)];
                    self.write(at, fact, Writes::default()).ok_or(Refused)?.map_err(|_| Refused)?;
                    return Ok(true);
                }
                Err(Refusal::Lost) => {}
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    pub(super) fn detach(&self, at: usize) -> Done {
        let record = self.some_local(at).ok_or(Refused)?;
        if self.take_out(at, &record) { Ok(()) } else { Err(Refused) }
    }

    fn take_out(&self, at: usize, record: &LocalAttachment) -> bool {
        let now = self.clock.now();
        let host = &mut *self.hosts[at].borrow_mut();
        let node = host.node;
        let done = host.step(|state, commit| {
            let records = std::slice::from_ref(record);
            let (batch, extra) = detach::withdrawal(state, node, now, records).unwrap();
            if state.write(node, now, batch, extra, commit).is_err() {
                // Nothing was written: it is attached as before.
                state.detaching.clear();
                state.local.insert((record.network.clone(), record.name.clone()), record.clone());
                return false;
            }
            unplumbed(state, commit);
            true
        });
        self.note(|| format!("host {at} detaches {}: {done:?}", record.key()));
        done == Some(true)
    }

    pub(super) fn some_local(&self, at: usize) -> Option<LocalAttachment> {
        let local = self.with(at, |it, _, _| {
            it.state.local.values().filter(|it| it.announced).cloned().collect::<Vec<_>>()
        })?;
        self.random.borrow_mut().pick(&local).cloned()
    }
}
