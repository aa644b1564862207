//! The tables that the overlay wants: who may send what, and how egress is translated.
mod host;
mod network;
mod port;

use netfilter::{ChainKind, Conntrack, Expression, FieldType, Hook, HookPoint, Meta, Register, Verdict};

use crate::rule::{Chain, Entry, Rule, Set};

pub(crate) use host::{MOVED, host_table, vni_key};
pub(crate) use network::network_table;
pub(crate) use port::{
    LOCAL_WAYS, TUNNEL_WAY, closed_chain, port_chain, port_chain_name, port_of_chain, port_table,
    tunnel_chain,
};

/// include/uapi/linux/netfilter.h: NFPROTO_IPV4, NFPROTO_IPV6.
const FOUR: u8 = 2;
const SIX: u8 = 10;
/// Before connection tracking, after its defragmentation (-400), so that no fragment hides a VNI.
const RAW: i32 = -300;
/// Source NAT's customary priority.
const SOURCE_NAT: i32 = 100;
/// ct state: established (2) and related (4).
const ANSWERS: u32 = 6;

/// Priority of what attachments send. A process needs CAP_NET_RAW to choose one above 6 (SO_PRIORITY), and could
/// forge with a packet socket then. It survives encapsulation, which a mark does not; its lower half is 0, so that
/// queues treat it as best effort.
const CARRIED: u32 = 0x5ca6_0000;
/// Priority of what arrives for somebody else's tunnel on our port: should a part of it come out of ours, it was
/// hidden in a datagram that the kernel took apart behind the fence.
const OTHERS: u32 = 0x5ca7_0000;

const ACCEPT: Expression = Expression::Verdict(Verdict::Accept);

fn dropped() -> Vec<Expression> {
    vec![Expression::Counter, Expression::Verdict(Verdict::Drop)]
}

fn rule(label: &'static str, expressions: Vec<Expression>) -> Rule {
    Rule { label, expressions }
}

fn chain(kind: ChainKind, point: HookPoint, priority: i32, rules: Vec<Rule>) -> Chain {
    let hook = Hook { kind, point, priority, drop_by_default: false };
    Chain { entry: Entry::Hook(hook), rules }
}

fn set(key: &'static [FieldType], elements: impl IntoIterator<Item = Vec<u8>>) -> Set {
    Set { key, data: None, size_max: None, elements: elements.into_iter().collect() }
}

fn of_family(family: u8) -> Vec<Expression> {
    let register = Register::word(0);
    vec![Expression::meta(Meta::FamilyNumber, register), Expression::equal(register, [family])]
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
