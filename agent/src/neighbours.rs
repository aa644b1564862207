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

/// How long a refusal is told of: where one was refused, others are soon.
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

/// Follows a table, and tells when the kernel refuses. That it nearly does cannot be told for sure, as the permanent entries
/// of others are among what is counted: that is for a gauge and a warning.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watch {
    /// As of the last look; none yet at first, as older refusals are nobody's trouble now.
    refused: Option<u64>,
    refused_at: Option<Instant>,
}

impl Watch {
    /// Looks again; whether neighbours were refused just now.
    pub fn look(&mut self, table: Table, now: Instant) -> bool {
        if self.refused.is_some_and(|before| table.refused > before) {
            self.refused_at = Some(now);
        }
        self.refused = Some(table.refused);
        self.refused_at.is_some_and(|at| now.saturating_duration_since(at) < LASTS)
    }
}

/// What is said of it: what, the limit, and how it is raised. Without a number that changes from look to look.
pub fn explain(family: &str, limit: u64) -> String {
    format!(
        "the kernel refuses neighbours (\"neighbour table overflow\", ENOBUFS), so that what is not resolved yet cannot be \
         reached: the machine's namespaces have resolved the {limit} addresses that net.{family}.neigh.default.gc_thresh3 \
         allows all together. {}",
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

    #[test]
    fn p18_the_kernel_tells_its_limits_in_any_namespace() {
        let [four, six] = read().expect("tables");
        assert!(four.limit > 0 && six.limit > 0, "{four:?} {six:?}");
    }

    #[test]
    fn p18_refusals_are_told_for_a_while_and_end_by_themselves() {
        let now = Instant::now();
        let table = |refused| Table { limit: 100, entries: 100, refused };
        let mut watch = Watch::default();
        assert!(!watch.look(table(7), now), "refusals before the first look are past");
        assert!(!watch.look(table(7), now), "as many as there may be is no refusal");
        assert!(watch.look(table(8), now));
        assert!(watch.look(table(8), now + 9 * SECOND));
        assert!(!watch.look(table(8), now + 10 * SECOND));
        let said = explain("ipv4", 100);
        assert!(said.contains("the 100 addresses that net.ipv4.neigh.default.gc_thresh3 allows"), "{said}");
        assert!(said.contains("sysctl -w net.ipv4.neigh.default.gc_thresh1="), "{said}");
    }
}
