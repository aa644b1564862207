//! Single steps of promises, claims and removals; what orders of events can do is the explorer's part.
use std::net::IpAddr;

use super::*;
use crate::catalog::facts::{ClaimKey, Region};
use crate::model::{Name, NodeId};

const VNI: ClaimKey = ClaimKey::Vni { vni: 7 };

fn node(n: u64) -> NodeId {
    NodeId(n)
}

fn members(n: u32) -> Vec<Member> {
    (1..=n).map(|number| Member { number, node: node(number.into()) }).collect()
}

fn member(number: u32, of: u32) -> Promises {
    let mut promises = Promises::new(node(number.into()));
    promises.join(number, members(of), &[]);
    promises
}

fn view(n: u32) -> View {
    View::new(members(n), [])
}

fn block(index: u32) -> ClaimKey {
    ClaimKey::Block { network: "web".parse().unwrap(), region: Region::Endpoint, index }
}

fn address(text: &str) -> ClaimKey {
    ClaimKey::Address { network: "web".parse().unwrap(), address: text.parse().unwrap() }
}

/// 10.0.n.0/24 is block n; other networks are unknown.
fn places(network: &Name, address: IpAddr) -> Place {
    match address {
        _ if network.as_str() != "web" => Place::Unknown,
        IpAddr::V4(v4) => Place::Block(Region::Endpoint, v4.octets()[2].into()),
        IpAddr::V6(_) => Place::Open,
    }
}

fn ask(promises: &mut Promises, key: &ClaimKey, claimant: u64, attempt: u64, view: &[u32]) -> Reply {
    let request =
        Request::Promise { key: key.clone(), claimant: node(claimant), attempt, view: view.to_vec() };
    promises.handle(request, &places).0
}

fn withdraw(promises: &mut Promises, key: &ClaimKey, claimant: u64, attempt: u64) {
    let request = Request::Withdraw { key: key.clone(), claimant: node(claimant), attempt };
    promises.handle(request, &places);
}

fn promised(reply: &Reply) -> bool {
    matches!(reply, Reply::Promised { .. })
}

#[test]
fn majorities() {
    assert_eq!([1, 2, 3, 4, 5].map(majority), [1, 2, 2, 3, 3]);
    assert_eq!([2, 3, 4, 5].map(removal_majority), [1, 2, 2, 3]);
}

#[test]
fn a_key_is_promised_once() {
    let mut promises = member(1, 3);
    assert!(promised(&ask(&mut promises, &VNI, 1, 1, &[1, 2, 3])));
    assert!(promised(&ask(&mut promises, &VNI, 1, 1, &[1, 2, 3])), "asking again changes nothing");
    let Reply::Taken { holder, .. } = ask(&mut promises, &VNI, 2, 1, &[1, 2, 3]) else {
        panic!("promised twice")
    };
    assert_eq!((holder.claimant, holder.attempt), (node(1), 1));
    withdraw(&mut promises, &VNI, 1, 1);
    assert!(promised(&ask(&mut promises, &VNI, 2, 1, &[1, 2, 3])));
}

#[test]
fn only_the_exact_attempt_is_withdrawn() {
    let mut promises = member(1, 3);
    ask(&mut promises, &VNI, 1, 1, &[1, 2, 3]);
    ask(&mut promises, &VNI, 1, 2, &[1, 2, 3]);
    withdraw(&mut promises, &VNI, 1, 1);
    assert!(!promised(&ask(&mut promises, &VNI, 2, 1, &[1, 2, 3])));
    assert!(!promised(&ask(&mut promises, &VNI, 1, 1, &[1, 2, 3])), "an older attempt is over");
}

#[test]
fn promises_survive_as_changes_and_as_a_value() {
    let mut promises = Promises::new(node(1));
    let mut changes = promises.found();
    for (key, claimant) in [(VNI, 1), (ClaimKey::Node { number: 2 }, 2)] {
        let view = vec![1];
        let request = Request::Promise { key, claimant: node(claimant), attempt: 3, view };
        changes.extend(promises.handle(request, &places).1);
    }
    assert_eq!(Promises::restore(node(1), changes), promises);
    let text = serde_json::to_string(&promises).unwrap();
    assert_eq!(serde_json::from_str::<Promises>(&text).unwrap(), promises);
}

