//! What this process may do at all: its capabilities, and whose they are.
use super::super::check::{Check, Group, Verdict};

/// Bit of CapEff, name, what it is for, and what it is without (include/uapi/linux/capability.h).
const CAPABILITIES: [(u32, &str, &str, Verdict); 4] = [
    (12, "CAP_NET_ADMIN", "links, rules and flows", Verdict::Missing),
    (21, "CAP_SYS_ADMIN", "making and entering namespaces", Verdict::Missing),
    (13, "CAP_NET_RAW", "announcing moved addresses", Verdict::Degraded),
    (19, "CAP_SYS_PTRACE", "attaching containers that run as other users", Verdict::Degraded),
];
/// PROC_USER_INIT_INO of include/linux/proc_ns.h: the first user namespace.
const FIRST_USER_NAMESPACE: &str = "user:[4026531837]";

/// Names of the capabilities that this process has not.
pub(super) fn lacking() -> Vec<&'static str> {
    lacking_in(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// `status`: the text of /proc/PID/status.
pub(super) fn lacking_in(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let lacks = CAPABILITIES.iter().filter(|(bit, ..)| effective & (1 << bit) == 0);
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
