//! The host's table: the tunnel's fence, and the host's half of egress.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netfilter::{Base, ChainKind, Comparison, Expression, Family, FieldType, HookPoint, Meta, Register};

use super::{
    ACCEPT, CARRIED, FOUR, OTHERS, RAW, SIX, SOURCE_NAT, answers, chain, dropped, of_family, rule, set,
};
use crate::name::{LINK_SIX, LINK_SIX_BITS, host_link, host_port, interface_key};
use crate::rule::{Chain, Rule, Set, Table};
use crate::{Desired, Host, Space};

const UDP: u8 = 17;
/// A VNI and the byte behind it, which is 0 in our elements and masked in packets; nft's type "integer". Of four
/// bytes because the kernel compares those in registers.
const VNI: FieldType = FieldType { code: 4, length: 4 };
/// VNIs whose tunnel receives on the host's port; there while frames come to a former one.
pub(crate) const MOVED: &str = "moved";
/// Ports that tunnels of the cluster receive on.
const TUNNEL_PORTS: &str = "tunnel-ports";
/// Hosts of a cluster, and networks on a host: ten times what they are made for. Beyond, the kernel refuses.
const PEERS_MAX: u32 = 4096;
const VNIS_MAX: u32 = 4096;

/// The host's table. What needs connection tracking is in it only where a network has egress: tracking costs each
/// packet of the host a look-up, and the tunnel's 3 % of a stream although it is exempt. `moved` are the VNIs whose tunnel
/// receives on the host's port already, not on a former one.
pub(crate) fn host_table(desired: &Desired, moved: &BTreeSet<u32>, egress: bool) -> Table {
    let host = &desired.host;
    let mut chains: BTreeMap<String, Chain> = BTreeMap::from([
        ("tunnel-in".to_owned(), chain(ChainKind::Filter, HookPoint::Prerouting, RAW, tunnel_input(host))),
        ("tunnel-out".to_owned(), chain(ChainKind::Filter, HookPoint::Output, RAW, tunnel_output())),
        // Just before the customary filter chains: a drop here is final, an accept there not ours to give.
        ("forward".to_owned(), chain(ChainKind::Filter, HookPoint::Forward, -1, host_forward(host, egress))),
    ]);
    if egress {
        let postrouting = chain(ChainKind::Nat, HookPoint::Postrouting, SOURCE_NAT, masquerade(host));
        chains.insert("postrouting".to_owned(), postrouting);
    }
    Table { family: Family::Inet, sets: host_sets(desired, moved), chains }
}

fn host_sets(desired: &Desired, moved: &BTreeSet<u32>) -> BTreeMap<&'static str, Set> {
    let peers = || desired.host.peers.iter().filter(|peer| **peer != desired.host.address);
    let four = peers().filter_map(|peer| match peer {
        IpAddr::V4(four) => Some(four.octets().to_vec()),
        IpAddr::V6(_) => None,
    });
    let six = peers().filter_map(|peer| match peer {
        IpAddr::V4(_) => None,
        IpAddr::V6(six) => Some(six.octets().to_vec()),
    });
    let vnis = desired.networks.values().map(|network| network.vni);
    let vnis = vnis.chain(desired.paths.as_ref().map(|paths| paths.vni));
    let vnis = vnis.map(vni_key);
    let links = desired.networks.values().filter(|network| !network.internal);
    let links = links.map(|network| interface_key(&host_link(network.link_index)));
    let ports = desired.networks.iter().flat_map(|(name, network)| {
        let of_host = network.attachments.iter().filter(|(_, attachment)| attachment.space == Space::Host);
        of_host.map(move |(attachment, _)| interface_key(&host_port(name, attachment)))
    });
    let host = &desired.host;
    let tunnels = host.guarded_ports.iter().chain(&host.former_ports).chain([&host.vxlan_port]);
    let tunnels = tunnels.map(|port| port.to_be_bytes().to_vec());
    let mut sets = BTreeMap::from([
        ("peers4", Set { size_max: Some(PEERS_MAX), ..set(&[FieldType::IPV4_ADDRESS], four) }),
        ("peers6", Set { size_max: Some(PEERS_MAX), ..set(&[FieldType::IPV6_ADDRESS], six) }),
        ("vnis", Set { size_max: Some(VNIS_MAX), ..set(&[VNI], vnis) }),
        ("links", set(&[FieldType::INTERFACE_NAME], links)),
        ("ports", set(&[FieldType::INTERFACE_NAME], ports)),
        (TUNNEL_PORTS, Set { size_max: Some(PEERS_MAX), ..set(&[FieldType::PORT], tunnels) }),
    ]);
    if !host.former_ports.is_empty() {
        let moved = moved.iter().copied().map(vni_key);
        sets.insert(MOVED, Set { size_max: Some(VNIS_MAX), ..set(&[VNI], moved) });
    }
    sets
}

/// A VNI as an element of a set.
pub(crate) fn vni_key(vni: u32) -> Vec<u8> {
    (vni << 8).to_be_bytes().to_vec()
}

