//! How many neighbours (addresses with their MACs) the machine's namespaces have resolved, and may.
//!
//! One table for each family serves all namespaces. Its limits are set in the machine's first network namespace alone,
//! and told in each (RTM_GETNEIGHTBL; the files below /proc are the first one's alone). Permanent entries, as ours are,
//! do not count (kernel 5.0 and later) and are never refused; what containers and the host resolve by themselves does.
use std::io;
use std::time::{Duration, Instant};

use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour_table::{NeighbourTableAttribute, NeighbourTableMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

/// Share of the limit, in percent, from which on it is worth a word.
const FULL_PERCENT: u64 = 80;
/// How long a finding lasts: the kernel tidies up when the table is full, so that each moment looks different.
const LASTS: Duration = Duration::from_secs(10);
/// Answers of one dump: one for each family and for each link of this namespace, some hundred bytes each.
const DATAGRAMS_MAX: usize = 4096;

/// A family's table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// gc_thresh3.
    pub limit: u64,
    /// All there are, the permanent ones too, which do not count: the kernel tells no other number.
    pub entries: u64,
    /// How often one was refused ("neighbour table overflow"), since the machine started.
    pub refused: u64,
}

/// The families, as sysctls name them.
pub const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// The tables of IPv4 and of IPv6.
///
/// # Errors
/// When the kernel does not tell.
pub fn read() -> io::Result<[Table; 2]> {
    let mut request =
        NetlinkMessage::from(RouteNetlinkMessage::GetNeighbourTable(NeighbourTableMessage::default()));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    request.finalize();
    let mut bytes = vec![0; request.buffer_len()];
    request.serialize(&mut bytes);
    let mut socket = netlink_sys::Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.send_to(&bytes, &netlink_sys::SocketAddr::new(0, 0), 0)?;
    let mut tables = [None; 2];
    for _ in 0..DATAGRAMS_MAX {
        let (answer, _) = socket.recv_from_full()?;
        if take(&answer, &mut tables)? {
            let untold = || io::Error::other("the kernel tells no limit of neighbours");
            let [four, six] = tables;
            // Without IPv6 in the kernel it has no table.
            return Ok([four.ok_or_else(untold)?, six.unwrap_or_default()]);
        }
    }
    Err(io::Error::other("the kernel's list of neighbour tables has no end"))
}

/// What one datagram tells; whether it is the last.
fn take(mut datagram: &[u8], tables: &mut [Option<Table>; 2]) -> io::Result<bool> {
    while !datagram.is_empty() {
        let message =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(datagram).map_err(io::Error::other)?;
        match message.payload {
            NetlinkPayload::Done(_) => return Ok(true),
            NetlinkPayload::Error(error) => return Err(error.to_io()),
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbourTable(told)) => {
                if let Some((place, table)) = table(&told.attributes) {
                    tables[place] = Some(table);
                }
            }
            _ => {}
        }
        let length = usize::try_from(message.header.length).unwrap_or(usize::MAX).next_multiple_of(4).max(4);
        datagram = datagram.get(length..).unwrap_or_default();
    }
    Ok(false)
}

/// A table, and whose; what is told of single links has no limit.
fn table(attributes: &[NeighbourTableAttribute]) -> Option<(usize, Table)> {
    let (mut place, mut limit, mut table) = (None, None, Table::default());
    for attribute in attributes {
        match attribute {
            NeighbourTableAttribute::Name(name) => {
                place = ["arp_cache", "ndisc_cache"].iter().position(|known| known == name);
            }
            NeighbourTableAttribute::Threshold3(most) => limit = Some(u64::from(*most)),
            NeighbourTableAttribute::Config(config) => table.entries = config.entries.into(),
            NeighbourTableAttribute::Stats(stats) => table.refused = stats.table_fulls,
            _ => {}
        }
    }
    Some((place?, Table { limit: limit?, ..table }))
}

/// What is wrong with a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// Few more will be taken.
    NearlyFull,
    /// The kernel has refused some just now.
    Refusing,
}

