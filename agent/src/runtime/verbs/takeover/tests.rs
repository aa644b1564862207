use super::*;
use crate::catalog::Update;
use crate::catalog::facts::Value;
use crate::catalog::tests::world::{address, attachment, attachment_key, name, node, stamp};
use crate::runtime::claiming::Books;

const NETWORK: &str = "alpha";

/// What host 1 knows: attachments of other hosts, and who is suspended.
fn state(attachments: &[(u64, &str, &str, u64)], suspended: &[u64]) -> State {
    let mut catalog = Catalog::default();
    for owner in 1..=5 {
        catalog.restart(node(owner), 1);
    }
    for (owner, of, ip, clock) in attachments {
        let fact = attachment(&[ip], stamp(*clock, *owner));
        say(&mut catalog, *owner, of, fact);
    }
    let mut state = State::new(catalog, Books::new(node(1)), node(1));
    state.suspended = suspended.iter().map(|id| node(*id)).collect();
    state
}

fn say(catalog: &mut Catalog, owner: u64, of: &str, fact: Value) {
    let (delta, _) = catalog.write(node(owner), vec![(attachment_key(NETWORK, of), Some(fact))]).unwrap();
    catalog.apply_update(Update::Delta(delta));
}

fn heirs(state: &State, of: &str, ip: Option<&str>) -> Result<Vec<(u64, Taken)>, u64> {
    let found = predecessors(state, node(1), &name(NETWORK), &name(of), ip.map(address));
    found.map(|all| all.into_iter().map(|it| (it.owner.0, it.object)).collect()).map_err(|owner| owner.0)
}

fn web() -> Taken {
    Taken::Name(name("web"))
}

#[test]
fn a_live_host_keeps_its_names_and_a_suspended_one_is_succeeded() {
    let ip = "10.0.0.2";
    let live = state(&[(2, "web", ip, 5)], &[]);
    assert_eq!(heirs(&live, "web", None), Err(2));
    assert_eq!(heirs(&live, "db", Some(ip)), Ok(vec![]), "the allocator refuses it");
    let away = state(&[(2, "web", ip, 5)], &[2]);
    assert_eq!(heirs(&away, "web", None), Ok(vec![(2, web())]));
    assert_eq!(heirs(&away, "db", Some(ip)), Ok(vec![(2, Taken::Address(address(ip)))]));
    assert_eq!(heirs(&away, "db", None), Ok(vec![]));
}

fn promise(state: &mut State, key: &ClaimKey, claimant: u64, attempt: u64) -> Option<Reply> {
    let refused = refusal(state, key, node(claimant), attempt);
    if refused.is_none() {
        let entry = Entry { key: key.clone(), claimant: node(claimant), attempt };
        let books = crate::claims::Promises::restore(node(1), [crate::claims::Persist::Promise(entry)]);
        let entries: Vec<Entry> = state.books.promises.entries().chain(books.entries()).collect();
        let entries = entries.into_iter().map(crate::claims::Persist::Promise);
        state.books.promises = crate::claims::Promises::restore(node(1), entries);
    }
    refused
}

fn key(owner: u64, clock: u64) -> ClaimKey {
    ClaimKey::Takeover { network: name(NETWORK), object: web(), since: stamp(clock, owner) }
}

