//! The tables that the overlay wants: who may send what, and how egress is translated.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use netfilter::{
    Base, ChainKind, Comparison, Conntrack, Expression, Family, FieldType, Hook, HookPoint, Meta, Nat,
    Register, Verdict,
};

use crate::name::{
    BRIDGE, LINK, VXLAN, host_link, host_port, interface_key, link_addresses, link_local, network_port,
};
use crate::rule::{Chain, Rule, Set, Table};
use crate::{Attachment, Desired, Host, Mac, Network, Space};

/// include/uapi/linux/netfilter.h: NFPROTO_IPV4, NFPROTO_IPV6.
const FOUR: u8 = 2;
const SIX: u8 = 10;
const UDP: u8 = 17;
const ICMP_SIX: u8 = 58;
/// Neighbour discovery (RFC 4861): router advertisement, neighbour advertisement, redirect.
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;
/// Before connection tracking, after its defragmentation (-400), so that no fragment hides a VNI.
const RAW: i32 = -300;
/// Source NAT's customary priority.
const SOURCE_NAT: i32 = 100;
/// ct state: established (2) and related (4).
const ANSWERS: u32 = 6;

/// Priority of what a network sends into its tunnel. A process needs CAP_NET_RAW to choose one above 6
/// (SO_PRIORITY), and could forge with a packet socket then. It survives encapsulation, which a mark does not; its
/// lower half is 0, so that queues treat it as best effort.
const CARRIED: u32 = 0x5ca6_0000;
/// A VNI as it stands in the VXLAN header; nft's type "integer".
const VNI: FieldType = FieldType { code: 4, length: 3 };
const SENDER_FOUR: &[FieldType] =
    &[FieldType::INTERFACE_NAME, FieldType::MAC_ADDRESS, FieldType::IPV4_ADDRESS];
const SENDER_SIX: &[FieldType] =
    &[FieldType::INTERFACE_NAME, FieldType::MAC_ADDRESS, FieldType::IPV6_ADDRESS];

/// The host's table: the tunnel's fence, and the host's half of egress.
pub(crate) fn host_table(desired: &Desired) -> Table {
    let host = &desired.host;
    Table {
        family: Family::Inet,
        sets: host_sets(desired),
        chains: BTreeMap::from([
            ("tunnel-in", chain(ChainKind::Filter, HookPoint::Input, RAW, tunnel_input(host))),
            ("tunnel-out", chain(ChainKind::Filter, HookPoint::Output, RAW, tunnel_output(host))),
            ("tunnel-untracked", chain(ChainKind::Filter, HookPoint::Prerouting, RAW, vec![untracked(host)])),
            // Just before the customary filter chains: a drop here is final, an accept there not ours to give.
            ("forward", chain(ChainKind::Filter, HookPoint::Forward, -1, host_forward(host))),
            ("postrouting", chain(ChainKind::Nat, HookPoint::Postrouting, SOURCE_NAT, masquerade(host))),
        ]),
    }
}

fn host_sets(desired: &Desired) -> BTreeMap<&'static str, Set> {
    let peers = || desired.host.peers.iter().filter(|peer| **peer != desired.host.address);
    let four = peers().filter_map(|peer| match peer {
        IpAddr::V4(four) => Some(four.octets().to_vec()),
        IpAddr::V6(_) => None,
    });
    let six = peers().filter_map(|peer| match peer {
        IpAddr::V4(_) => None,
        IpAddr::V6(six) => Some(six.octets().to_vec()),
    });
    let vnis = desired.networks.values().map(|network| network.vni.to_be_bytes()[1..].to_vec());
    let links = desired.networks.values().filter(|network| !network.internal);
    let links = links.map(|network| interface_key(&host_link(network.link_index)));
    let ports = desired.networks.iter().flat_map(|(name, network)| {
        let of_host = network.attachments.iter().filter(|(_, attachment)| attachment.space == Space::Host);
        of_host.map(move |(attachment, _)| interface_key(&host_port(name, attachment)))
    });
    BTreeMap::from([
        ("peers4", set(&[FieldType::IPV4_ADDRESS], four)),
        ("peers6", set(&[FieldType::IPV6_ADDRESS], six)),
        ("vnis", set(&[VNI], vnis)),
        ("links", set(&[FieldType::INTERFACE_NAME], links)),
        ("ports", set(&[FieldType::INTERFACE_NAME], ports)),
    ])
}

