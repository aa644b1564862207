use super::*;

fn refused() -> Outcome {
    Outcome::Refused("refused".into())
}

#[test]
fn serving_after_the_first_success() {
    let mut judge = Judge::new(Health::Starting, 2);
    assert_eq!(judge.judge(&refused()), Health::Starting);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Starting);
    assert_eq!(judge.judge(&Outcome::Passed), Health::Serving);
}

#[test]
fn a_refused_connect_fails_at_once() {
    let mut judge = Judge::new(Health::Starting, 2);
    judge.judge(&Outcome::Passed);
    assert_eq!(judge.judge(&refused()), Health::Failing);
    assert_eq!(judge.judge(&Outcome::Passed), Health::Serving);
}

#[test]
fn time_outs_fail_after_two_in_a_row() {
    let mut judge = Judge::new(Health::Starting, 2);
    judge.judge(&Outcome::Passed);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Serving);
    assert_eq!(judge.judge(&Outcome::Passed), Health::Serving);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Serving);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Failing);
}

#[test]
fn a_replica_that_died_while_nobody_looked_fails() {
    let mut judge = Judge::new(Health::Serving, 2);
    assert_eq!(judge.health(), Health::Serving);
    assert_eq!(judge.judge(&refused()), Health::Failing);

    let mut judge = Judge::new(Health::Serving, 2);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Serving);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Failing);
}

#[test]
fn a_drained_replica_is_not_taken_to_serve_until_a_check_passes() {
    let mut judge = Judge::new(Health::Draining, 2);
    assert_eq!(judge.health(), Health::Failing);
    assert_eq!(judge.judge(&refused()), Health::Failing);
    assert_eq!(judge.judge(&Outcome::Passed), Health::Serving);
}

#[test]
fn the_first_that_a_check_finds_is_told_unless_it_says_nothing_yet() {
    use Health::{Failing, Serving, Starting};
    let first = |began, health, outcome: &Outcome| is_news(None, began, health, outcome, "why");
    assert!(first(Serving, Serving, &Outcome::Passed));
    assert!(!first(Serving, Serving, &Outcome::TimedOut), "one time-out is none");
    assert!(first(Serving, Failing, &refused()));
    assert!(first(Failing, Failing, &refused()) && first(Starting, Starting, &Outcome::TimedOut));
}

#[test]
fn after_that_changes_are_told_and_other_reasons_not_to_serve() {
    use Health::{Failing, Serving};
    let told = |health, reason: &str| Some((health, reason.to_owned()));
    let next = |told: Option<(Health, String)>, health, outcome: &Outcome, reason| {
        is_news(told.as_ref(), Serving, health, outcome, reason)
    };
    assert!(!next(told(Serving, "passed"), Serving, &Outcome::TimedOut, "late"));
    assert!(next(told(Serving, "passed"), Failing, &refused(), "refused"));
    assert!(!next(told(Failing, "refused"), Failing, &refused(), "refused"));
    assert!(next(told(Failing, "refused"), Failing, &refused(), "it answered 503"));
}
