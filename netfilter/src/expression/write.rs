//! Expressions as the kernel's attributes, numbered as in include/uapi/linux/netfilter/nf_tables.h.
use std::borrow::Cow;

use super::{Answer, Base, Comparison, Conntrack, Expression, Meta, Nat, Register, Target, Verdict};
use crate::Family;
use crate::wire::Writer;

impl Expression {
    pub(crate) fn write(&self, out: &mut Writer) {
        match self {
            Self::Payload { base, offset, length, to } => expression(out, "payload", |out| {
                out.number(1, to.number());
                out.number(2, base.number());
                out.number(3, *offset);
                out.number(4, *length);
            }),
            Self::PayloadSet { base, offset, length, from, checksum } => expression(out, "payload", |out| {
                out.number(2, base.number());
                out.number(3, *offset);
                out.number(4, *length);
                out.number(5, from.number());
                // NFT_PAYLOAD_CSUM_INET.
                out.number(6, 1);
                out.number(7, *checksum);
            }),
            Self::Meta { key, to } => expression(out, "meta", |out| {
                out.number(2, key.number());
                out.number(1, to.number());
            }),
            Self::MetaSet { key, from } => expression(out, "meta", |out| {
                out.number(2, key.number());
                out.number(3, from.number());
            }),
            Self::Conntrack { key, to } => expression(out, "ct", |out| {
                out.number(2, key.number());
                out.number(1, to.number());
            }),
            Self::Compare { register, operation, value } => expression(out, "cmp", |out| {
                out.number(1, register.number());
                out.number(2, operation.number());
                out.nest(3, |out| out.attribute(1, value));
            }),
            Self::Bitwise { from, to, mask, xor } => expression(out, "bitwise", |out| {
                out.number(1, from.number());
                out.number(2, to.number());
                out.number(3, u32::try_from(mask.len()).unwrap_or(u32::MAX));
                out.nest(4, |out| out.attribute(1, mask));
                out.nest(5, |out| out.attribute(1, xor));
            }),
            Self::Lookup { set, key, to, inverted } => write_lookup(out, set, *key, *to, *inverted),
            Self::Immediate { to, value } => expression(out, "immediate", |out| {
                out.number(1, to.number());
                out.nest(2, |out| out.attribute(1, value));
            }),
            Self::Verdict(verdict) => expression(out, "immediate", |out| {
                out.number(1, 0);
                out.nest(2, |out| verdict.write(out));
            }),
            Self::Random { to, modulus } => expression(out, "numgen", |out| {
                out.number(1, to.number());
                out.number(2, *modulus);
                out.number(3, 1);
                out.number(4, 0);
            }),
            Self::Nat { kind, family, address, port } => write_nat(out, *kind, *family, *address, *port),
            Self::Masquerade => expression(out, "masq", |_| {}),
            Self::Forward { device } => expression(out, "fwd", |out| out.number(1, device.number())),
            Self::Untracked => expression(out, "notrack", |_| {}),
            Self::Counter => expression(out, "counter", |_| {}),
            Self::Reject(answer) => write_reject(out, *answer),
            Self::Timeout { object } => expression(out, "objref", |out| {
                out.number(1, crate::batch::OBJECT_TIMEOUT);
                out.text(2, object);
            }),
        }
    }
}

fn expression(out: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    out.nest(1, |out| {
        out.text(1, name);
        out.nest(2, body);
    });
}

fn write_lookup(out: &mut Writer, set: &str, key: Register, to: Target, inverted: bool) {
    expression(out, "lookup", |out| {
        out.text(1, set);
        out.number(2, key.number());
        match to {
            Target::None => {}
            Target::Register(register) => out.number(3, register.number()),
            Target::Verdict => out.number(3, 0),
        }
        if inverted {
            out.number(5, 1);
        }
    });
}

fn write_nat(out: &mut Writer, kind: Nat, family: Family, address: Register, port: Option<Register>) {
    expression(out, "nat", |out| {
        out.number(1, if kind == Nat::Source { 0 } else { 1 });
        out.number(2, u32::from(family.number()));
        out.number(3, address.number());
        if let Some(port) = port {
            out.number(5, port.number());
        }
    });
}

fn write_reject(out: &mut Writer, answer: Answer) {
    let (kind, code) = match answer {
        Answer::Icmp(code) => (0, Some(code)),
        Answer::TcpReset => (1, None),
        Answer::Any(code) => (2, Some(code)),
    };
    expression(out, "reject", |out| {
        out.number(1, kind);
        if let Some(code) = code {
            out.attribute(2, &[code]);
        }
    });
}

impl Verdict<'_> {
    /// Writes NFTA_DATA_VERDICT into an open nest.
    pub(crate) fn write(&self, out: &mut Writer) {
        let (code, chain): (i32, Option<&str>) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Continue => (-1, None),
            Self::Jump(chain) => (-3, Some(chain)),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        out.nest(2, |out| {
            out.attribute(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                out.text(2, chain);
            }
        });
    }

    /// Reads the value of an NFTA_DATA_VERDICT.
    pub(crate) fn read(bytes: &[u8]) -> Option<Verdict<'static>> {
        let code = crate::wire::find(bytes, 1).and_then(crate::wire::number)?.cast_signed();
        let chain = || crate::wire::find(bytes, 2).map(|name| Cow::Owned(crate::wire::text(name)));
        Some(match code {
            0 => Verdict::Drop,
            1 => Verdict::Accept,
            -1 => Verdict::Continue,
            -3 => Verdict::Jump(chain()?),
            -4 => Verdict::Goto(chain()?),
            -5 => Verdict::Return,
            _ => return None,
        })
    }
}

impl Register {
    fn number(self) -> u32 {
        // NFT_REG32_00 is 8; what starts on 16 bytes is listed by nft under its old name, NFT_REG_1 to 4.
        if self.0.is_multiple_of(4) { u32::from(self.0 / 4) + 1 } else { u32::from(self.0) + 8 }
    }
}

impl Base {
    fn number(self) -> u32 {
        match self {
            Self::Link => 0,
            Self::Network => 1,
            Self::Transport => 2,
        }
    }
}

impl Meta {
    fn number(self) -> u32 {
        match self {
            Self::Protocol => 1,
            Self::Priority => 2,
            Self::Mark => 3,
            Self::IncomingIndex => 4,
            Self::OutgoingIndex => 5,
            Self::IncomingName => 6,
            Self::OutgoingName => 7,
            Self::SocketUser => 10,
            Self::FamilyNumber => 15,
            Self::TransportProtocol => 16,
            Self::IncomingBridge => 17,
            Self::PacketType => 19,
            Self::SecurityPath => 25,
        }
    }
}

impl Conntrack {
    fn number(self) -> u32 {
        match self {
            Self::State => 0,
            Self::Direction => 1,
            Self::Status => 2,
            Self::Mark => 3,
        }
    }
}

impl Comparison {
    fn number(self) -> u32 {
        match self {
            Self::Equal => 0,
            Self::NotEqual => 1,
            Self::Less => 2,
            Self::LessOrEqual => 3,
            Self::Greater => 4,
            Self::GreaterOrEqual => 5,
        }
    }
}