/// Matches frames of our networks: UDP to the port, with one of our VNIs at bytes 4 to 6 of the VXLAN header
/// (RFC 7348, section 5). Other people's VXLAN on the port is not ours to judge.
fn tunnel(host: &Host) -> Vec<Expression> {
    let register = Register::word(0);
    vec![
        Expression::meta(Meta::TransportProtocol, register),
        Expression::equal(register, [UDP]),
        Expression::payload(Base::Transport, 2, 2, register),
        Expression::equal(register, host.vxlan_port.to_be_bytes()),
        Expression::payload(Base::Transport, 12, 3, register),
        Expression::in_set("vnis", register),
    ]
}

/// In the input hook and not before: there the kernel has put fragments together whoever else is loaded.
fn tunnel_input(host: &Host) -> Vec<Rule> {
    let register = Register::word(0);
    let from = |family: u8, offset: u32, length: u32, peers: &str| {
        let mut rule = tunnel(host);
        rule.extend(of_family(family));
        rule.push(Expression::payload(Base::Network, offset, length, register));
        rule.push(Expression::in_set(peers, register));
        rule.push(ACCEPT);
        rule
    };
    vec![
        rule("peer", from(FOUR, 12, 4, "peers4")),
        rule("peer", from(SIX, 8, 16, "peers6")),
        rule("tunnel-stranger", [tunnel(host), dropped()].concat()),
    ]
}

/// A frame that a process sends has a socket with a user. One of the kernel's tunnel has none in this namespace,
/// or that of the process whose packet it carries (the host's own attachments; kernel 4.20 and later keep it):
/// then it has the priority that the network's namespace gave it.
fn tunnel_output(host: &Host) -> Vec<Rule> {
    let user = vec![
        Expression::meta(Meta::Priority, Register::word(0)),
        Expression::not_equal(Register::word(0), CARRIED.to_ne_bytes()),
        Expression::meta(Meta::SocketUser, Register::word(0)),
        Expression::Compare {
            register: Register::word(0),
            operation: Comparison::GreaterOrEqual,
            value: vec![0; 4],
        },
    ];
    vec![rule("tunnel-user", [tunnel(host), user, dropped()].concat()), untracked(host)]
}

/// The tunnel's own packets are no connections: tracked, each flow inside would take a place in a table that can be
/// full, and each packet a look-up.
fn untracked(host: &Host) -> Rule {
    rule("tunnel-untracked", [tunnel(host), vec![Expression::Untracked]].concat())
}

/// What passes through the host: no frames for our tunnels (masqueraded to the host's address they would look
/// like a peer's), nothing to or from the host's own attachments, nothing between two networks, and to a network
/// only answers.
fn host_forward(host: &Host) -> Vec<Rule> {
    let (input, output) = (Meta::IncomingName, Meta::OutgoingName);
    let register = Register::word(0);
    let spoofed = [of_family(FOUR), of_pool(host, Comparison::NotEqual), dropped()].concat();
    vec![
        rule("tunnel-forwarded", [tunnel(host), dropped()].concat()),
        rule("from-host-attachment", [named(input, "ports"), dropped()].concat()),
        rule("to-host-attachment", [named(output, "ports"), dropped()].concat()),
        rule("between-networks", [named(input, "links"), named(output, "links"), dropped()].concat()),
        rule("link-spoofed", [named(input, "links"), spoofed].concat()),
        rule("egress", [named(input, "links"), vec![ACCEPT]].concat()),
        rule("answer", [named(output, "links"), answers(register), vec![ACCEPT]].concat()),
        rule("unsolicited", [named(output, "links"), dropped()].concat()),
    ]
}

fn masquerade(host: &Host) -> Vec<Rule> {
    let register = Register::word(0);
    let outside = vec![
        Expression::meta(Meta::OutgoingName, register),
        Expression::not_in_set("links", register),
        Expression::Masquerade,
    ];
    vec![rule("masquerade", [of_family(FOUR), of_pool(host, Comparison::Equal), outside].concat())]
}

