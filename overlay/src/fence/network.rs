//! The table of a network's namespace that routes.
use std::collections::BTreeMap;

use netfilter::{ChainKind, Expression, Family, HookPoint, Meta, Nat, Register};

use super::{ACCEPT, FOUR, SIX, SOURCE_NAT, answers, chain, of_family, rule};
use crate::name::{BRIDGE, LINK, interface_key, link_addresses, link_addresses_six};
use crate::rule::{Entry, Table};
use crate::{Host, Network};

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
        postrouting.push(rule("source", source_nat(FOUR, Family::Ip, own.octets().to_vec())));
        if network.has_six() {
            let (_, own) = link_addresses_six(network.link_index);
            postrouting.push(rule("source", source_nat(SIX, Family::Ip6, own.octets().to_vec())));
        }
    }
    let mut filter = chain(ChainKind::Filter, HookPoint::Forward, 0, forward);
    if let Entry::Hook(hook) = &mut filter.entry {
        hook.drop_by_default = true;
    }
    let nat = chain(ChainKind::Nat, HookPoint::Postrouting, SOURCE_NAT, postrouting);
    Table {
        family: Family::Inet,
        sets: BTreeMap::new(),
        chains: BTreeMap::from([("forward".to_owned(), filter), ("postrouting".to_owned(), nat)]),
    }
}

fn source_nat(family: u8, table: Family, own: Vec<u8>) -> Vec<Expression> {
    let register = Register::word(0);
    let mut expressions = of_family(family);
    expressions.extend([
        Expression::meta(Meta::OutgoingName, register),
        Expression::equal(register, interface_key(LINK)),
        Expression::Immediate { to: register, value: own },
        Expression::Nat { kind: Nat::Source, family: table, address: register, port: None },
    ]);
    expressions
}
