//! What a foreign rule is about, as far as its netlink attributes tell: the ports it names, and whether it refuses all.
use std::ops::RangeInclusive;

use netfilter::{RawExpression, Rule};
use netlink_packet_core::NlasIterator;

pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;
/// Bytes of a port.
const PORT_BYTES: usize = 2;
/// XT_MULTI_PORTS (include/uapi/linux/netfilter/xt_multiport.h).
const MULTIPORT_MAX: usize = 15;

/// The value of the first attribute of a kind; flag bits of the kind are left out.
fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    let mut rest = bytes;
    for attribute in NlasIterator::new(bytes) {
        let attribute = attribute.ok()?;
        let length = usize::from(attribute.length());
        if attribute.kind() == kind {
            return rest.get(4..length);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    None
}

/// A value within NFTA_DATA_VALUE within attribute `kind`.
fn value(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    find(find(bytes, kind)?, 1)
}

fn port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*<&[u8; PORT_BYTES]>::try_from(bytes).ok()?))
}

/// What a rule says of ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Named {
    /// TCP or UDP, if the rule is about one of them alone.
    pub(super) protocol: Option<u8>,
    /// What it compares something of two bytes with.
    pub(super) ports: Vec<RangeInclusive<u16>>,
    /// The sets it looks into.
    pub(super) sets: Vec<String>,
}

/// The ports that a rule names.
///
/// Too much rather than too little: an EtherType has two bytes as well, and a match may be inverted.
pub(super) fn named(rule: &Rule) -> Named {
    let Named { mut protocol, mut ports, mut sets } = Named::default();
    for RawExpression { name, attributes } in &rule.expressions {
        match name.as_str() {
            // NFTA_CMP_DATA.
            "cmp" => match value(attributes, 3) {
                Some(&[number @ (TCP | UDP)]) => protocol = Some(number),
                value => ports.extend(value.and_then(port).map(|port| port..=port)),
            },
            // NFTA_RANGE_FROM_DATA and NFTA_RANGE_TO_DATA.
            "range" => {
                let ends = (value(attributes, 3).and_then(port), value(attributes, 4).and_then(port));
                if let (Some(first), Some(last)) = ends {
                    ports.push(first..=last);
                }
            }
            // NFTA_LOOKUP_SET.
            "lookup" => sets.extend(find(attributes, 1).map(text)),
            "match" => ports.extend(extension_ports(attributes)),
            _ => {}
        }
    }
    Named { protocol, ports, sets }
}

/// Ports in iptables' own matches, which nf_tables carries as they are: NFTA_MATCH_NAME and NFTA_MATCH_INFO.
fn extension_ports(attributes: &[u8]) -> Vec<RangeInclusive<u16>> {
    let name = find(attributes, 1).map(text).unwrap_or_default();
    let info = find(attributes, 3).unwrap_or_default();
    let native = |offset: usize| info.get(offset..)?.first_chunk().copied().map(u16::from_ne_bytes);
    match name.as_str() {
        // struct xt_tcp and xt_udp: source ports from and to, then destination ports from and to.
        "tcp" | "udp" => match (native(4), native(6)) {
            (Some(first), Some(last)) if (first, last) != (0, u16::MAX) => vec![first..=last],
            _ => Vec::new(),
        },
        // struct xt_multiport(_v1): flags, count, ports.
        "multiport" => {
            let count = info.get(1).map_or(0, |count| usize::from(*count)).min(MULTIPORT_MAX);
            (0..count).filter_map(|index| native(2 + PORT_BYTES * index)).map(|port| port..=port).collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a rule drops or rejects whatever reaches it.
pub(super) fn refuses_all(rule: &Rule) -> bool {
    let mut refuses = false;
    for RawExpression { name, attributes } in &rule.expressions {
        match name.as_str() {
            "counter" | "log" => {}
            "reject" => refuses = true,
            // NFTA_TARGET_NAME.
            "target" if find(attributes, 1).map(text).as_deref() == Some("REJECT") => refuses = true,
            "immediate" if is_drop(attributes) => refuses = true,
            _ => return false,
        }
    }
    refuses
}

/// NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT, NFTA_VERDICT_CODE: NF_DROP is 0.
fn is_drop(attributes: &[u8]) -> bool {
    let code = find(attributes, 2).and_then(|data| find(data, 2)).and_then(|verdict| find(verdict, 1));
    code == Some(&[0; 4])
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}
