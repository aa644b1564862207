//! The clusters that are explored, and the broken protocols that must be noticed.
use super::host::block;
use super::model::{Model, Sabotage};
use super::{Explorer, Found, HOSTS};
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

const NOTHING: [Option<ClaimKey>; HOSTS] = [const { None }; HOSTS];

/// Three members, of which the first two want one key.
fn two_claimants(sabotage: Sabotage) -> Model {
    Model {
        members: 3,
        joiners: 0,
        wants: [vni(), vni(), None, None, None],
        removals: &[],
        cut: &[],
        patient: false,
        starts: 1,
        crashes: 1,
        releases: false,
        lean: true,
        sabotage,
    }
}

/// The founder claims a key, two hosts join, and the later of them wants that key too: with what the founder
/// counts then, it is two behind.
fn two_behind(sabotage: Sabotage) -> Model {
    let wants = [vni(), None, vni(), None, None];
    Model { members: 1, joiners: 2, wants, crashes: 0, ..two_claimants(sabotage) }
}

/// A member claims block 3 while a third host joins and gets that block with its number.
fn block_and_number(sabotage: Sabotage) -> Model {
    let wants = [Some(block(3)), None, None, None, None];
    Model { members: 2, joiners: 1, wants, starts: 2, ..two_claimants(sabotage) }
}

#[test]
fn two_claimants_with_every_reply() {
    holds(
        "two claimants, all replies",
        &Model { lean: false, crashes: 0, ..two_claimants(Sabotage::None) },
        &[0, 1],
    );
}

#[test]
fn claimants_that_try_again_and_give_back() {
    let model = Model { starts: 2, crashes: 2, releases: true, ..two_claimants(Sabotage::None) };
    holds("two claimants, twice", &model, &[0, 1]);
}

#[test]
fn three_claimants_of_one_key() {
    let model =
        Model { wants: [vni(), vni(), vni(), None, None], crashes: 3, ..two_claimants(Sabotage::None) };
    holds("three claimants", &model, &[0, 1, 2]);
}

#[test]
fn a_claim_while_two_hosts_join() {
    holds("two behind", &two_behind(Sabotage::None), &[0, 1, 2]);
}

#[test]
fn two_hosts_join_one() {
    let model = Model { members: 1, joiners: 2, wants: NOTHING, starts: 2, ..two_claimants(Sabotage::None) };
    holds("two joiners, twice", &model, &[1, 2]);
}

#[test]
fn two_hosts_join_two() {
    let model = Model { members: 2, joiners: 2, wants: NOTHING, ..two_claimants(Sabotage::None) };
    holds("two joiners of two", &model, &[2, 3]);
}

#[test]
fn a_block_is_claimed_while_its_number_joins() {
    for (starts, crashes) in [(2, 0), (1, 1)] {
        let model = Model { starts, crashes, ..block_and_number(Sabotage::None) };
        holds("block and number", &model, &[0, 2]);
    }
}

/// The claimant and the removed promise a key, and the others, who never heard of it, go on with what remains.
fn removals_of_two(sabotage: Sabotage) -> Model {
    let wants = [vni(), None, None, vni(), None];
    let cut = &[(0, 3), (0, 4), (1, 2), (1, 3), (1, 4)];
    Model {
        members: 5,
        wants,
        removals: &[(3, 1), (3, 2)],
        cut,
        patient: true,
        crashes: 0,
        ..two_claimants(sabotage)
    }
}

#[test]
fn a_member_is_removed_under_claims() {
    let model = Model { removals: &[(0, 2)], crashes: 0, ..two_claimants(Sabotage::None) };
    holds("removal", &model, &[0, 1]);
}

#[test]
fn two_members_are_removed_whose_promises_a_third_relies_on() {
    holds("two removals", &removals_of_two(Sabotage::None), &[0]);
}

#[test]
fn broken_protocols_are_noticed() {
    breaks("two claimants", &two_claimants(Sabotage::PromiseNotWritten));
    breaks("two claimants", &Model { starts: 2, ..two_claimants(Sabotage::WithdrawIgnoresAttempt) });
    breaks("two claimants", &two_claimants(Sabotage::WithdrawalNotWritten));
    breaks("two of two", &Model { members: 2, ..two_claimants(Sabotage::HalfIsEnough) });
    breaks("two behind", &two_behind(Sabotage::TableNotAdopted));
    breaks("two behind", &two_behind(Sabotage::StaleViewAccepted));
    breaks("two removals", &removals_of_two(Sabotage::RemovalWithoutTable));
    breaks("block and number", &block_and_number(Sabotage::TableNotAdopted));
}
