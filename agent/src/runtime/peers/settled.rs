//! What was known a while ago: whoever lacks that has missed a push.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::model::{Head, NodeId};

/// How long facts are on their way at most while nothing goes wrong: what a push rests, and its transfer.
const ON_THE_WAY: Duration = Duration::from_millis(900);

type Heads = Arc<BTreeMap<NodeId, Head>>;

/// Heads as they were at two times.
#[derive(Debug, Default)]
pub struct Settled {
    old: Option<Heads>,
    newer: Option<(Instant, Heads)>,
}

impl Settled {
    /// Heads as they were at least 0.9 s before the last note, if there was one then.
    pub fn old(&self) -> Option<Heads> {
        self.old.clone()
    }

    /// What is known now. To be called about once a second.
    pub(super) fn note(&mut self, now: Instant, heads: BTreeMap<NodeId, Head>) {
        match &self.newer {
            Some((at, _)) if now.saturating_duration_since(*at) < ON_THE_WAY => {}
            newer => {
                self.old = newer.as_ref().map(|(_, heads)| Arc::clone(heads));
                self.newer = Some((now, Arc::new(heads)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::catalog::facts::Value;
    use crate::catalog::tests::world::{network, network_key, node, stamp};
    use crate::runtime::claiming::Books;
    use crate::runtime::peers::updates_for;
    use crate::runtime::state::State;
    use crate::store::Writes;

    #[test]
    fn who_lacks_only_what_is_new_is_left_to_its_owner_and_who_lacks_more_gets_all() {
        let (me, born) = (node(1), stamp(1, 1));
        let mut catalog = Catalog::default();
        catalog.restart(me, 1);
        let mut state = State::new(catalog, Books::new(me), me);
        let mut write = |name: &str| {
            let batch = vec![(network_key(name, born), Some(Value::Network(network(born, "10.0.0.0/16"))))];
            state.write(me, Instant::now(), batch, Writes::default(), &mut |_| Ok(())).expect("a fact");
            state.catalog.heads()
        };
        let (first, second, third) = (write("alpha"), write("beta"), write("gamma"));
        let told = |have, old| updates_for(&state, have, old).len();
        assert_eq!(told(&second, Some(&second)), 0, "the third is new");
        assert_eq!(told(&first, Some(&second)), 1);
        assert_eq!(told(&second, None), 1, "before it has synced a host wants all");
        assert_eq!(told(&third, None), 0);
        let nothing = BTreeMap::new();
        assert_eq!(told(&nothing, Some(&nothing)), 0, "an owner that is new itself");
        assert_eq!(told(&nothing, Some(&first)), 1);
    }

    fn heads(version: u64) -> BTreeMap<NodeId, Head> {
        BTreeMap::from([(NodeId(1), Head { incarnation: 1, version })])
    }

    #[test]
    fn old_is_what_was_known_a_second_ago() {
        let (begun, mut settled) = (Instant::now(), Settled::default());
        assert_eq!(settled.old(), None);
        settled.note(begun, heads(1));
        assert_eq!(settled.old(), None);
        settled.note(begun + Duration::from_secs(1), heads(2));
        assert_eq!(settled.old().as_deref(), Some(&heads(1)));
        // Too early to count.
        settled.note(begun + Duration::from_millis(1_300), heads(3));
        assert_eq!(settled.old().as_deref(), Some(&heads(1)));
        settled.note(begun + Duration::from_secs(2), heads(4));
        assert_eq!(settled.old().as_deref(), Some(&heads(2)));
    }
}
