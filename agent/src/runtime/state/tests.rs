//! Writes that the disk refuses.
use super::*;
use crate::catalog::tests::world::{network, network_key, node, stamp};

#[test]
fn what_cannot_be_saved_is_taken_back_and_the_others_hear_of_it() {
    let me = node(1);
    let mut catalog = Catalog::default();
    catalog.restart(me, 1);
    let mut state = State::new(catalog, Books::new(me), me);
    let born = stamp(1, 1);
    let key = network_key("alpha", born);
    let batch = vec![(key.clone(), Some(Value::Network(network(born, "10.0.0.0/16"))))];
    let source =
        || StoreError::Write { what: "a change".to_owned(), source: "no space left on device".into() };
    let refused = state.write(me, Instant::now(), batch, Writes::default(), &mut |_| Err(source()));
    assert!(matches!(refused, Err(Unwritten::Store(_))));
    assert_eq!(state.catalog.value(me, &key), None);
    assert!(state.view.networks().is_empty());
    // Somebody may have compared heads between the two.
    assert_eq!(state.durable, state.catalog.head(me));
}
