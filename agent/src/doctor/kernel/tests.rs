//! The probes against the kernel that the tests run on, with and without what they need.
use std::collections::BTreeSet;

use rustix::thread::CapabilitySet;

use super::super::check::{Check, Verdict};
use super::{PROBES, checks, privilege, raw};

/// All checks, on a thread without the given capabilities.
fn checks_without(dropped: CapabilitySet) -> Vec<Check> {
    let thread = std::thread::spawn(move || {
        let mut sets = rustix::thread::capabilities(None).unwrap();
        sets.effective -= dropped;
        rustix::thread::set_capabilities(None, sets).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(checks())
    });
    thread.join().unwrap()
}

fn named<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.name == name).unwrap()
}

fn names_of(checks: &[Check], verdict: Verdict) -> BTreeSet<&str> {
    checks.iter().filter(|check| check.verdict == verdict).map(|check| check.name.as_str()).collect()
}

/// Without root nothing can be tried; in CI that is a failure.
fn is_root(test: &str) -> bool {
    let lacking = privilege::lacking();
    assert!(lacking.is_empty() || std::env::var_os("CI").is_none(), "{test}: lacks {lacking:?}");
    if !lacking.is_empty() {
        eprintln!("skipped {test}: lacks {lacking:?}");
    }
    lacking.is_empty()
}

#[test]
fn with_all_capabilities_this_kernel_has_what_is_needed() {
    if !is_root("with_all_capabilities_this_kernel_has_what_is_needed") {
        return;
    }
    let before = (host_links(), host_tables());
    let checks = checks_without(CapabilitySet::empty());
    assert_eq!(names_of(&checks, Verdict::Missing), BTreeSet::new(), "{checks:#?}");
    assert_eq!((host_links(), host_tables()), before, "this host's own namespace is left alone");
}

fn host_links() -> String {
    std::fs::read_to_string("/proc/thread-self/net/dev")
        .unwrap()
        .lines()
        .filter_map(|line| line.split(':').next())
        .collect()
}

fn host_tables() -> usize {
    netfilter::Socket::open().unwrap().tables().unwrap().len()
}

#[test]
fn without_net_admin_every_line_that_takes_it_says_so() {
    if !is_root("without_net_admin_every_line_that_takes_it_says_so") {
        return;
    }
    let checks = checks_without(CapabilitySet::NET_ADMIN);
    let capabilities = named(&checks, "capabilities");
    assert_eq!(capabilities.verdict, Verdict::Missing);
    assert_eq!(capabilities.detail, "this process lacks CAP_NET_ADMIN");
    assert_eq!(named(&checks, "network-namespaces").verdict, Verdict::Ok);
    for name in ["veth", "bridge", "vxlan", "nftables", "nftables-nat", "conntrack"] {
        let check = named(&checks, name);
        assert_eq!(check.verdict, Verdict::Missing, "{check:?}");
        assert!(check.detail.ends_with("Operation not permitted (os error 1)"), "{check:?}");
        assert_eq!(check.hint, "run it as root, or with CAP_NET_ADMIN", "{check:?}");
    }
    assert_eq!(named(&checks, "nftables-owner").verdict, Verdict::Degraded);
}

#[test]
fn without_sys_admin_the_others_are_not_tried_and_say_where_to_look() {
    if !is_root("without_sys_admin_the_others_are_not_tried_and_say_where_to_look") {
        return;
    }
    let checks = checks_without(CapabilitySet::SYS_ADMIN);
    let first = named(&checks, "network-namespaces");
    assert_eq!(first.hint, "run it as root, or with CAP_SYS_ADMIN");
    let vxlan = named(&checks, "vxlan");
    assert_eq!(vxlan.verdict, Verdict::Missing);
    assert_eq!(vxlan.hint, "see network-namespaces");
    assert!(vxlan.detail.starts_with("not tried: cannot make a network namespace"), "{vxlan:?}");
    assert_eq!(named(&checks, "pidfd").verdict, Verdict::Ok);
}

#[test]
fn names_are_unique() {
    let names: BTreeSet<&str> = PROBES.iter().map(|probe| probe.about.name).collect();
    assert_eq!(names.len(), PROBES.len());
}

#[test]
fn a_user_namespace_is_told() {
    assert_eq!(privilege::user_namespace("user:[4026531837]").verdict, Verdict::Ok);
    let other = privilege::user_namespace("user:[4026532177]");
    assert_eq!(other.verdict, Verdict::Degraded);
    assert!(other.detail.contains("4026532177"));
}

#[test]
fn the_worst_lack_decides() {
    assert_eq!(privilege::capabilities(&[]).verdict, Verdict::Ok);
    assert_eq!(privilege::capabilities(&["CAP_NET_RAW"]).verdict, Verdict::Degraded);
    let two = privilege::capabilities(&["CAP_NET_ADMIN", "CAP_NET_RAW"]);
    assert_eq!(two.verdict, Verdict::Missing);
    assert_eq!(two.needed_for, "links, rules and flows; announcing moved addresses");
}

#[test]
fn an_acknowledgement_is_found_and_garbage_ends() {
    let message = |length: u32, kind: u16, payload: &[u8]| {
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&[0; 10]);
        bytes.extend_from_slice(payload);
        bytes
    };
    let refusal = message(20, 2, &(-2_i32).to_ne_bytes());
    assert_eq!(raw::acknowledgement(&refusal), Some(2));
    let later = [message(20, 16, &[0; 4]), message(20, 2, &[0; 4])].concat();
    assert_eq!(raw::acknowledgement(&later), Some(0));
    assert_eq!(raw::acknowledgement(&message(0, 16, &[])), None);
    assert_eq!(raw::acknowledgement(&message(u32::MAX, 16, &[0; 8])), None);
    assert_eq!(raw::acknowledgement(&refusal[..18]), None);
    assert_eq!(raw::acknowledgement(&[]), None);
}
