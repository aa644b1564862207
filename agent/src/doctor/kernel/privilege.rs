//! What this process may do at all: its capabilities, and whose they are.
use rustix::thread::CapabilitySet;

use super::super::check::{Check, Group, Verdict};

/// What is used, its name, what it is for, and how bad it is to lack it.
const CAPABILITIES: [(CapabilitySet, &str, &str, Verdict); 4] = [
    (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN", "links, rules and flows", Verdict::Missing),
    (CapabilitySet::SYS_ADMIN, "CAP_SYS_ADMIN", "making and entering namespaces", Verdict::Missing),
    (CapabilitySet::NET_RAW, "CAP_NET_RAW", "announcing moved addresses", Verdict::Degraded),
    (
        CapabilitySet::SYS_PTRACE,
        "CAP_SYS_PTRACE",
        "attaching containers that run as other users",
        Verdict::Degraded,
    ),
];
/// PROC_USER_INIT_INO of include/linux/proc_ns.h: the first user namespace.
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// Names of the capabilities that the calling thread has not.
pub(super) fn lacking() -> Vec<&'static str> {
    // capget(2) of oneself does not fail, but for a seccomp filter; then nothing is known to be had.
    let effective = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    let lacks = CAPABILITIES.iter().filter(|(capability, ..)| !effective.contains(*capability));
    lacks.map(|&(_, name, ..)| name).collect()
}

/// The capabilities, and the user namespace that they hold in.
pub(super) fn checks(lacking: &[&'static str]) -> Vec<Check> {
    let link = std::fs::read_link("/proc/self/ns/user").unwrap_or_default();
    vec![capabilities(lacking), user_namespace(&link.to_string_lossy())]
}

pub(super) fn capabilities(lacking: &[&'static str]) -> Check {
    let found: Vec<_> = CAPABILITIES.iter().filter(|(_, name, ..)| lacking.contains(name)).collect();
    let check = |verdict, detail| Check::new(Group::Kernel, "capabilities", verdict, detail);
    let Some(worst) = found.iter().map(|(.., verdict)| *verdict).max() else {
        return check(Verdict::Ok, CAPABILITIES.map(|(_, name, ..)| name).join(", "));
    };
    let needed: Vec<&str> = found.iter().map(|(_, _, what, _)| *what).collect();
    check(worst, format!("this process lacks {}", lacking.join(", ")))
        .needed_for(&needed.join("; "))
        .hint(format!("run it as root, or with {}", lacking.join(", ")))
}

pub(super) fn user_namespace(link: &str) -> Check {
    let check = |verdict, detail| Check::new(Group::Kernel, "user-namespace", verdict, detail);
    if link == FIRST_USER_NAMESPACE {
        return check(Verdict::Ok, "the first one".to_owned());
    }
    check(Verdict::Degraded, format!("this process runs in a user namespace of its own ({link})"))
        .needed_for(
            "attaching containers that were made outside of it, and netlink batches above net.core.wmem_max",
        )
        .hint("run svc-agent outside of it, as the machine's root")
}