#[test]
fn a_view_must_count_everybody_known_and_nobody_removed() {
    let mut promises = member(1, 3);
    let stale = |reply| matches!(reply, Reply::StaleView { .. });
    for view in [&[1, 2][..], &[1, 2, 3, 5], &[3, 2, 1], &[1, 1, 2, 3], &[0, 1, 2, 3], &[]] {
        assert!(stale(ask(&mut promises, &VNI, 1, 1, view)), "{view:?}");
    }
    assert!(promised(&ask(&mut promises, &VNI, 1, 1, &[1, 2, 3, 4])), "others may know more");
    ask(&mut promises, &ClaimKey::Node { number: 4 }, 9, 1, &[1, 2, 3]);
    let Reply::StaleView { pending, .. } = ask(&mut promises, &VNI, 1, 2, &[1, 2, 3]) else {
        panic!("4 not counted")
    };
    assert_eq!(pending, [Member { number: 4, node: node(9) }]);
    promises.remove(Member { number: 2, node: node(2) }, &[]);
    assert!(stale(ask(&mut promises, &VNI, 1, 2, &[1, 2, 3, 4])));
    assert!(promised(&ask(&mut promises, &VNI, 1, 2, &[1, 3, 4])));
    assert_eq!(ask(&mut promises, &VNI, 2, 2, &[1, 3, 4]), Reply::Removed);
}

#[test]
fn node_numbers_are_promised_in_order_and_never_again() {
    let mut promises = member(1, 2);
    let number = |number| ClaimKey::Node { number };
    assert!(!promised(&ask(&mut promises, &number(1), 9, 1, &[])));
    assert!(!promised(&ask(&mut promises, &number(2), 9, 1, &[1])));
    assert!(!promised(&ask(&mut promises, &number(4), 9, 1, &[1, 2])));
    assert!(!promised(&ask(&mut promises, &number(u32::MAX), 9, 1, &[1, 2])));
    assert!(promised(&ask(&mut promises, &number(3), 9, 1, &[1, 2])));
    promises.remove(Member { number: 2, node: node(2) }, &[]);
    withdraw(&mut promises, &number(3), 9, 1);
    assert!(!promised(&ask(&mut promises, &number(2), 9, 2, &[1])));
    assert!(promised(&ask(&mut promises, &number(3), 9, 2, &[1])));
}

#[test]
fn who_is_no_member_or_knows_no_network_promises_nothing() {
    let mut joiner = Promises::new(node(4));
    assert!(matches!(ask(&mut joiner, &VNI, 1, 1, &[1, 2, 3]), Reply::NotReady { .. }));
    let mut promises = member(1, 3);
    let unknown = ClaimKey::Address { network: "db".parse().unwrap(), address: "10.0.9.9".parse().unwrap() };
    assert!(matches!(ask(&mut promises, &unknown, 1, 1, &[1, 2, 3]), Reply::NotReady { .. }));
}

#[test]
fn blocks_addresses_and_numbers_exclude_each_other() {
    let mut promises = member(1, 3);
    let all = [1, 2, 3];
    assert!(!promised(&ask(&mut promises, &block(3), 1, 1, &all)), "member 3 has block 3");
    assert!(promised(&ask(&mut promises, &block(3), 3, 1, &all)), "which it may ask for to no effect");
    assert!(!promised(&ask(&mut promises, &address("10.0.2.9"), 1, 1, &all)), "in member 2's block");
    assert!(promised(&ask(&mut promises, &address("10.0.9.9"), 1, 1, &all)));
    assert!(!promised(&ask(&mut promises, &block(9), 2, 1, &all)), "an address of it is taken");
    assert!(promised(&ask(&mut promises, &block(8), 2, 1, &all)));
    assert!(!promised(&ask(&mut promises, &address("10.0.8.1"), 1, 1, &all)));
}

#[test]
fn a_number_is_promised_although_its_block_is_not_whole() {
    let mut promises = member(1, 3);
    ask(&mut promises, &address("10.0.4.9"), 1, 1, &[1, 2, 3]);
    let reply = ask(&mut promises, &ClaimKey::Node { number: 4 }, 4, 1, &[1, 2, 3]);
    let Reply::Promised { table, .. } = reply else { panic!("a single address keeps a host out") };
    assert_eq!(table, [Entry { key: address("10.0.4.9"), claimant: node(1), attempt: 1 }]);
    assert!(!promised(&ask(&mut promises, &address("10.0.4.8"), 1, 2, &[1, 2, 3, 4])));
    let mut joiner = Promises::new(node(4));
    joiner.join(4, members(3), &table);
    assert_eq!(joiner.entries().collect::<Vec<_>>(), table);
}

fn claim(n: u32) -> (Claimant, Step) {
    Claimant::start(node(1), VNI, 1, view(n)).unwrap()
}

fn yes() -> Reply {
    Reply::Promised { key: VNI, attempt: 1, table: Vec::new() }
}

