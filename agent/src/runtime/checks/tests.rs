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
