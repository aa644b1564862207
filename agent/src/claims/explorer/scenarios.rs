//! The clusters that are explored, and the broken protocols that must be noticed.
use super::host::{Model, Sabotage, block};
use super::{Explorer, Found};
use crate::catalog::facts::ClaimKey;

fn vni() -> Option<ClaimKey> {
    Some(ClaimKey::Vni { vni: 7 })
}

fn explore(name: &str, model: &Model) -> Found {
    let started = std::time::Instant::now();
    let found = Explorer::new(model).run(3_000_000);
    println!("{name}, {:?}: {} states, {:?}", model.sabotage, found.states, started.elapsed());
    found
}

fn holds(name: &str, model: &Model, winners: &[usize]) {
    let found = explore(name, model);
    if let Some(events) = found.violation {
        panic!("{name}:\n{}", events.join("\n"));
    }
    for &winner in winners {
        assert!(found.successes[winner], "{name}: host {winner} never gets what it wants");
    }
}

fn breaks(name: &str, model: &Model) {
    let found = explore(name, model);
    assert!(found.violation.is_some(), "{name}: {:?} goes unnoticed", model.sabotage);
}

fn two_claimants(sabotage: Sabotage) -> Model {
    Model {
        members: 3,
        joiners: 0,
        wants: [vni(), vni(), None, None],
        starts: 1,
        crashes: 1,
        releases: false,
        lean: true,
        sabotage,
    }
}

#[test]
fn two_claimants_of_one_key() {
    holds("two claimants", &two_claimants(Sabotage::None), &[0, 1]);
}

#[test]
fn probe() {
    let base = || two_claimants(Sabotage::None);
    let no = || [None, None, None, None];
    holds(
        "G",
        &Model {
            members: 2,
            joiners: 1,
            wants: [Some(block(3)), None, None, None],
            starts: 2,
            crashes: 1,
            ..base()
        },
        &[0, 2],
    );
    holds(
        "G",
        &Model {
            members: 1,
            joiners: 2,
            wants: [Some(block(3)), None, None, None],
            starts: 1,
            crashes: 1,
            ..base()
        },
        &[0, 2],
    );
    breaks(
        "G",
        &Model {
            members: 2,
            joiners: 1,
            wants: [Some(block(3)), None, None, None],
            starts: 2,
            crashes: 1,
            ..two_claimants(Sabotage::TableNotAdopted)
        },
    );
    explore("J", &Model { members: 1, joiners: 2, wants: no(), starts: 1, crashes: 1, ..base() });
    explore("3 joins", &Model { members: 1, joiners: 3, wants: no(), starts: 1, crashes: 0, ..base() });
    explore("B", &Model { crashes: 2, starts: 2, ..base() });
    explore("C", &Model { crashes: 1, starts: 2, wants: [vni(), vni(), vni(), None], ..base() });
}
#[test]
fn probe2() {
    let base = || two_claimants(Sabotage::None);
    let no = || [None, None, None, None];
    explore("J twice", &Model { members: 1, joiners: 2, wants: no(), starts: 2, crashes: 0, ..base() });
}
#[test]
fn sabotage() {
    let join = |sabotage| Model {
        members: 1,
        joiners: 2,
        wants: [vni(), None, vni(), None],
        crashes: 0,
        ..two_claimants(sabotage)
    };
    breaks("", &two_claimants(Sabotage::PromiseNotWritten));
    breaks("", &Model { starts: 2, ..two_claimants(Sabotage::WithdrawIgnoresAttempt) });
    breaks("", &two_claimants(Sabotage::WithdrawalNotWritten));
    breaks("", &join(Sabotage::TableNotAdopted));
    breaks("", &join(Sabotage::StaleViewAccepted));
    breaks(
        "",
        &Model { members: 2, wants: [vni(), vni(), None, None], ..two_claimants(Sabotage::HalfIsEnough) },
    );
}
