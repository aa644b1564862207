//! Limits that the system sets: a process, and all namespaces of a machine.
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The kernel's own default of open files (include/asm-generic/resource.h), should it say none.
const FILES_DEFAULT: u64 = 1024;

/// Lets this process have at least so many files open, or as many as the system lets it. Returns how many.
pub fn raise_file_limit(wanted: u64) -> u64 {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum.map(|most| most.max(wanted)) };
        if setrlimit(Resource::Nofile, raised).is_err() {
            // A higher maximum needs CAP_SYS_RESOURCE; up to the present one anybody may go.
            let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
        }
    }
    getrlimit(Resource::Nofile).current.unwrap_or(FILES_DEFAULT.max(wanted))
}

/// A number below /proc/sys, as this namespace shows it.
pub fn number(key: &str) -> Option<u64> {
    std::fs::read_to_string(format!("/proc/sys/{key}")).ok()?.trim().parse().ok()
}

/// The machine's neighbour entries, permanent ones included: `arp_cache` for IPv4, `ndisc_cache` for IPv6. Only the
/// machine's first network namespace shows them.
pub fn neighbours(cache: &str) -> Option<u64> {
    entries_in(&std::fs::read_to_string(format!("/proc/net/stat/{cache}")).ok()?)
}

/// How often a neighbour entry was refused because there were too many, since the machine started.
pub fn neighbours_refused(cache: &str) -> Option<u64> {
    refused_in(&std::fs::read_to_string(format!("/proc/net/stat/{cache}")).ok()?)
}

/// The sum of a column that has a row for each processor.
pub(crate) fn refused_in(text: &str) -> Option<u64> {
    let mut lines = text.lines();
    let column = lines.next()?.split_whitespace().position(|name| name == "table_fulls")?;
    let cell = |line: &str| u64::from_str_radix(line.split_whitespace().nth(column)?, 16).ok();
    lines.map(cell).sum()
}

/// First column, hexadecimal, of the first row.
pub(crate) fn entries_in(text: &str) -> Option<u64> {
    u64::from_str_radix(text.lines().nth(1)?.split_whitespace().next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_summed_over_processors() {
        let text =
            "entries  allocs   table_fulls\n00000003  00000000 0000000a\n00000003  00000000 00000001\n";
        assert_eq!((refused_in(text), entries_in(text)), (Some(11), Some(3)));
        assert_eq!(refused_in("entries\n00000001\n"), None);
    }
}
