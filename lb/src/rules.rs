//! The rules. They are fixed: a chain's rules follow from its name, the family and the kernel's features, and
//! every change of services, replicas, ranges and redirects is a change of elements.
//!
//! ```text
//! local (output, before tracking):
//!   oif != lo                            accept
//!   tcp | udp                            notrack, dport set  daddr . proto . dport  map @redirects
//!   tcp | udp                            notrack, sport set  saddr . proto . sport  map @answers
//! output, prerouting:
//!   daddr                                vmap @vips
//!   daddr @served                        accept      # missed in @vips for an instant: the client tries again
//!   daddr . proto . dport                vmap @vip_ports
//!   daddr . proto . dport  in @targets   accept      # the same for @vip_ports
//!   icmp, daddr                          vmap @echo
//!   proto @protocols                     dnat to  daddr map @ranges : 0     # refused: nothing can bind port 0
//! class_<k>:
//!   dnat to  daddr . random mod <k>  map @slots
//! ports_<k>:
//!   dnat to  daddr . random mod <k>  map @slots  :  daddr . proto . dport  map @targets
//! ```
//!
//! A slot that is not found ends the chain, and with it the base chain that went to it: the packet is accepted
//! untranslated, gets no answer, and is sent again.
//!
//! Look-ups are not translated as flows are: only their ports are written, there and back, and they are not tracked. So
//! they need no entry, which a full table would refuse them, and no other redirect of a nat chain can win.
use netfilter::{Base, ChainKind, Expression, Hook, HookPoint, Meta, Nat, Register, Verdict, fingerprint};

use crate::address::Address;
use crate::element::{Chain, Map};
use crate::kernel::Features;

/// TCP, UDP and SCTP: a packet to port 0 is answered by a reset, port-unreachable or an ABORT. ICMP is not in it:
/// translated to the own address it would be answered as if the VIP were there.
pub const REFUSED_PROTOCOLS: [u8; 3] = [TCP, UDP, 132];
/// Before dstnat (−100): what others translate is not for a VIP.
pub const PRIORITY: i32 = -110;
/// Before connection tracking (−200), and after fragments were put together (−400).
pub const LOCAL_PRIORITY: i32 = -300;
/// Time-outs of TCP flows through a VIP.
pub const TCP_TIMEOUT: &str = "tcp_timeout";
/// Time-outs of UDP flows through a VIP.
pub const UDP_TIMEOUT: &str = "udp_timeout";

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;
/// Of ports in the header of either protocol.
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;
/// Where each protocol has its checksum.
const CHECKSUMS: [(u8, u32); 2] = [(TCP, 16), (UDP, 6)];
/// The first link of each namespace (net/core/dev.c, loopback_net_init).
const LOOPBACK_INDEX: u32 = 1;
const KEY: Register = Register::word(0);
/// Behind the longest key: four words of address, protocol, port.
const FOUND: Register = Register::word(8);
const FOUND_PORT: Register = Register::word(12);

/// CTA_TIMEOUT_TCP_*, in seconds. A connection may idle for 20 days, also half-closed (CLOSE_WAIT). With data on
/// its way that nobody acknowledges (RETRANS, UNACK; 300 s by default) it lasts longer than TCP itself tries
/// (tcp_retries2 of 15: up to 30 minutes). The other states keep the namespace's values.
pub(crate) const TCP_SECONDS: [(u16, u32); 4] = [(3, 1_728_000), (5, 1_728_000), (10, 7_200), (11, 7_200)];
/// CTA_TIMEOUT_UDP_*: never answered, and answered.
pub(crate) const UDP_SECONDS: [(u16, u32); 2] = [(1, 30), (2, 120)];

/// How a base chain is tied in; `None` for the others.
pub fn hook(chain: Chain) -> Option<Hook> {
    let (kind, point, priority) = match chain {
        Chain::Output => (ChainKind::Nat, HookPoint::Output, PRIORITY),
        Chain::Prerouting => (ChainKind::Nat, HookPoint::Prerouting, PRIORITY),
        Chain::Local => (ChainKind::Filter, HookPoint::Output, LOCAL_PRIORITY),
        Chain::Class(_) | Chain::Ports(_) => return None,
    };
    Some(Hook { kind, point, priority, drop_by_default: false })
}

/// The rules of a chain, in order.
pub fn rules<A: Address>(chain: Chain, features: Features) -> Vec<Vec<Expression>> {
    match chain {
        Chain::Output | Chain::Prerouting => balance::<A>().into(),
        Chain::Local => local::<A>(),
        Chain::Class(slots) => with_timeouts(features, class::<A>(slots)),
        Chain::Ports(slots) => with_timeouts(features, ports::<A>(slots)),
    }
}

/// What stands in a rule's comment: tells our rules from others', and from an older agent's.
pub fn comment(rule: &[Expression]) -> String {
    format!("svc-agent {:016x}", fingerprint(rule))
}

