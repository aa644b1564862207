//! What the machine must allow for a sandbox.
use super::Error;

/// Bits of CapEff: CAP_NET_ADMIN and CAP_SYS_ADMIN (include/uapi/linux/capability.h).
const CAPABILITIES: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (21, "CAP_SYS_ADMIN")];
/// Settings that forbid user namespaces, with the value that does.
const FORBIDDING: [(&str, &str); 3] = [
    ("/proc/sys/user/max_user_namespaces", "0"),
    ("/proc/sys/kernel/unprivileged_userns_clone", "0"),
    ("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
];

/// Whether a sandbox can be made: as root, or in a user namespace.
///
/// # Errors
/// [`Error::Missing`] with the capability or the setting that is in the way.
pub fn require_root_or_userns() -> Result<(), Error> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let setting = |path: &str| std::fs::read_to_string(path).ok().map(|value| value.trim().to_owned());
    decide(&status, setting).map_err(|missing| Error::Missing { missing })
}

/// Whether we hold what a sandbox needs without a user namespace.
pub(super) fn is_privileged() -> bool {
    lacking(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()).is_empty()
}

fn decide(status: &str, setting: impl Fn(&str) -> Option<String>) -> Result<(), String> {
    let lacking = lacking(status);
    if lacking.is_empty() {
        return Ok(());
    }
    let forbids = |&&(path, value): &&(&str, &str)| setting(path).is_some_and(|now| now == value);
    let Some((path, value)) = FORBIDDING.iter().find(forbids) else { return Ok(()) };
    let lacking = lacking.join(" and ");
    Err(format!("without root ({lacking} missing) it needs user namespaces, which {path} = {value} forbids"))
}

fn lacking(status: &str) -> Vec<&'static str> {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    CAPABILITIES.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|&(_, name)| name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let nobody = "Name:\tx\nCapEff:\t0000000000000000\n";
        assert_eq!(decide("CapEff:\t000001ffffffffff", |_| Some("0".into())), Ok(()));
        assert_eq!(decide(nobody, |_| None), Ok(()));
        let refused = decide(nobody, |path| path.ends_with("max_user_namespaces").then(|| "0".to_owned()));
        let expected = "without root (CAP_NET_ADMIN and CAP_SYS_ADMIN missing) it needs user namespaces, \
                        which /proc/sys/user/max_user_namespaces = 0 forbids";
        assert_eq!(refused, Err(expected.to_owned()));
    }
}
