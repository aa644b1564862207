//! Networks are created and removed: as `runtime::verbs::network`, whose decisions need a running agent.
use std::rc::Rc;

use super::claiming::Refusal;
use super::cluster::Cluster;
use super::verbs::{Done, Refused, name};
use crate::addresses;
use crate::catalog::facts::{ClaimKey, Key, NetworkDefinition, Value};
use crate::model::Name;
use crate::runtime::claiming;
use crate::runtime::state::Batch;
use crate::runtime::verbs::services;
use crate::store::Writes;

/// Networks and their subnets: one with large blocks, one whose blocks are a few addresses, one without blocks.
const NETWORKS: [(&str, &str); 3] =
    [("alpha", "10.64.0.0/16"), ("beta", "10.65.0.0/19"), ("gamma", "10.66.0.0/27")];
/// VNIs that are asked for by number, so that networks want the same ones.
const VNIS: [u32; 2] = [101, 102];
/// VNIs tried before a creation is refused.
const VNI_TRIES: usize = 8;

impl Cluster {
    /// As `verbs::network::make`.
    pub(super) async fn create(self: &Rc<Self>, at: usize) -> Done {
        let (text, subnet) = *self.random.borrow_mut().pick(&NETWORKS).ok_or(Refused)?;
        let network = name(text);
        if self.with(at, |it, _, _| it.state.catalog.network(&network)).ok_or(Refused)?.is_some() {
            return Err(Refused);
        }
        let asked = self.random.borrow_mut().chance(30);
        let asked = if asked { self.random.borrow_mut().pick(&VNIS).copied() } else { None };
        let vni = self.claim_vni(at, &network, asked).await?;
        let written = self.with(at, |running, node, _| {
            let stamp = running.state.catalog.next_stamp(node);
            let definition = NetworkDefinition {
                revision: stamp,
                removed: false,
                vni,
                subnets: vec![subnet.parse().unwrap()],
                internal: false,
                encrypted: false,
                mtu: None,
            };
            let key = Key::Network { name: network.clone(), born: stamp };
            vec![(key, Some(Value::Network(definition))), claiming::fact(ClaimKey::Vni { vni })]
        });
        self.write(at, written.ok_or(Refused)?, Writes::default()).ok_or(Refused)?.map_err(|_| Refused)?;
        self.note(|| format!("host {at} creates {network} with VNI {vni}"));
        self.counts.borrow_mut().networks += 1;
        Ok(())
    }

    async fn claim_vni(
        self: &Rc<Self>,
        at: usize,
        network: &Name,
        asked: Option<u32>,
    ) -> Result<u32, Refused> {
        let candidates = match asked {
            Some(vni) => vec![vni],
            None => addresses::vni_candidates(network.as_str()).take(VNI_TRIES).collect(),
        };
        for vni in candidates {
            let known = self.with(at, |running, node, _| {
                let catalog = &running.state.catalog;
                let used = crate::runtime::verbs::network::vni_user(catalog, vni).is_some();
                let mine = catalog.claimants(&ClaimKey::Vni { vni }).any(|holder| holder == node);
                (used, mine)
            });
            match known.ok_or(Refused)? {
                (true, _) => continue,
                (false, true) => return Ok(vni),
                (false, false) => {}
            }
            match self.claim(at, ClaimKey::Vni { vni }).await {
                Ok(_) => return Ok(vni),
                Err(Refusal::Lost) => {}
                Err(_) => return Err(Refused),
            }
        }
        Err(Refused)
    }

    /// As `verbs::network::remove`.
    pub(super) fn remove_network(&self, at: usize) -> Done {
        let network = self.some_network(at).ok_or(Refused)?;
        let batch = self.with(at, |running, node, _| {
            let state = &mut running.state;
            let used = state.local.keys().any(|(of, _)| *of == network)
                || state.catalog.attachments(&network).next().is_some();
            if used {
                return None;
            }
            let stamp = state.catalog.next_stamp(node);
            let record = state.catalog.network(&network)?;
            let births = std::iter::once((record.born, record.definition)).chain(record.losers);
            let mut batch: Batch = births
                .map(|(born, definition)| {
                    let removed =
                        NetworkDefinition { revision: stamp, removed: true, ..(*definition).clone() };
                    (Key::Network { name: network.clone(), born }, Some(Value::Network(removed)))
                })
                .collect();
            for service in state.catalog.services(&network) {
                batch.extend(services::removal(state, &network, service, stamp));
            }
            let own = state.catalog.claims_of(&network).filter(|(_, holder)| *holder == node);
            batch.extend(own.map(|(key, _)| (Key::Claim(key.clone()), None)));
            Some(batch)
        });
        self.write(at, batch.flatten().ok_or(Refused)?, Writes::default())
            .ok_or(Refused)?
            .map_err(|_| Refused)?;
        self.note(|| format!("host {at} removes {network}"));
        Ok(())
    }

    pub(super) fn some_network(&self, at: usize) -> Option<Name> {
        let known = self.with(at, |it, _, _| it.state.catalog.networks().cloned().collect::<Vec<_>>())?;
        self.random.borrow_mut().pick(&known).cloned()
    }
}