#[test]
fn a_member_promises_what_it_holds_to_be_suspended_to_one_heir_at_a_time() {
    let mut state = state(&[(2, "web", "10.0.0.2", 5)], &[]);
    let not_ready = |reply| matches!(reply, Some(Reply::NotReady { .. }));
    assert!(not_ready(promise(&mut state, &key(2, 5), 3, 1)), "it lives");
    state.suspended = [node(2)].into();
    assert!(not_ready(promise(&mut state, &key(2, 4), 3, 1)), "that attachment is none any more");
    assert_eq!(promise(&mut state, &key(2, 5), 3, 1), None);

    // The heir itself goes away: it is succeeded, and what it was promised is passed over.
    let Value::Attachment(fact) = attachment(&["10.0.0.3"], stamp(9, 3)) else { unreachable!() };
    let succeeds = vec![Succession { object: web(), from: stamp(5, 2), by: node(3), attempt: 1 }];
    say(&mut state.catalog, 3, "web", Value::Attachment(AttachmentFact { succeeds, ..fact }));
    state.suspended = [node(2), node(3)].into();
    assert_eq!(heirs(&state, "web", None), Ok(vec![(3, web())]), "not the first one again");
    assert!(matches!(promise(&mut state, &key(2, 5), 4, 1), Some(Reply::Taken { .. })));
    assert_eq!(promise(&mut state, &key(3, 9), 4, 1), None);
    // Who does not know of that heir, and thinks that the one before is the last, is refused.
    assert!(matches!(promise(&mut state, &key(3, 9), 5, 1), Some(Reply::Taken { .. })));
    assert!(matches!(promise(&mut state, &key(2, 5), 5, 1), Some(Reply::Taken { .. })));
}

#[test]
fn a_failed_attempt_of_the_one_that_is_succeeded_is_passed_over_and_a_later_one_is_not() {
    for (left_behind, passed) in [(5, true), (7, true), (8, false)] {
        let mut state = state(&[(2, "web", "10.0.0.2", 5)], &[2]);
        assert_eq!(promise(&mut state, &key(2, 5), 3, left_behind), None);
        // Attempt 7 was confirmed by others; of how the one kept here ended nothing was heard.
        let Value::Attachment(fact) = attachment(&["10.0.0.3"], stamp(9, 3)) else { unreachable!() };
        let succeeds = vec![Succession { object: web(), from: stamp(5, 2), by: node(3), attempt: 7 }];
        say(&mut state.catalog, 3, "web", Value::Attachment(AttachmentFact { succeeds, ..fact }));
        state.suspended = [node(2), node(3)].into();
        let reply = promise(&mut state, &key(3, 9), 4, 1);
        assert_eq!(reply.is_none(), passed, "attempt {left_behind}: {reply:?}");
    }
}

#[test]
fn a_takeover_that_members_refuse_says_who_holds_the_host_to_be_live() {
    let error = |refused: &[&str], silent: &[&str]| ClaimError::NoMajority {
        answered: 1,
        needed: 2,
        here: true,
        refused: refused.iter().map(ToString::to_string).collect(),
        silent: silent.iter().map(ToString::to_string).collect(),
    };
    let told = refusal_text(&error(&["h2"], &[]), "h1");
    assert!(told.contains("agreed: 1 of 2 members agreed, this host included; 2 are needed; "), "{told}");
    assert!(told.ends_with("; does not hold h1 to be suspended: h2; try again"), "{told}");
    let told = refusal_text(&error(&["h2"], &["h4"]), "h1");
    assert!(told.contains("suspended: h2; silent: h4; try"), "{told}");
    let told = refusal_text(&error(&[], &["h2", "h4"]), "h1");
    assert!(
        told.ends_with(": 1 of 3 members agreed, this host included; 2 are needed; silent: h2, h4"),
        "{told}"
    );
}

#[test]
fn a_fence_whose_other_side_is_away_leads_to_taking_it_back() {
    let state = state(&[], &[3]);
    let of_name = |standing| Conflict::Name {
        network: name(NETWORK),
        attachment: name("web"),
        owner: node(1),
        standing: node(standing),
    };
    let away = fence_text(&state, &of_name(3)).expect("a text");
    assert!(away.contains("attach it here again, and") && away.contains("node rm"), "{away}");
    assert!(!away.contains("detach the one on"), "{away}");
    let live = fence_text(&state, &of_name(2)).expect("a text");
    assert!(live.contains("detach the one on") && !live.contains("node rm"), "{live}");
}

#[test]
fn a_takeover_is_used_while_an_attachment_relies_on_it_or_is_being_made() {
    let mut state = state(&[], &[]);
    assert!(!is_used(&state, &key(2, 5)));
    state.books.taking.insert(key(2, 5));
    assert!(is_used(&state, &key(2, 5)));
    assert!(!is_used(&state, &ClaimKey::Vni { vni: 7 }));
}