fn taken() -> Reply {
    Reply::Taken { key: VNI, attempt: 1, holder: Entry { key: VNI, claimant: node(2), attempt: 5 } }
}

#[test]
fn a_majority_confirms() {
    let (mut claimant, step) = claim(3);
    assert_eq!(step.send.len(), 3);
    assert!(matches!(&step.persist[..], [ClaimPersist::Put(record)] if record.state == ClaimState::Pending));
    assert_eq!(claimant.on_reply(node(1), &yes()), Step::default());
    assert_eq!(claimant.on_reply(node(1), &yes()), Step::default(), "one member counts once");
    assert_eq!(claimant.on_reply(node(9), &yes()), Step::default(), "who was not asked does not count");
    let step = claimant.on_reply(node(3), &yes());
    assert_eq!(step.outcome, Some(Outcome::Confirmed { adopted: Vec::new() }));
    assert!(
        matches!(&step.persist[..], [ClaimPersist::Put(record)] if record.state == ClaimState::Confirmed)
    );
    assert_eq!(claimant.on_deadline(), Step::default());
    assert!(claimant.finished());
}

#[test]
fn refusals_that_leave_no_majority_end_it_before_the_deadline() {
    let (mut claimant, _) = claim(3);
    claimant.on_reply(node(1), &yes());
    assert_eq!(claimant.on_reply(node(2), &taken()).outcome, None);
    let step = claimant.on_reply(node(3), &taken());
    let holder = Entry { key: VNI, claimant: node(2), attempt: 5 };
    assert_eq!(step.outcome, Some(Outcome::Lost { holder }));
    assert_eq!(step.send.len(), 3, "all are told, for a promise may be on its way");
    assert!(
        matches!(&step.persist[..], [ClaimPersist::Put(record)] if record.state == ClaimState::Withdrawing)
    );
}

#[test]
fn the_deadline_names_who_is_silent_and_a_late_promise_is_withdrawn() {
    let (mut claimant, _) = claim(3);
    claimant.on_reply(node(1), &yes());
    let step = claimant.on_deadline();
    let (refused, silent) = (Vec::new(), vec![node(2), node(3)]);
    assert_eq!(step.outcome, Some(Outcome::NoMajority { answered: 1, needed: 2, refused, silent }));
    let step = claimant.on_reply(node(3), &yes());
    assert_eq!(step.outcome, None);
    assert!(matches!(&step.send[..], [(to, Request::Withdraw { attempt: 1, .. })] if *to == node(3)));
    let gone = Reply::Withdrawn { key: VNI, attempt: 1 };
    assert_eq!(claimant.on_reply(node(1), &gone).persist, []);
    assert_eq!(claimant.on_reply(node(3), &gone).persist, []);
    assert_eq!(claimant.unanswered().len(), 1);
    assert_eq!(claimant.on_reply(node(2), &gone).persist, [ClaimPersist::Forget { key: VNI, attempt: 1 }]);
    assert!(claimant.finished());
    assert!(stray_promise(node(1), &yes(), None).is_some());
}

#[test]
fn who_answered_that_it_cannot_promise_is_not_called_silent() {
    let not_ready = || Reply::NotReady { key: VNI, attempt: 1 };
    let (mut claimant, _) = claim(3);
    claimant.on_reply(node(1), &yes());
    assert_eq!(claimant.on_reply(node(2), &not_ready()).outcome, None);
    let at_the_end = claimant.clone().on_deadline().outcome;
    let (refused, silent) = (vec![node(2)], vec![node(3)]);
    assert_eq!(at_the_end, Some(Outcome::NoMajority { answered: 1, needed: 2, refused, silent }));
    let (refused, silent) = (vec![node(2), node(3)], Vec::new());
    let at_once = claimant.on_reply(node(3), &not_ready()).outcome;
    assert_eq!(at_once, Some(Outcome::NoMajority { answered: 1, needed: 2, refused, silent }));
}

#[test]
fn a_stale_view_is_corrected_by_the_answer() {
    let (mut claimant, _) = claim(1);
    let pending = vec![Member { number: 3, node: node(9) }];
    let refusal = Reply::StaleView {
        key: Some(VNI),
        attempt: 1,
        members: members(2),
        pending: pending.clone(),
        removed: Vec::new(),
        leaving: Vec::new(),
    };
    let step = claimant.on_reply(node(1), &refusal);
    assert_eq!(step.outcome, Some(Outcome::StaleView { view: view(2), pending }));
}

