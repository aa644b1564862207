//! Judging and printing.
use std::io;

use super::check::{About, Lack, judge};
use super::{Check, Group, Report, Verdict};
use crate::cli::Exit;

const ABOUT: About = About {
    name: "vxlan",
    needed_for: "the tunnel",
    remedy: "load module vxlan",
    capability: Some("CAP_NET_ADMIN"),
    without: Verdict::Missing,
};

fn refused(errno: i32) -> Result<String, Lack> {
    Err(Lack::of("add a link", &io::Error::from_raw_os_error(errno)))
}

#[test]
fn the_hint_follows_from_the_reason() {
    let hint = |outcome, lacking: &[&str]| judge(&ABOUT, outcome, lacking).hint;
    assert_eq!(hint(refused(libc::EOPNOTSUPP), &[]), "load module vxlan");
    assert_eq!(hint(refused(libc::EPERM), &["CAP_NET_ADMIN"]), "run it as root, or with CAP_NET_ADMIN");
    let other = hint(refused(libc::EPERM), &["CAP_NET_RAW"]);
    assert!(other.starts_with("this process has CAP_NET_ADMIN, something else forbids it"), "{other}");
    assert_eq!(hint(refused(libc::EMFILE), &[]), "raise the limit of open files: ulimit -n");
    assert_eq!(hint(Err(Lack::because("no answer")), &[]), "load module vxlan");
    assert_eq!(hint(refused(libc::EPERM).map_err(Lack::untried), &[]), "see network-namespaces");
}

#[test]
fn what_works_has_nothing_to_do() {
    let check = judge(&ABOUT, Ok("made one".to_owned()), &[]);
    assert_eq!(check, Check::new(Group::Kernel, "vxlan", Verdict::Ok, "made one"));
}

#[test]
fn an_error_is_told_with_its_sources_once() {
    #[derive(Debug, thiserror::Error)]
    #[error("cannot make it")]
    struct Outer(#[source] io::Error);
    let lack = Lack::chain(&Outer(io::Error::from_raw_os_error(libc::EPERM)));
    assert_eq!(lack.to_string(), "cannot make it: Operation not permitted (os error 1)");
    assert_eq!(lack.errno(), Some(libc::EPERM));
}

#[test]
fn one_line_each_by_group_and_a_sum() {
    let report = Report::new(vec![
        Check::new(Group::Agent, "running", Verdict::Info, "no agent"),
        judge(&ABOUT, refused(libc::EOPNOTSUPP), &[]),
        Check::new(
            Group::Host,
            "input-filter",
            Verdict::Degraded,
            "ip filter \u{1b}[31mINPUT\nok  all  fine",
        ),
    ]);
    let expected = "\
Kernel (tried in scratch namespaces)
  missing   vxlan         add a link: Operation not supported (os error 95); for the tunnel; do: load module vxlan

This host
  degraded  input-filter  ip filter  [31mINPUT ok  all  fine

Agent
  info      running       no agent

Missing: vxlan; degraded: input-filter.
";
    assert_eq!(report.text(), expected);
    assert_eq!(report.exit(), Exit::Refused);
}

#[test]
fn only_what_is_missing_makes_it_fail() {
    let with = |verdict| Report::new(vec![Check::new(Group::Kernel, "esp", verdict, "")]).exit();
    assert_eq!(with(Verdict::Ok), Exit::Done);
    assert_eq!(with(Verdict::Info), Exit::Done);
    assert_eq!(with(Verdict::Degraded), Exit::Done);
    assert_eq!(with(Verdict::Missing), Exit::Refused);
}

#[test]
fn json_has_every_field() {
    let report = Report::new(vec![judge(&ABOUT, refused(libc::EOPNOTSUPP), &[])]);
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!(json["checks"][0]["group"], "kernel");
    assert_eq!(json["checks"][0]["verdict"], "missing");
    assert_eq!(json["checks"][0]["needed_for"], "the tunnel");
    assert_eq!(json["checks"][0]["hint"], "load module vxlan");
}