fn balance<A: Address>() -> [Vec<Expression>; 6] {
    let accept = Expression::Verdict(Verdict::Accept);
    let whole = destination::<A>(KEY);
    let with = |mut rule: Vec<Expression>, more: &[Expression]| {
        rule.extend_from_slice(more);
        rule
    };
    [
        with(vec![whole.clone()], &[Expression::verdict_map(Map::Vips.name(), KEY)]),
        with(vec![whole.clone()], &[Expression::in_set(Map::Served.name(), KEY), accept.clone()]),
        with(endpoint::<A>(), &[Expression::verdict_map(Map::VipPorts.name(), KEY)]),
        // A map without a register for its data is refused before kernel 6.5, so the port is loaded for nothing.
        with(endpoint::<A>(), &[Expression::map(Map::Targets.name(), KEY, FOUND_PORT), accept]),
        with(protocol(A::ICMP), &[whole.clone(), Expression::verdict_map(Map::Echo.name(), KEY)]),
        vec![
            Expression::meta(Meta::TransportProtocol, KEY),
            Expression::in_set(Map::Protocols.name(), KEY),
            whole,
            Expression::map(Map::Ranges.name(), KEY, FOUND),
            Expression::Immediate { to: FOUND_PORT, value: vec![0; 2] },
            translate::<A>(FOUND, Some(FOUND_PORT)),
        ],
    ]
}

fn local<A: Address>() -> Vec<Vec<Expression>> {
    let elsewhere = vec![
        Expression::meta(Meta::OutgoingIndex, KEY),
        Expression::not_equal(KEY, LOOPBACK_INDEX.to_ne_bytes()),
        Expression::Verdict(Verdict::Accept),
    ];
    let mut rules = vec![elsewhere];
    for (number, checksum) in CHECKSUMS {
        for (map, address, port) in [
            (Map::Redirects, A::DESTINATION_OFFSET, DESTINATION_PORT),
            (Map::Answers, A::DESTINATION_OFFSET - A::FIELD.length, SOURCE_PORT),
        ] {
            let mut rule = protocol(number);
            rule.extend([
                Expression::payload(Base::Network, address, A::FIELD.length, KEY),
                Expression::meta(Meta::TransportProtocol, KEY.after(A::WORDS)),
                Expression::payload(Base::Transport, port, 2, KEY.after(A::WORDS + 1)),
                Expression::map(map.name(), KEY, FOUND),
                Expression::Untracked,
                Expression::PayloadSet {
                    base: Base::Transport,
                    offset: port,
                    length: 2,
                    from: FOUND,
                    checksum,
                },
            ]);
            rules.push(rule);
        }
    }
    rules
}

fn class<A: Address>(slots: u16) -> Vec<Expression> {
    let mut rule = slot::<A>(slots);
    rule.push(translate::<A>(FOUND, None));
    rule
}

fn ports<A: Address>(slots: u16) -> Vec<Expression> {
    let mut rule = slot::<A>(slots);
    rule.extend(endpoint::<A>());
    rule.push(Expression::map(Map::Targets.name(), KEY, FOUND_PORT));
    rule.push(translate::<A>(FOUND, Some(FOUND_PORT)));
    rule
}

/// One of the VIP's slots, into `FOUND`.
fn slot<A: Address>(slots: u16) -> Vec<Expression> {
    vec![
        destination::<A>(KEY),
        Expression::Random { to: KEY.after(A::WORDS), modulus: u32::from(slots) },
        Expression::map(Map::Slots.name(), KEY, FOUND),
    ]
}

fn with_timeouts(features: Features, last: Vec<Expression>) -> Vec<Vec<Expression>> {
    let timeout = |number, object: &str| {
        let mut rule = protocol(number);
        rule.push(Expression::Timeout { object: object.into() });
        rule
    };
    if features.timeouts {
        vec![timeout(TCP, TCP_TIMEOUT), timeout(UDP, UDP_TIMEOUT), last]
    } else {
        vec![last]
    }
}

fn destination<A: Address>(to: Register) -> Expression {
    Expression::payload(Base::Network, A::DESTINATION_OFFSET, A::FIELD.length, to)
}

/// Destination, protocol and destination port, as a key.
fn endpoint<A: Address>() -> Vec<Expression> {
    vec![
        destination::<A>(KEY),
        Expression::meta(Meta::TransportProtocol, KEY.after(A::WORDS)),
        Expression::payload(Base::Transport, 2, 2, KEY.after(A::WORDS + 1)),
    ]
}

fn protocol(number: u8) -> Vec<Expression> {
    vec![Expression::meta(Meta::TransportProtocol, KEY), Expression::equal(KEY, [number])]
}

fn translate<A: Address>(address: Register, port: Option<Register>) -> Expression {
    Expression::Nat { kind: Nat::Destination, family: A::FAMILY, address, port }
}
