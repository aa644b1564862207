use super::*;

fn refused() -> Outcome {
    Outcome::Refused("refused".into())
}

#[test]
fn serving_after_the_first_success() {
    let mut judge = Judge::new(2);
    assert_eq!(judge.judge(&refused()), Health::Starting);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Starting);
    assert_eq!(judge.judge(&Outcome::Passed), Health::Serving);
}

#[test]
fn a_refused_connect_fails_at_once() {
    let mut judge = Judge::new(2);
    judge.judge(&Outcome::Passed);
    assert_eq!(judge.judge(&refused()), Health::Failing);
    assert_eq!(judge.judge(&Outcome::Passed), Health::Serving);
}

#[test]
fn time_outs_fail_after_two_in_a_row() {
    let mut judge = Judge::new(2);
    judge.judge(&Outcome::Passed);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Serving);
    assert_eq!(judge.judge(&Outcome::Passed), Health::Serving);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Serving);
    assert_eq!(judge.judge(&Outcome::TimedOut), Health::Failing);
}
