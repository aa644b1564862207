//! Limits of the kernel that bound what this host can carry, and settings that decide what passes.
use std::io;

use super::super::check::{Check, Verdict};
use super::check;
use crate::limits::number;
use crate::neighbours::{self, Table};

/// Share of a limit, in percent, from which on it is worth a warning.
const FULL_PERCENT: u64 = 80;
/// The kernel's default of gc_thresh3 (net/ipv4/arp.c).
const NEIGHBOURS_DEFAULT: u64 = 1024;

pub(super) fn checks() -> Vec<Check> {
    vec![
        neighbours(neighbours::read().map(|[four, _]| four)),
        conntrack(number("net/netfilter/nf_conntrack_count"), number("net/netfilter/nf_conntrack_max")),
        return_path(number("net/ipv4/conf/all/rp_filter")),
        forwarding(number("net/ipv4/ip_forward")),
    ]
}

/// One limit for all namespaces of the machine, told in each. How many of the entries are permanent nobody tells, so what is
/// judged is the limit, and whether it was ever met.
pub(super) fn neighbours(table: io::Result<Table>) -> Check {
    let table = match table {
        Ok(table) => table,
        Err(error) => {
            return check("neighbours", Verdict::Info, format!("the kernel does not tell: {error}"));
        }
    };
    let Table { limit, entries, refused } = table;
    let detail = format!(
        "net.ipv4.neigh.default.gc_thresh3 = {limit}: bounds the addresses that all containers and this host have \
         resolved at one time; {entries} entries now, permanent ones included, which do not count; {refused} were refused \
         since the machine started"
    );
    let needed_for = "many containers on one host; above it connects fail with \"neighbour table overflow\"";
    let verdict = match () {
        // Those that were refused may have been so under a lower limit, which has been raised since.
        () if limit < NEIGHBOURS_DEFAULT || refused > 0 && limit == NEIGHBOURS_DEFAULT => Verdict::Degraded,
        () if limit == NEIGHBOURS_DEFAULT => Verdict::Info,
        () => return check("neighbours", Verdict::Ok, detail),
    };
    check("neighbours", verdict, detail).needed_for(needed_for).hint(neighbours::hint("ipv4"))
}

/// The limit holds for each namespace by itself; the count is that of this host's own.
pub(super) fn conntrack(used: Option<u64>, limit: Option<u64>) -> Check {
    let (Some(used), Some(limit)) = (used, limit) else {
        return check("conntrack-limit", Verdict::Info, "this host's namespace tracks no connections yet");
    };
    let detail =
        format!("{used} of net.netfilter.nf_conntrack_max = {limit} connections in this host's namespace");
    if is_full(used, limit) {
        return check("conntrack-limit", Verdict::Degraded, detail)
            .needed_for("egress and published ports; when it is full new connections are dropped")
            .hint("sysctl -w net.netfilter.nf_conntrack_max=1048576");
    }
    check("conntrack-limit", Verdict::Ok, detail)
}

fn is_full(used: u64, limit: u64) -> bool {
    used.saturating_mul(100) >= limit.saturating_mul(FULL_PERCENT)
}

/// RFC 3704: 1 is strict, 2 loose.
pub(super) fn return_path(mode: Option<u64>) -> Check {
    let detail = match mode {
        Some(1) => {
            "net.ipv4.conf.all.rp_filter = 1 (strict): frames of other hosts are dropped if they arrive by another interface than the way back"
        }
        Some(2) => "net.ipv4.conf.all.rp_filter = 2 (loose)",
        Some(_) => "net.ipv4.conf.all.rp_filter = 0 (off)",
        None => "net.ipv4.conf.all.rp_filter cannot be read",
    };
    let verdict = if mode == Some(1) { Verdict::Info } else { Verdict::Ok };
    check("return-path-filter", verdict, detail)
}

pub(super) fn forwarding(value: Option<u64>) -> Check {
    let detail = match value {
        Some(0) => {
            "net.ipv4.ip_forward = 0: svc-agent sets it to 1 with the first network that has egress, and back at leave"
        }
        Some(_) => "net.ipv4.ip_forward = 1",
        None => "net.ipv4.ip_forward cannot be read",
    };
    let verdict = if matches!(value, Some(1..)) { Verdict::Ok } else { Verdict::Info };
    check("forwarding", verdict, detail)
}
