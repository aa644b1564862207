//! One change costs the same whatever the number of services.
use std::time::Duration;

use crate::catalog::Changes;
use crate::view::scale::{Size, catalog, change, measure};
use crate::view::{Liveness, View};

const SIZE: Size = Size { hosts: 10, attachments: 100, services: 1_000, replicas: 10 };

#[test]
fn one_change_looks_at_one_service() {
    let measured = measure(SIZE, 50, &|| Duration::ZERO, &|| 0).unwrap();
    assert_eq!(measured.changes.len(), 50);
    // Each host asserts the services that it has a replica of: here all of them.
    assert_eq!(measured.entries, 10 * 2 + 100 + 1_000 * 10 * 2);
}

#[test]
fn one_change_names_one_service_and_leaves_the_others_in_place() {
    let mut catalog = catalog(SIZE);
    let (liveness, this) = (Liveness::default(), crate::model::NodeId(1));
    let mut view = View::default();
    let out = view.update(&catalog, &liveness, this, &Changes::everything());
    assert_eq!((out.services.len(), out.attachments.len()), (1_000, 100));
    let before = view.clone();
    let delta = change(SIZE, &catalog, 3);
    let applied = catalog.apply(delta);
    assert_eq!((applied.changes.services.len(), applied.changes.attachments.len()), (1, 0));
    let out = view.update(&catalog, &liveness, this, &applied.changes);
    assert_eq!((out.work.services, out.work.attachments), (1, 0));
    let services =
        |view: &View| view.networks().values().flat_map(|it| it.services.clone()).collect::<Vec<_>>();
    let moved = services(&before).into_iter().zip(services(&view));
    let moved = moved.filter(|((_, old), (_, new))| !std::sync::Arc::ptr_eq(old, new)).count();
    assert_eq!(moved, 1);
}