/// Follows a table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// As of the last look; none yet at first, as older refusals are nobody's trouble now.
    refused: Option<u64>,
    refused_at: Option<Instant>,
    full_at: Option<Instant>,
}

impl Watch {
    /// Looks again. `permanent` entries of ours are known not to count.
    pub fn look(&mut self, table: Table, permanent: u64, now: Instant) -> Option<Pressure> {
        if self.refused.is_some_and(|before| table.refused > before) {
            self.refused_at = Some(now);
        }
        self.refused = Some(table.refused);
        let counting = table.entries.saturating_sub(permanent);
        if table.limit > 0 && counting.saturating_mul(100) >= table.limit.saturating_mul(FULL_PERCENT) {
            self.full_at = Some(now);
        }
        let lasts =
            |since: Option<Instant>| since.is_some_and(|at| now.saturating_duration_since(at) < LASTS);
        match () {
            () if lasts(self.refused_at) => Some(Pressure::Refusing),
            () if lasts(self.full_at) => Some(Pressure::NearlyFull),
            () => None,
        }
    }
}

/// What is said of it: what, the limit, and how it is raised. Without a number that changes from look to look.
pub fn explain(pressure: Pressure, family: &str, limit: u64) -> String {
    let what = match pressure {
        Pressure::NearlyFull => format!("the machine's namespaces have come to resolve {FULL_PERCENT} % of"),
        Pressure::Refusing => {
            "the kernel refuses neighbours (\"neighbour table overflow\", ENOBUFS), so that what is not resolved yet \
             cannot be reached: the machine's namespaces have resolved"
                .to_owned()
        }
    };
    format!(
        "{what} the {limit} addresses that net.{family}.neigh.default.gc_thresh3 allows all together. {}",
        hint(family)
    )
}

/// How the limit is raised.
pub fn hint(family: &str) -> String {
    let set = |number: u8, value: u32| format!("net.{family}.neigh.default.gc_thresh{number}={value}");
    let all = [set(1, 16_384), set(2, 32_768), set(3, 65_536)].join(" ");
    format!("Raise it in the machine's first network namespace: sysctl -w {all}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn table(entries: u64, refused: u64) -> Table {
        Table { limit: 100, entries, refused }
    }

    #[test]
    fn p18_the_kernel_tells_its_limits_in_any_namespace() {
        let [four, six] = read().expect("tables");
        assert!(four.limit > 0 && six.limit > 0, "{four:?} {six:?}");
    }

    #[test]
    fn p18_nearly_full_is_said_before_anything_is_refused_and_not_again_and_again() {
        let now = Instant::now();
        let mut watch = Watch::default();
        assert_eq!(watch.look(table(79, 7), 0, now), None, "refusals before the first look are past");
        assert_eq!(watch.look(table(80, 7), 0, now), Some(Pressure::NearlyFull));
        assert_eq!(watch.look(table(16, 7), 0, now + 9 * SECOND), Some(Pressure::NearlyFull));
        assert_eq!(watch.look(table(16, 7), 0, now + 10 * SECOND), None);
        let later = now + 20 * SECOND;
        assert_eq!(watch.look(table(1_079, 7), 1_000, later), None, "permanent ones do not count");
    }

    #[test]
    fn p18_refusals_are_said_for_a_while_and_end_by_themselves() {
        let now = Instant::now();
        let mut watch = Watch::default();
        assert_eq!(watch.look(table(10, 0), 0, now), None);
        assert_eq!(watch.look(table(100, 1), 0, now), Some(Pressure::Refusing));
        assert_eq!(watch.look(table(10, 1), 0, now + 9 * SECOND), Some(Pressure::Refusing));
        assert_eq!(watch.look(table(10, 1), 0, now + 10 * SECOND), None, "being full is as long ago");
        let said = explain(Pressure::Refusing, "ipv4", 100);
        assert!(said.contains("the 100 addresses that net.ipv4.neigh.default.gc_thresh3 allows"), "{said}");
        assert!(said.contains("sysctl -w net.ipv4.neigh.default.gc_thresh1="), "{said}");
    }
}
