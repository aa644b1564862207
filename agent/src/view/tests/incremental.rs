//! A view brought up to date step by step equals one built from nothing, and tells exactly what differs.
use proptest::prelude::*;

use crate::catalog::tests::world::{OWNERS, Write, batch, name, node};
use crate::catalog::{Catalog, Changes, Delta, TOMBSTONE_AGE_MS};
use crate::view::{Liveness, View, adopt};

#[derive(Clone, Debug)]
enum Step {
    Write(u64, Vec<Write>),
    Restart(u64),
    Suspend(u8),
    Forget(u64),
    Update,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1..=OWNERS, batch()).prop_map(|(owner, batch)| Step::Write(owner, batch)),
        1 => (1..=OWNERS).prop_map(Step::Restart),
        2 => any::<u8>().prop_map(Step::Suspend),
        1 => (1..=OWNERS).prop_map(Step::Forget),
        4 => Just(Step::Update),
    ]
}

/// The owners' own catalog, and a reader's that hears of it by deltas and pulls.
struct Pair {
    truth: Catalog,
    reader: Catalog,
    liveness: Liveness,
    pending: Changes,
}

impl Pair {
    fn step(&mut self, step: Step) {
        match step {
            Step::Write(owner, batch) => {
                let (delta, _): (Delta, _) = self.truth.write(node(owner), batch).unwrap();
                self.pending.extend(self.reader.apply(delta).changes);
                self.pull();
            }
            Step::Restart(owner) => {
                let incarnation = self.truth.head(node(owner)).incarnation + 1;
                self.truth.restart(node(owner), incarnation);
                self.pull();
            }
            Step::Suspend(bits) => {
                self.liveness = (1..=OWNERS).filter(|id| bits & (1 << id) != 0).map(node).collect();
            }
            Step::Forget(owner) => {
                self.truth.forget_tombstones(0);
                self.truth.forget_tombstones(TOMBSTONE_AGE_MS);
                if self.reader.is_removed(node(owner)) {
                    self.pending.extend(self.reader.forget(node(owner)));
                }
            }
            Step::Update => {}
        }
    }

    fn pull(&mut self) {
        for owner in self.reader.behind(&self.truth.heads()) {
            let update = self.truth.delta_since(owner, self.reader.head(owner)).unwrap();
            self.pending.extend(self.reader.apply_update(update).changes);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn update_equals_build(steps in prop::collection::vec(step(), 1..60)) {
        let mut truth = Catalog::default();
        (1..=OWNERS).for_each(|id| truth.restart(node(id), 1));
        let reader = Catalog::default();
        let mut pair = Pair { truth, reader, liveness: Liveness::default(), pending: Changes::default() };
        let this = node(1);
        let mut view = View::build(&pair.reader, &pair.liveness, this);
        for step in steps {
            let update = matches!(step, Step::Update);
            pair.step(step);
            if !update {
                continue;
            }
            let before = view.clone();
            let pending = std::mem::take(&mut pair.pending);
            let mut told = view.update(&pair.reader, &pair.liveness, this, &pending);
            let mut built = View::build(&pair.reader, &pair.liveness, this);
            prop_assert_eq!(&view, &built);
            let mut differs = adopt::adopt(&mut built, &before);
            (told.work, differs.work) = Default::default();
            prop_assert_eq!(told, differs, "the changes told are exactly the differences");
        }
    }
}

#[test]
fn what_did_not_change_keeps_its_place_in_memory() {
    let mut bed = super::Bed::new();
    bed.attach(1, "web", &["10.0.0.2"], 1);
    bed.attach(2, "db", &["10.0.0.3"], 1);
    let at = |bed: &super::Bed, box_name: &str| {
        bed.view.attachment(&name("alpha"), &name(box_name)).unwrap().clone()
    };
    let (web, db) = (at(&bed, "web"), at(&bed, "db"));
    bed.attach(2, "db", &["10.0.0.4"], 1);
    assert!(std::sync::Arc::ptr_eq(&web, &at(&bed, "web")));
    assert!(!std::sync::Arc::ptr_eq(&db, &at(&bed, "db")));
    let out = bed.update(&Changes::everything());
    assert!(out.is_empty(), "building again what is equal changes nothing: {out:?}");
    assert!(std::sync::Arc::ptr_eq(&web, &at(&bed, "web")));
}
