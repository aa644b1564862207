//! The fence of a network's ports, and the way past the bridge.
//!
//! ```text
//! port-<name>, where an attachment's frames arrive:
//!   IPv4, IPv6 from its MAC and one of its addresses   goto onward
//!   ARP, neighbour discovery for one of its addresses  accept      # on to the bridge
//!   else                                               goto spoofed
//! onward:
//!   destination MAC in @local                          forward to that port
//!   multicast, broadcast, the gateway's MAC            accept      # on to the bridge
//!   else                                               forward to the tunnel
//! port-vxlan, where frames of other hosts arrive:
//!   not judged by the host's table as ours             goto spoofed
//! ```
//!
//! Each device has a chain of its own, so that an attachment is judged by constants. What is sent on from here saves
//! the bridge's work: fenced in the bridge's own hooks a stream took 4 % longer than unfenced, fenced here it takes no
//! longer. The ways must be whole before there is one to the tunnel: a frame to a local MAC without one would go out
//! there and be lost. So that is written last. Frames of other hosts are left to the bridge: of a network card that
//! sums whole packets (CHECKSUM_COMPLETE) `fwd` would leave a wrong sum (net/netfilter/nf_dup_netdev.c pushes the
//! Ethernet header without adding it).
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use netfilter::{Base, Expression, Family, FieldType, Meta, Register, Verdict};

use super::{ACCEPT, CARRIED, OTHERS, dropped, rule};
use crate::name::{VXLAN, link_local};
use crate::rule::{Chain, Entry, Rule, Set, Table};
use crate::{Attachment, Mac};

/// What the names of chains tied to a device begin with.
const PORT_CHAIN_PREFIX: &str = "port-";
/// The map of local attachments' MACs to their ports.
pub(crate) const LOCAL_WAYS: &str = "local";
/// The map that holds the VXLAN device, under the MAC that floods.
pub(crate) const TUNNEL_WAY: &str = "tunnel";
const ONWARD: &str = "onward";
const SPOOFED: &str = "spoofed";

const FOUR: u16 = 0x0800;
const ARP: u16 = 0x0806;
const SIX: u16 = 0x86dd;
const ICMP_SIX: u8 = 58;
/// Neighbour discovery (RFC 4861): router advertisement, neighbour advertisement, redirect.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

/// Holds what is compared; six bytes at most, but for IPv6 addresses.
const KEY: Register = Register::word(0);
/// Holds what was found.
const FOUND: Register = Register::word(4);

/// Name of the chain of a port.
pub(crate) fn port_chain_name(port: &str) -> String {
    format!("{PORT_CHAIN_PREFIX}{port}")
}

/// The device that a chain is tied to, if it is.
pub(crate) fn port_of_chain(name: &str) -> Option<&str> {
    name.strip_prefix(PORT_CHAIN_PREFIX)
}

/// The table with the chains of `ports`; those of others are added with them. `bridge` is the bridge's MAC.
pub(crate) fn port_table(bridge: Mac, ports: impl IntoIterator<Item = (String, Chain)>) -> Table {
    let jump = |rules| Chain { entry: Entry::Jump, rules };
    let mut chains = BTreeMap::from([
        (ONWARD.to_owned(), jump(onward(bridge))),
        (SPOOFED.to_owned(), jump(vec![rule(SPOOFED, dropped())])),
    ]);
    chains.extend(ports.into_iter().map(|(port, chain)| (port_chain_name(&port), chain)));
    Table {
        family: Family::Netdev,
        sets: BTreeMap::from([(LOCAL_WAYS, ways()), (TUNNEL_WAY, ways())]),
        chains,
    }
}

/// MAC to the index of a link.
fn ways() -> Set {
    let data = Some(FieldType::INTERFACE_INDEX);
    Set { key: &[FieldType::MAC_ADDRESS], data, size_max: None, elements: BTreeSet::new() }
}

fn onward(bridge: Mac) -> Vec<Rule> {
    let register = KEY;
    let many = vec![
        Expression::payload(Base::Link, 0, 1, register),
        // The group bit of a MAC (IEEE 802).
        Expression::Bitwise { from: register, to: register, mask: vec![1], xor: vec![0] },
        Expression::not_equal(register, [0]),
        ACCEPT,
    ];
    let gateway =
        vec![Expression::payload(Base::Link, 0, 6, register), Expression::equal(register, bridge.0), ACCEPT];
    let tunnel = vec![
        Expression::Immediate { to: register, value: vec![0; 6] },
        Expression::map(TUNNEL_WAY, register, FOUND),
        Expression::Forward { device: FOUND },
    ];
    let local = vec![
        Expression::payload(Base::Link, 0, 6, register),
        Expression::map(LOCAL_WAYS, register, FOUND),
        Expression::Forward { device: FOUND },
    ];
    vec![rule("local", local), rule("many", many), rule("gateway", gateway), rule("tunnel", tunnel)]
}