/// The table of a network's namespace that routes: new flows only from the bridge, translated to the link's
/// address. An internal network forwards nothing.
pub(crate) fn network_table(host: &Host, network: &Network) -> Table {
    let mut forward = Vec::new();
    let mut postrouting = Vec::new();
    let addresses = link_addresses(host.link_pool, network.link_index);
    if let Some((_, own)) = addresses.filter(|_| !network.internal) {
        let register = Register::word(0);
        let between = |input: &str, output: &str| {
            vec![
                Expression::meta(Meta::IncomingName, register),
                Expression::equal(register, interface_key(input)),
                Expression::meta(Meta::OutgoingName, register),
                Expression::equal(register, interface_key(output)),
                ACCEPT,
            ]
        };
        forward.push(rule("answer", [answers(register), vec![ACCEPT]].concat()));
        forward.push(rule("egress", between(BRIDGE, LINK)));
        forward.push(rule("between-subnets", between(BRIDGE, BRIDGE)));
        postrouting.push(rule("source", source_nat(own)));
    }
    let mut filter = chain(ChainKind::Filter, HookPoint::Forward, 0, forward);
    filter.hook.drop_by_default = true;
    let nat = chain(ChainKind::Nat, HookPoint::Postrouting, SOURCE_NAT, postrouting);
    Table {
        family: Family::Inet,
        sets: BTreeMap::new(),
        chains: BTreeMap::from([("forward", filter), ("postrouting", nat)]),
    }
}

fn source_nat(own: Ipv4Addr) -> Vec<Expression> {
    let register = Register::word(0);
    let mut expressions = of_family(FOUR);
    expressions.extend([
        Expression::meta(Meta::OutgoingName, register),
        Expression::equal(register, interface_key(LINK)),
        Expression::Immediate { to: register, value: own.octets().to_vec() },
        Expression::Nat { kind: Nat::Source, family: Family::Ip, address: register, port: None },
    ]);
    expressions
}

/// The fence of a network's ports: what is not the tunnel must send with an address that its port holds.
/// What is not IP or ARP is dropped. Closed by default: a port that no element names sends nothing.
pub(crate) fn port_fence(network: &Network) -> Table {
    let mut four = BTreeSet::new();
    let mut six = BTreeSet::new();
    for (name, attachment) in &network.attachments {
        let (more_four, more_six) = fence_elements(name, attachment);
        four.extend(more_four);
        six.extend(more_six);
    }
    let sets = BTreeMap::from([("four", set(SENDER_FOUR, four)), ("six", set(SENDER_SIX, six))]);
    let chains = BTreeMap::from([
        ("ports", chain(ChainKind::Filter, HookPoint::Prerouting, RAW, port_rules())),
        ("tunnel", chain(ChainKind::Filter, HookPoint::Postrouting, 0, vec![rule("carried", carried())])),
    ]);
    Table { family: Family::Bridge, sets, chains }
}

fn carried() -> Vec<Expression> {
    let register = Register::word(0);
    vec![
        Expression::meta(Meta::OutgoingName, register),
        Expression::equal(register, interface_key(VXLAN)),
        Expression::Immediate { to: register, value: CARRIED.to_ne_bytes().to_vec() },
        Expression::MetaSet { key: Meta::Priority, from: register },
    ]
}

/// What one attachment may send as: keys of the sets `four` and `six`.
pub(crate) fn fence_elements(name: &str, attachment: &Attachment) -> (BTreeSet<Vec<u8>>, BTreeSet<Vec<u8>>) {
    let port = network_port(name);
    let key = |address: &[u8]| sender_key(&port, attachment.mac, address);
    let mut six = BTreeSet::from([key(&link_local(attachment.mac).octets())]);
    let mut four = BTreeSet::new();
    for address in &attachment.addresses {
        match address.ip() {
            IpAddr::V4(address) => four.insert(key(&address.octets())),
            IpAddr::V6(address) => six.insert(key(&address.octets())),
        };
    }
    (four, six)
}

fn sender_key(port: &str, mac: Mac, address: &[u8]) -> Vec<u8> {
    let mut key = interface_key(port);
    key.extend(mac.0);
    key.extend([0, 0]);
    key.extend(address);
    key
}