/// Loads the port that UDP goes to.
fn load_port() -> Vec<Expression> {
    let register = Register::word(0);
    vec![
        Expression::meta(Meta::TransportProtocol, register),
        Expression::equal(register, [UDP]),
        Expression::payload(Base::Transport, 2, 2, register),
    ]
}

/// Matches UDP to a port.
fn to_port(port: u16) -> Vec<Expression> {
    [load_port(), vec![Expression::equal(Register::word(0), port.to_be_bytes())]].concat()
}

/// Matches UDP to a port that some host's tunnels receive on.
fn to_any_port() -> Vec<Expression> {
    [load_port(), vec![Expression::in_set(TUNNEL_PORTS, Register::word(0))]].concat()
}

/// The VNI: bytes 4 to 6 of the VXLAN header (RFC 7348, section 5). Does not match a datagram too short for one.
fn load_vni() -> Vec<Expression> {
    let register = Register::word(0);
    let mask = vec![0xff, 0xff, 0xff, 0];
    vec![
        Expression::payload(Base::Transport, 12, 4, register),
        Expression::Bitwise { from: register, to: register, mask, xor: vec![0; 4] },
    ]
}

/// Matches frames of our networks to a port. Other people's VXLAN on the port is not ours to judge.
fn tunnel(port: Vec<Expression>) -> Vec<Expression> {
    [port, load_vni(), vec![Expression::in_set("vnis", Register::word(0))]].concat()
}

/// What arrives for the tunnel: taken from peers, and not tracked. The tunnel's own packets are no connections:
/// tracked, each flow inside would take a place in a table that can be full, and each packet a look-up.
///
/// Judged before routing, where one chain is enough for both. Fragments have been put together by then, if
/// anything in the namespace tracks connections. Where nothing does, or somebody exempts packets from it before
/// that, they come one by one: then it is the first one, which names the port, that is judged, and one so short
/// that it hides the VNI is dropped; no datagram is put together later without its first fragment, nor of fragments
/// that overlap (net/ipv4/ip_fragment.c, net/ipv6/reassembly.c). A local sender may also hand over many datagrams as
/// one (UDP_SEGMENT), of which only the first is seen here: what comes out of it later has the priority of others'.
///
/// A port that the host itself translates to the tunnel's (an administrator's redirect) is not judged.
///
/// Of a host that receives on another port than before, peers that have not heard of it yet go on sending to the former
/// one. Once a network's tunnel has been made anew their frames are readdressed to it; until then its old one takes them.
fn tunnel_input(host: &Host) -> Vec<Rule> {
    let mut rules = tunnel_input_at(host.vxlan_port);
    for former in &host.former_ports {
        rules
            .extend(SOURCES.map(|source| rule("peer-former", readdressed(*former, host.vxlan_port, source))));
        rules.extend(tunnel_input_at(*former));
    }
    rules
}