/// The chain of the VXLAN device: the host's table has judged what comes out of it, or it was hidden from it.
pub(crate) fn tunnel_chain() -> Chain {
    let hidden = vec![
        Expression::meta(Meta::Priority, KEY),
        Expression::equal(KEY, OTHERS.to_ne_bytes()),
        Expression::Verdict(Verdict::goto(SPOOFED)),
    ];
    Chain { entry: Entry::Device(VXLAN.to_owned()), rules: vec![rule("hidden", hidden)] }
}

/// The chain of a port that nothing is attached to any more: nothing passes.
pub(crate) fn closed_chain(port: &str) -> Chain {
    Chain { entry: Entry::Device(port.to_owned()), rules: vec![rule(SPOOFED, spoofed())] }
}

/// The chain of an attachment's port: what it may send as. What is neither IP nor ARP is dropped.
pub(crate) fn port_chain(port: &str, attachment: &Attachment) -> Chain {
    let mac = attachment.mac;
    let (mut four, mut six) = (Vec::new(), vec![link_local(mac)]);
    for address in &attachment.addresses {
        match address.ip() {
            IpAddr::V4(address) => four.push(address),
            IpAddr::V6(address) => six.push(address),
        }
    }
    let mut rules = Vec::new();
    for address in &four {
        let from = [frame(mac, FOUR), holds(Base::Network, 12, &address.octets())].concat();
        rules.push(rule("ipv4", [from, carried(), goto_onward()].concat()));
    }
    for address in &four {
        // RFC 826: the sender's MAC is at byte 8 of the ARP packet, its address at 14. The frame's own source must
        // be right as well as what the packet says.
        let says = [holds(Base::Network, 14, &address.octets()), holds(Base::Network, 8, &mac.0)].concat();
        rules.push(rule("arp", [frame(mac, ARP), says, carried(), vec![ACCEPT]].concat()));
    }
    rules.extend(six_rules(mac, &six));
    rules.push(rule(SPOOFED, spoofed()));
    Chain { entry: Entry::Device(port.to_owned()), rules }
}

fn six_rules(mac: Mac, own: &[Ipv6Addr]) -> Vec<Rule> {
    let discovery = |kind: u8| {
        let protocol = [Expression::meta(Meta::TransportProtocol, KEY), Expression::equal(KEY, [ICMP_SIX])];
        [frame(mac, SIX), protocol.to_vec(), holds(Base::Transport, 0, &[kind])].concat()
    };
    let from = |address: &Ipv6Addr| holds(Base::Network, 8, &address.octets());
    let mut rules: Vec<Rule> = [ROUTER_ADVERTISEMENT, REDIRECT]
        .map(|kind| rule("forged", [discovery(kind), spoofed()].concat()))
        .into();
    for target in own {
        for source in own {
            let says = [from(source), holds(Base::Transport, 8, &target.octets()), carried()].concat();
            let advertised = [discovery(NEIGHBOUR_ADVERTISEMENT), says, vec![ACCEPT]].concat();
            rules.push(rule("advertised", advertised));
        }
    }
    rules.push(rule("forged", [discovery(NEIGHBOUR_ADVERTISEMENT), spoofed()].concat()));
    let data = |own| rule("ipv6", [frame(mac, SIX), from(own), carried(), goto_onward()].concat());
    rules.extend(own.iter().map(data));
    // What every IPv6 host says before it has an address (RFC 4862) is no lie, and not needed: not counted.
    let unspecified = [from(&Ipv6Addr::UNSPECIFIED), vec![Expression::Verdict(Verdict::Drop)]].concat();
    rules.push(rule("unspecified", [frame(mac, SIX), unspecified].concat()));
    rules
}

/// Matches frames of an EtherType from a MAC.
fn frame(mac: Mac, ethertype: u16) -> Vec<Expression> {
    let protocol = [Expression::meta(Meta::Protocol, KEY), Expression::equal(KEY, ethertype.to_be_bytes())];
    [protocol.to_vec(), holds(Base::Link, 6, &mac.0)].concat()
}

/// Matches bytes of the frame.
fn holds(base: Base, offset: u32, bytes: &[u8]) -> Vec<Expression> {
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    vec![Expression::payload(base, offset, length, KEY), Expression::equal(KEY, bytes)]
}

/// Marks a frame that may be carried.
fn carried() -> Vec<Expression> {
    vec![
        Expression::Immediate { to: KEY, value: CARRIED.to_ne_bytes().to_vec() },
        Expression::MetaSet { key: Meta::Priority, from: KEY },
    ]
}

fn goto_onward() -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::goto(ONWARD))]
}

fn spoofed() -> Vec<Expression> {
    vec![Expression::Verdict(Verdict::goto(SPOOFED))]
}
