//! nf_tables and conntrack, in the shapes that svc-agent writes.
use netfilter::{
    Base, Batch, ChainKind, ElementData, Expression, Family, FieldType, Hook, HookPoint, Meta, Nat, Register,
    Set, SetData, Socket, Table, TableFlags, Verdict, conntrack,
};

use super::super::check::Lack;
use super::{Outcome, inside};

const FIRST: Register = Register::word(0);
const TCP: u8 = 6;
/// CTA_TIMEOUT_TCP_ESTABLISHED (include/uapi/linux/netfilter/nfnetlink_cttimeout.h).
const TCP_ESTABLISHED: u16 = 3;

const fn table(family: Family) -> Table<'static> {
    Table { family, name: "svc-agent-doctor" }
}

const fn hook(kind: ChainKind, point: HookPoint, priority: i32) -> Hook {
    Hook { kind, point, priority, drop_by_default: false }
}

/// Commits what `fill` writes, in a namespace that ends with it.
fn committed(done: &str, flags: TableFlags, family: Family, fill: fn(&mut Batch, Table<'_>)) -> Outcome {
    inside(|| {
        let mut batch = Batch::new();
        batch.add_table(table(family), flags);
        fill(&mut batch, table(family));
        let mut socket = Socket::open().map_err(|error| Lack::chain(&error))?;
        socket.commit(&batch).map_err(|error| Lack::chain(&error))?;
        Ok(done.to_owned())
    })
}

pub(super) fn tables() -> Outcome {
    let done = "loaded a table with a chain, a verdict map and a set of ranges";
    committed(done, TableFlags::PLAIN, Family::Inet, |batch, table| {
        batch.add_chain(table, "input", Some(&hook(ChainKind::Filter, HookPoint::Input, 0)));
        batch.add_chain(table, "class", None);
        let key = &[FieldType::IPV4_ADDRESS];
        batch.add_set(
            table,
            &Set { name: "verdicts", key, data: SetData::Verdict, interval: false, size_max: None },
        );
        batch.add_set(
            table,
            &Set { name: "ranges", key, data: SetData::None, interval: true, size_max: None },
        );
        batch.add_elements(table, "verdicts", |list| {
            list.push(&[192, 0, 2, 1], &ElementData::Verdict(Verdict::goto("class")));
        });
        batch.add_elements(table, "ranges", |list| {
            list.push(&[192, 0, 2, 0], &ElementData::None);
            list.push_interval_end(&[192, 0, 3, 0]);
        });
        let rule = [
            Expression::meta(Meta::FamilyNumber, FIRST),
            Expression::equal(FIRST, [2]),
            Expression::payload(Base::Network, 16, 4, FIRST),
            Expression::in_set("ranges", FIRST),
            Expression::Counter,
            Expression::verdict_map("verdicts", FIRST),
        ];
        batch.add_rule(table, "input", &rule, None);
    })
}

pub(super) fn nat() -> Outcome {
    let done = "loaded chains that translate destinations and masquerade";
    committed(done, TableFlags::PLAIN, Family::Ip, |batch, table| {
        batch.add_chain(table, "output", Some(&hook(ChainKind::Nat, HookPoint::Output, -110)));
        batch.add_chain(table, "prerouting", Some(&hook(ChainKind::Nat, HookPoint::Prerouting, -110)));
        batch.add_chain(table, "postrouting", Some(&hook(ChainKind::Nat, HookPoint::Postrouting, 110)));
        let port = FIRST.after(1);
        let translate = [
            Expression::Immediate { to: FIRST, value: vec![127, 0, 0, 11] },
            Expression::Immediate { to: port, value: 53_u16.to_be_bytes().to_vec() },
            Expression::Nat { kind: Nat::Destination, family: Family::Ip, address: FIRST, port: Some(port) },
        ];
        batch.add_rule(table, "output", &translate, None);
        batch.add_rule(table, "prerouting", &translate, None);
        batch.add_rule(table, "postrouting", &[Expression::Masquerade], None);
    })
}

pub(super) fn balancing() -> Outcome {
    let done = "loaded a random choice from a map of addresses";
    committed(done, TableFlags::PLAIN, Family::Ip, |batch, table| {
        batch.add_chain(table, "output", Some(&hook(ChainKind::Nat, HookPoint::Output, -110)));
        let slots = Set {
            name: "slots",
            key: &[FieldType::IPV4_ADDRESS, FieldType::MARK],
            data: SetData::Value(&[FieldType::IPV4_ADDRESS]),
            interval: false,
            size_max: None,
        };
        batch.add_set(table, &slots);
        batch.add_elements(table, "slots", |list| {
            let mut key = vec![192, 0, 2, 1];
            key.extend_from_slice(&1_u32.to_ne_bytes());
            list.push(&key, &ElementData::Value(&[192, 0, 2, 2]));
        });
        let choose = [
            Expression::payload(Base::Network, 16, 4, FIRST),
            Expression::Random { to: FIRST.after(1), modulus: 2 },
            Expression::map("slots", FIRST, FIRST),
            Expression::Nat { kind: Nat::Destination, family: Family::Ip, address: FIRST, port: None },
        ];
        batch.add_rule(table, "output", &choose, None);
    })
}

pub(super) fn device() -> Outcome {
    let done = "loaded a fence of a device's frames, and sent them on to another";
    committed(done, TableFlags::PLAIN, Family::Netdev, |batch, table| {
        let ways = Set {
            name: "ways",
            key: &[FieldType::MAC_ADDRESS],
            data: SetData::Value(&[FieldType::INTERFACE_INDEX]),
            interval: false,
            size_max: None,
        };
        batch.add_set(table, &ways);
        // Every namespace has this one.
        batch.add_ingress_chain(table, "port", "lo", 0);
        let fence = [
            Expression::payload(Base::Link, 6, 6, FIRST),
            Expression::not_equal(FIRST, [2, 0, 0, 0, 0, 1]),
            Expression::Counter,
            Expression::Verdict(Verdict::Drop),
        ];
        batch.add_rule(table, "port", &fence, None);
        let onward = [
            Expression::payload(Base::Link, 0, 6, FIRST),
            Expression::map("ways", FIRST, FIRST.after(4)),
            Expression::Forward { device: FIRST.after(4) },
        ];
        batch.add_rule(table, "port", &onward, None);
    })
}

pub(super) fn owner() -> Outcome {
    committed("loaded a table with both flags", TableFlags::OWNED, Family::Inet, |_, _| {})
}

pub(super) fn flows() -> Outcome {
    inside(|| {
        let mut socket = Socket::open().map_err(|error| Lack::chain(&error))?;
        let found = conntrack::flows(&mut socket, 0, |_| Some(())).map_err(|error| Lack::chain(&error))?;
        Ok(format!("listed the flows of a new namespace: {}", found.len()))
    })
}

pub(super) fn timeouts() -> Outcome {
    let done = "loaded a time-out object for TCP";
    committed(done, TableFlags::PLAIN, Family::Ip, |batch, table| {
        batch.add_timeout(table, "tcp", TCP, &[(TCP_ESTABLISHED, 1_728_000)]);
        batch.add_chain(table, "output", Some(&hook(ChainKind::Filter, HookPoint::Output, 0)));
        let rule = [
            Expression::meta(Meta::TransportProtocol, FIRST),
            Expression::equal(FIRST, [TCP]),
            Expression::Timeout { object: "tcp".to_owned() },
        ];
        batch.add_rule(table, "output", &rule, None);
    })
}