#[test]
fn a_restart_finishes_or_withdraws_but_never_finishes_what_was_withdrawn() {
    let (mut claimant, _) = claim(3);
    let record = claimant.record().clone();
    let (_, step) = Claimant::resume(node(1), record.clone(), Resume::Finish);
    assert!(step.send.iter().all(|(_, request)| matches!(request, Request::Promise { attempt: 1, .. })));
    let (_, step) = Claimant::resume(node(1), record, Resume::Withdraw);
    assert!(
        matches!(&step.persist[..], [ClaimPersist::Put(record)] if record.state == ClaimState::Withdrawing)
    );
    claimant.on_deadline();
    let (mut claimant, step) = Claimant::resume(node(1), claimant.record().clone(), Resume::Finish);
    assert!(step.send.iter().all(|(_, request)| matches!(request, Request::Withdraw { .. })));
    for n in 1..=3 {
        assert_eq!(claimant.on_reply(node(n), &yes()).outcome, None);
    }
}

#[test]
fn a_claim_that_cannot_be_sound_is_not_started() {
    let start = |key, view| Claimant::start(node(1), key, 1, view).unwrap_err();
    let number = |number| ClaimKey::Node { number };
    assert_eq!(start(VNI, View::default()), StartError::NoMembers);
    assert_eq!(start(number(4), view(2)), StartError::NotNext { number: 4, next: 3 });
    let gap = View::new([members(3)[0], members(3)[2]], []);
    assert_eq!(start(number(4), gap.clone()), StartError::Gap { gap: 2 });
    assert!(Claimant::start(node(4), VNI, 1, view(3)) == Err(StartError::NotMember));
    assert!(Claimant::start(node(4), number(4), 1, View::new(gap.members(), [2])).is_ok());
}

#[test]
fn a_check_tells_a_live_attempt_from_one_that_is_over() {
    let (mut claimant, _) = claim(3);
    assert_eq!(answer_check(Some(claimant.record()), 1), Reply::Held);
    assert_eq!(answer_check(Some(claimant.record()), 2), Reply::NotHeld);
    claimant.on_deadline();
    assert_eq!(answer_check(Some(claimant.record()), 1), Reply::NotHeld);
    assert_eq!(answer_check(None, 1), Reply::NotHeld);
}

/// Runs a removal among these members and returns how it came out.
fn remove(gone: u32, of: u32, reached: &mut [&mut Promises]) -> Option<RemovalOutcome> {
    let leaving = Leaving { member: members(of)[gone as usize - 1], remover: node(1), attempt: 1 };
    let known = View::new(reached[0].members(), reached[0].removed().map(|m| m.number));
    let (mut removal, step) = Removal::start(leaving, known);
    for (to, request) in step.send {
        let Some(member) = reached.iter_mut().find(|m| m.number() == u32::try_from(to.0).ok()) else {
            continue;
        };
        let reply = member.handle(request, &places).0;
        if let Some(RemovalOutcome::Agreed { table }) = removal.on_reply(to, &reply).outcome {
            for (to, request) in removal.announcements() {
                for member in reached.iter_mut().filter(|m| m.number() == u32::try_from(to.0).ok()) {
                    member.handle(request.clone(), &places);
                }
            }
            return Some(RemovalOutcome::Agreed { table });
        }
    }
    let outcome = removal.on_deadline().outcome;
    for (to, request) in removal.retractions() {
        for member in reached.iter_mut().filter(|m| m.number() == u32::try_from(to.0).ok()) {
            member.handle(request.clone(), &places);
        }
    }
    outcome
}

#[test]
fn a_claim_outlives_the_removal_of_those_who_promised_it() {
    let [mut one, mut two, mut three] = [member(1, 5), member(2, 5), member(3, 5)];
    let [mut four, mut five] = [member(4, 5), member(5, 5)];
    for promises in [&mut one, &mut two, &mut three] {
        assert!(promised(&ask(promises, &VNI, 1, 1, &[1, 2, 3, 4, 5])));
    }
    // One is cut off and holds the key; two and three are removed one after the other by the rest.
    assert!(matches!(
        remove(2, 5, &mut [&mut three, &mut four, &mut five]),
        Some(RemovalOutcome::Agreed { .. })
    ));
    assert!(matches!(remove(3, 5, &mut [&mut four, &mut five]), Some(RemovalOutcome::Agreed { .. })));
    for promises in [&mut four, &mut five] {
        let reply = ask(promises, &VNI, 4, 1, &[1, 4, 5]);
        assert!(matches!(reply, Reply::Taken { ref holder, .. } if holder.claimant == node(1)), "{reply:?}");
    }
}