/// Where a packet's source is, by family: offset, length, and the set of those of peers.
type Source = (u8, u32, u32, &'static str);
const SOURCES: [Source; 2] = [(FOUR, 12, 4, "peers4"), (SIX, 8, 16, "peers6")];

fn from_peer((family, offset, length, peers): Source) -> Vec<Expression> {
    let register = Register::word(0);
    let source = vec![
        Expression::payload(Base::Network, offset, length, register),
        Expression::in_set(peers, register),
    ];
    [of_family(family), source].concat()
}

fn readdressed(former: u16, now: u16, source: Source) -> Vec<Expression> {
    let register = Register::word(0);
    let moved = [to_port(former), load_vni(), vec![Expression::in_set(MOVED, register)]].concat();
    let write = vec![
        Expression::Immediate { to: register, value: now.to_be_bytes().to_vec() },
        Expression::PayloadSet { base: Base::Transport, offset: 2, length: 2, from: register, checksum: 6 },
        Expression::Untracked,
        ACCEPT,
    ];
    [moved, from_peer(source), write].concat()
}

fn tunnel_input_at(port: u16) -> Vec<Rule> {
    let port = || to_port(port);
    let [four, six] = SOURCES
        .map(|source| [tunnel(port()), from_peer(source), vec![Expression::Untracked, ACCEPT]].concat());
    vec![
        rule("peer", four),
        rule("peer", six),
        rule("tunnel-stranger", [tunnel(port()), dropped()].concat()),
        rule("other-tunnel", [port(), load_vni(), others()].concat()),
        rule("tunnel-short", [port(), of_family(FOUR), more_fragments(), dropped()].concat()),
        rule("tunnel-short", [port(), of_family(SIX), dropped()].concat()),
    ]
}

fn others() -> Vec<Expression> {
    let register = Register::word(0);
    vec![
        Expression::Immediate { to: register, value: OTHERS.to_ne_bytes().to_vec() },
        Expression::MetaSet { key: Meta::Priority, from: register },
        ACCEPT,
    ]
}

/// Matches an IPv4 fragment that others follow (RFC 791: bit 2 of byte 6).
fn more_fragments() -> Vec<Expression> {
    let register = Register::word(0);
    vec![
        Expression::payload(Base::Network, 6, 1, register),
        Expression::Bitwise { from: register, to: register, mask: vec![0x20], xor: vec![0] },
        Expression::not_equal(register, [0]),
    ]
}

/// Matches what goes to a peer's tunnel, whatever it says it carries: a process can hand over many datagrams as one
/// (UDP_SEGMENT), and rules see the first one's VNI only.
fn to_peer() -> [Vec<Expression>; 2] {
    let register = Register::word(0);
    let to = |family: u8, offset: u32, length: u32, peers: &str| {
        let peer = vec![
            Expression::payload(Base::Network, offset, length, register),
            Expression::in_set(peers, register),
        ];
        [to_any_port(), of_family(family), peer].concat()
    };
    [to(FOUR, 16, 4, "peers4"), to(SIX, 24, 16, "peers6")]
}

/// What the kernel's tunnel sends has the priority that its attachment's port gave it, and is let through at once.
/// Of the rest, what a process sends has a socket with a user; a frame of the kernel's (routed between two subnets,
/// say) has none in this namespace.
fn tunnel_output() -> Vec<Rule> {
    let register = Register::word(0);
    let carried = vec![
        Expression::meta(Meta::Priority, register),
        Expression::equal(register, CARRIED.to_ne_bytes()),
        Expression::Untracked,
        ACCEPT,
    ];
    let user = vec![
        Expression::meta(Meta::SocketUser, register),
        Expression::Compare { register, operation: Comparison::GreaterOrEqual, value: vec![0; 4] },
    ];
    let mut rules = vec![rule("carried", carried)];
    for to in [vec![tunnel(to_any_port())], to_peer().into()].concat() {
        rules.push(rule("tunnel-user", [to, user.clone(), dropped()].concat()));
    }
    rules.push(rule("tunnel-untracked", [tunnel(to_any_port()), vec![Expression::Untracked]].concat()));
    rules
}

/// What passes through the host: no frames for our tunnels (masqueraded to the host's address they would look
/// like a peer's), nothing to or from the host's own attachments, nothing between two networks, and to a network
/// only answers.
fn host_forward(host: &Host, egress: bool) -> Vec<Rule> {
    let (input, output) = (Meta::IncomingName, Meta::OutgoingName);
    let to_tunnels = [vec![tunnel(to_any_port())], to_peer().into()].concat();
    let mut rules: Vec<Rule> =
        to_tunnels.into_iter().map(|to| rule("tunnel-forwarded", [to, dropped()].concat())).collect();
    rules.push(rule("from-host-attachment", [named(input, "ports"), dropped()].concat()));
    rules.push(rule("to-host-attachment", [named(output, "ports"), dropped()].concat()));
    if egress {
        let spoofed = |pool| [named(input, "links"), pool, dropped()].concat();
        let answer = [named(output, "links"), answers(Register::word(0)), vec![ACCEPT]].concat();
        rules.extend([
            rule("between-networks", [named(input, "links"), named(output, "links"), dropped()].concat()),
            rule("link-spoofed", spoofed(of_pool(host, Comparison::NotEqual))),
            rule("link-spoofed", spoofed(of_six_pool(Comparison::NotEqual))),
            rule("egress", [named(input, "links"), vec![ACCEPT]].concat()),
            rule("answer", answer),
            rule("unsolicited", [named(output, "links"), dropped()].concat()),
        ]);
    }
    rules
}

fn masquerade(host: &Host) -> Vec<Rule> {
    let register = Register::word(0);
    let outside = vec![
        Expression::meta(Meta::OutgoingName, register),
        Expression::not_in_set("links", register),
        Expression::Masquerade,
    ];
    [of_pool(host, Comparison::Equal), of_six_pool(Comparison::Equal)]
        .map(|pool| rule("masquerade", [pool, outside.clone()].concat()))
        .into()
}

/// Matches IPv4 packets, and compares their source with the link pool.
fn of_pool(host: &Host, operation: Comparison) -> Vec<Expression> {
    let register = Register::word(0);
    let mask = host.link_pool.mask().octets().to_vec();
    let compared = vec![
        Expression::payload(Base::Network, 12, 4, register),
        Expression::Bitwise { from: register, to: register, mask, xor: vec![0; 4] },
        Expression::Compare { register, operation, value: host.link_pool.network().octets().to_vec() },
    ];
    [of_family(FOUR), compared].concat()
}

/// Matches IPv6 packets, and compares their source with the link addresses' prefix.
fn of_six_pool(operation: Comparison) -> Vec<Expression> {
    let register = Register::word(0);
    let length = u32::from(LINK_SIX_BITS / 8);
    let value: Vec<u8> = LINK_SIX.octets().into_iter().take(usize::from(LINK_SIX_BITS / 8)).collect();
    let compared = vec![
        Expression::payload(Base::Network, 8, length, register),
        Expression::Compare { register, operation, value },
    ];
    [of_family(SIX), compared].concat()
}

fn named(key: Meta, set: &str) -> Vec<Expression> {
    vec![Expression::meta(key, Register::word(0)), Expression::in_set(set, Register::word(0))]
}
