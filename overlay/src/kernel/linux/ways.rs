//! Ways past the bridge: elements of two maps whose data are link indexes, here by the links' names.
use std::collections::BTreeMap;
use std::sync::PoisonError;

use netfilter::{Batch, ElementData, Error, Family, Socket};

use super::Open;
use super::observe::Names;
use super::tables::named;
use crate::Mac;
use crate::fence::{LOCAL_WAYS, TUNNEL_WAY};
use crate::kernel::KernelError;
use crate::observed::TableState;
use crate::world::FLOOD;

impl Open {
    pub(super) async fn ways(
        &self,
        names: &Names,
        tables: &BTreeMap<Family, TableState>,
    ) -> Result<BTreeMap<Mac, String>, KernelError> {
        if !tables.contains_key(&Family::Netdev) {
            return Ok(BTreeMap::new());
        }
        let found = self.netfilter(|socket| {
            let mut found = read(socket, LOCAL_WAYS)?;
            found.extend(read(socket, TUNNEL_WAY)?);
            Ok(found)
        });
        let name = |index: u32| names.get(&index).cloned().unwrap_or_default();
        Ok(found.await?.into_iter().map(|(mac, index)| (mac, name(index))).collect())
    }

    pub(super) async fn set_way(&self, mac: Mac, port: &str) -> Result<(), KernelError> {
        // Nothing tells of a wrong index, so the one that is remembered is not good enough.
        self.indexes.lock().unwrap_or_else(PoisonError::into_inner).remove(port);
        let index = self.index(port).await?.to_ne_bytes();
        self.netfilter(move |socket| {
            let mut batch = Batch::new();
            let data = ElementData::Value(&index);
            batch.add_elements(named(Family::Netdev), map_of(mac), |list| list.push(&mac.0, &data));
            let added = socket.commit(&batch);
            // It is there with another index.
            if !added.as_ref().is_err_and(|error| error.errno() == Some(libc::EEXIST)) {
                return added;
            }
            let mut batch = Batch::new();
            batch.delete_elements(named(Family::Netdev), map_of(mac), |list| {
                list.push(&mac.0, &ElementData::None);
            });
            batch.add_elements(named(Family::Netdev), map_of(mac), |list| list.push(&mac.0, &data));
            socket.commit(&batch)
        })
        .await
    }

    pub(super) async fn delete_way(&self, mac: Mac) -> Result<(), KernelError> {
        self.netfilter(move |socket| {
            let mut batch = Batch::new();
            batch.delete_elements(named(Family::Netdev), map_of(mac), |list| {
                list.push(&mac.0, &ElementData::None);
            });
            socket.commit(&batch)
        })
        .await
    }
}

fn map_of(mac: Mac) -> &'static str {
    if mac == FLOOD { TUNNEL_WAY } else { LOCAL_WAYS }
}

fn read(socket: &mut Socket, map: &str) -> Result<Vec<(Mac, u32)>, Error> {
    socket.elements(named(Family::Netdev), map, |element| {
        let index = u32::from_ne_bytes(element.data.try_into().ok()?);
        Some((Mac(element.key.try_into().ok()?), index))
    })
}