#[test]
fn a_removal_without_a_majority_leaves_nothing_frozen() {
    let [mut one, mut two] = [member(1, 5), member(2, 5)];
    let outcome = remove(5, 5, &mut [&mut one, &mut two]);
    assert!(
        matches!(outcome, Some(RemovalOutcome::NoMajority { answered: 2, needed: 3, .. })),
        "{outcome:?}"
    );
    assert!(promised(&ask(&mut one, &VNI, 1, 1, &[1, 2, 3, 4, 5])));
}

#[test]
fn who_agreed_promises_nothing_until_the_removal_is_applied() {
    let mut one = member(1, 3);
    let leaving = members(3)[2];
    let request = Request::Remove { member: leaving, remover: node(2), attempt: 1, view: vec![1, 2, 3] };
    assert!(matches!(one.handle(request, &places).0, Reply::Agreed { attempt: 1, .. }));
    for view in [&[1, 2, 3][..], &[1, 2]] {
        assert!(matches!(ask(&mut one, &VNI, 1, 1, view), Reply::StaleView { .. }));
    }
    let other = Request::Remove { member: members(3)[1], remover: node(1), attempt: 1, view: vec![1, 2, 3] };
    assert!(matches!(one.handle(other, &places).0, Reply::StaleView { .. }), "one removal at a time");
    one.handle(Request::Removed { member: leaving, table: Vec::new() }, &places);
    assert!(promised(&ask(&mut one, &VNI, 1, 1, &[1, 2])));
}

#[test]
fn a_removal_that_its_end_has_overtaken_freezes_nobody() {
    let mut promises = member(1, 3);
    let gone = Member { number: 3, node: node(3) };
    let remove = |attempt| Request::Remove { member: gone, remover: node(2), attempt, view: vec![1, 2, 3] };
    let keep = Request::Keep { member: gone, remover: node(2), attempt: 4 };
    assert_eq!(promises.handle(keep, &places).0, Reply::Kept);
    assert!(!matches!(promises.handle(remove(4), &places).0, Reply::Agreed { .. }));
    assert!(promised(&ask(&mut promises, &VNI, 1, 1, &[1, 2, 3])));
    let kept = serde_json::to_string(&promises).unwrap();
    let mut promises: Promises = serde_json::from_str(&kept).unwrap();
    assert!(!matches!(promises.handle(remove(3), &places).0, Reply::Agreed { .. }), "after a restart");
    assert!(matches!(promises.handle(remove(5), &places).0, Reply::Agreed { .. }), "a later attempt");
}

#[test]
fn what_was_taken_over_is_given_to_nobody_else() {
    let mut promises = member(1, 3);
    let takeover = |text: &str| {
        let object = crate::catalog::facts::Taken::Address(text.parse().unwrap());
        let since = crate::model::Stamp { clock: 7, node: node(3) };
        ClaimKey::Takeover { network: "web".parse().unwrap(), object, since }
    };
    assert!(promised(&ask(&mut promises, &takeover("10.0.9.1"), 2, 1, &[1, 2, 3])));
    assert!(!promised(&ask(&mut promises, &takeover("10.0.9.1"), 1, 1, &[1, 2, 3])), "by one only");
    assert!(!promised(&ask(&mut promises, &address("10.0.9.1"), 1, 2, &[1, 2, 3])));
    assert!(!promised(&ask(&mut promises, &block(9), 1, 3, &[1, 2, 3])));
    assert!(promised(&ask(&mut promises, &address("10.0.9.2"), 1, 4, &[1, 2, 3])));
}

#[test]
fn a_joiner_does_not_count_again_who_was_removed_since_it_counted() {
    let mut promises = Promises::new(node(4));
    promises.remove(Member { number: 3, node: node(3) }, &[]);
    promises.join(4, members(3), &[]);
    assert_eq!(promises.members().map(|member| member.number).collect::<Vec<_>>(), [1, 2, 4]);
}

/// Seed 26272 of the simulation: a number that a removal's table brought, and that had been withdrawn among the members, was
/// counted by a joiner for ever, so that it never joined.
#[test]
fn who_joins_adopts_no_promise_that_it_would_not_hear_withdrawn() {
    let pending = Entry { key: ClaimKey::Node { number: 4 }, claimant: node(7), attempt: 1 };
    let removed = Request::Removed { member: members(3)[1], table: vec![pending] };
    let (mut joiner, mut one) = (Promises::new(node(9)), member(1, 3));
    for (promises, adopted) in [(&mut joiner, 0), (&mut one, 1)] {
        assert_eq!(promises.handle(removed.clone(), &places).0, Reply::Applied);
        assert_eq!((promises.pending().count(), promises.removed().count()), (adopted, 1));
    }
}

mod granted;