fn port_rules() -> Vec<Rule> {
    let key = Register::word(0);
    let (mac, address) = (key.after(4), key.after(6));
    let frame = |ethertype: u16| {
        vec![
            Expression::meta(Meta::Protocol, key),
            Expression::equal(key, ethertype.to_be_bytes()),
            Expression::meta(Meta::IncomingName, key),
            Expression::payload(Base::Link, 6, 6, mac),
        ]
    };
    let discovery = |kind: u8| {
        vec![
            Expression::meta(Meta::TransportProtocol, address),
            Expression::equal(address, [ICMP_SIX]),
            Expression::payload(Base::Transport, 0, 1, address),
            Expression::equal(address, [kind]),
        ]
    };
    let tunnel =
        vec![Expression::meta(Meta::IncomingName, key), Expression::equal(key, interface_key(VXLAN)), ACCEPT];
    // RFC 826: the sender's MAC is at byte 8 of the ARP packet, its address at 14. The frame's own source
    // must be right as well as what the packet says.
    let arp = vec![
        Expression::payload(Base::Network, 14, 4, address),
        Expression::in_set("four", key),
        Expression::payload(Base::Network, 8, 6, mac),
        Expression::in_set("four", key),
        ACCEPT,
    ];
    let four =
        vec![Expression::payload(Base::Network, 12, 4, address), Expression::in_set("four", key), ACCEPT];
    let six =
        vec![Expression::payload(Base::Network, 8, 16, address), Expression::in_set("six", key), ACCEPT];
    let unspecified = vec![
        Expression::payload(Base::Network, 8, 16, address),
        Expression::equal(address, [0; 16]),
        Expression::Verdict(Verdict::Drop),
    ];
    let target =
        vec![Expression::payload(Base::Transport, 8, 16, address), Expression::not_in_set("six", key)];
    vec![
        rule("tunnel", tunnel),
        rule("arp", [frame(0x0806), arp].concat()),
        rule("ipv4", [frame(0x0800), four].concat()),
        rule("spoofed", [frame(0x86dd), discovery(ROUTER_ADVERTISEMENT), dropped()].concat()),
        rule("spoofed", [frame(0x86dd), discovery(REDIRECT), dropped()].concat()),
        rule("spoofed", [frame(0x86dd), discovery(NEIGHBOUR_ADVERTISEMENT), target, dropped()].concat()),
        rule("ipv6", [frame(0x86dd), six].concat()),
        // What every IPv6 host says before it has an address (RFC 4862) is no lie, and not needed: not counted.
        rule("unspecified", [frame(0x86dd), unspecified].concat()),
        rule("spoofed", dropped()),
    ]
}

const ACCEPT: Expression = Expression::Verdict(Verdict::Accept);

fn dropped() -> Vec<Expression> {
    vec![Expression::Counter, Expression::Verdict(Verdict::Drop)]
}

fn rule(label: &'static str, expressions: Vec<Expression>) -> Rule {
    Rule { label, expressions }
}

fn chain(kind: ChainKind, point: HookPoint, priority: i32, rules: Vec<Rule>) -> Chain {
    Chain { hook: Hook { kind, point, priority, drop_by_default: false }, rules }
}

fn set(key: &'static [FieldType], elements: impl IntoIterator<Item = Vec<u8>>) -> Set {
    Set { key, elements: elements.into_iter().collect() }
}

fn of_family(family: u8) -> Vec<Expression> {
    let register = Register::word(0);
    vec![Expression::meta(Meta::FamilyNumber, register), Expression::equal(register, [family])]
}

/// Compares an IPv4 packet's source with the link pool.
fn of_pool(host: &Host, operation: Comparison) -> Vec<Expression> {
    let register = Register::word(0);
    let mask = host.link_pool.mask().octets().to_vec();
    vec![
        Expression::payload(Base::Network, 12, 4, register),
        Expression::Bitwise { from: register, to: register, mask, xor: vec![0; 4] },
        Expression::Compare { register, operation, value: host.link_pool.network().octets().to_vec() },
    ]
}

fn named(key: Meta, set: &str) -> Vec<Expression> {
    vec![Expression::meta(key, Register::word(0)), Expression::in_set(set, Register::word(0))]
}

fn answers(register: Register) -> Vec<Expression> {
    vec![
        Expression::Conntrack { key: Conntrack::State, to: register },
        Expression::Bitwise {
            from: register,
            to: register,
            mask: ANSWERS.to_ne_bytes().to_vec(),
            xor: vec![0; 4],
        },
        Expression::not_equal(register, [0; 4]),
    ]
}

/// The rules that iptables' own chain gets, in words that iptables-nft understands: what comes from our links or
/// goes there is accepted by its table; ours has judged it already.
pub(crate) fn forward_exception() -> [Rule; 2] {
    let register = Register::word(0);
    [Meta::IncomingName, Meta::OutgoingName].map(|key| {
        let prefix = crate::name::HOST_LINK_PREFIX.as_bytes();
        rule(
            "svc-agent",
            vec![
                Expression::meta(key, register),
                Expression::equal(register, prefix),
                Expression::Counter,
                ACCEPT,
            ],
        )
    })
}
