mod attachments;
mod incremental;
mod networks;
mod scale;
mod services;

use crate::catalog::facts::{Key, Value};
use crate::catalog::tests::world::{
    attachment, attachment_key, host, name, network, network_key, node, stamp,
};
use crate::catalog::{Catalog, Changes};
use crate::model::NodeId;
use crate::view::{Liveness, View, ViewChanges};

/// A catalog of three hosts with one network, and host 1's view of it.
struct Bed {
    catalog: Catalog,
    liveness: Liveness,
    view: View,
}

const THIS: NodeId = NodeId(1);

impl Bed {
    fn new() -> Self {
        let mut bed =
            Self { catalog: Catalog::default(), liveness: Liveness::default(), view: View::default() };
        for id in 1..=3 {
            bed.catalog.restart(node(id), 1);
            bed.say(id, Key::Host, Some(host(&format!("192.0.2.{id}"), 1500)));
        }
        let born = stamp(1, 1);
        bed.say(1, network_key("alpha", born), Some(Value::Network(network(born, "10.0.0.0/16"))));
        bed
    }

    fn say(&mut self, owner: u64, key: Key, value: Option<Value>) -> ViewChanges {
        let (_, changes) = self.catalog.write(node(owner), vec![(key, value)]).unwrap();
        self.update(&changes)
    }

    fn attach(&mut self, owner: u64, box_name: &str, addresses: &[&str], clock: u64) -> ViewChanges {
        let fact = attachment(addresses, stamp(clock, owner));
        self.say(owner, attachment_key("alpha", box_name), Some(fact))
    }

    fn suspend(&mut self, ids: &[u64]) -> ViewChanges {
        self.liveness = ids.iter().map(|id| node(*id)).collect();
        self.update(&Changes::default())
    }

    /// Every step of every test also shows that a view brought up to date equals one built from nothing.
    fn update(&mut self, changes: &Changes) -> ViewChanges {
        let out = self.view.update(&self.catalog, &self.liveness, THIS, changes);
        assert_eq!(self.view, View::build(&self.catalog, &self.liveness, THIS));
        out
    }

    fn owner_of(&self, box_name: &str) -> Option<u64> {
        self.view.attachment(&name("alpha"), &name(box_name)).map(|attachment| attachment.owner.0)
    }
}
