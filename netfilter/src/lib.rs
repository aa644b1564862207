//! nf_tables batches and conntrack over netlink: mechanism only, no policy.
//!
//! One [`Socket`] per network namespace, opened by a thread that is in it. Changes are written into a [`Batch`]
//! and take effect together by [`Socket::commit`]; what the kernel holds is read by the dumps of [`Socket`].
//! [`conntrack`] lists and deletes flows on the same socket.
//!
//! ```no_run
//! use netfilter::{Base, Batch, ChainKind, Expression, Family, Hook, HookPoint, Meta, Register, Socket, Table,
//!                 TableFlags, Verdict};
//! let table = Table { family: Family::Ip, name: "example" };
//! let hook = Hook { kind: ChainKind::Filter, point: HookPoint::Input, priority: 0, drop_by_default: false };
//! let rule = [
//!     Expression::meta(Meta::TransportProtocol, Register::word(0)),
//!     Expression::equal(Register::word(0), [17]),
//!     Expression::payload(Base::Transport, 2, 2, Register::word(0)),
//!     Expression::equal(Register::word(0), 4789_u16.to_be_bytes()),
//!     Expression::Counter,
//!     Expression::Verdict(Verdict::Drop),
//! ];
//! let mut batch = Batch::new();
//! batch.add_table(table, TableFlags::PLAIN);
//! batch.add_chain(table, "input", Some(&hook));
//! batch.add_rule(table, "input", &rule, Some("tunnel"));
//! Socket::open()?.commit(&batch)?;
//! # Ok::<(), netfilter::Error>(())
//! ```
//!
//! Why the nf_tables messages are written by hand: of the expressions needed here `netlink-packet-netfilter`
//! 0.4 types six and leaves nat, numgen, ct, counter, masq, reject and objref as lists of untyped attributes; it
//! builds each element of a set as a tree of vectors, which at 100,000 elements costs more than the kernel takes
//! to load them; and a reader would need both vocabularies. Its conntrack messages are typed, and used.
mod answer;
mod batch;
pub mod conntrack;
mod dump;
mod error;
mod expression;
mod objects;
mod socket;
mod uapi;
mod wire;

pub use batch::{Batch, ElementData, ElementList};
pub use dump::{Chain, ChainHook, Count, Element, RawExpression, Rule, SetState, TableState};
pub use error::{Error, Refusal};
pub use expression::{
    Answer, Base, Comparison, Conntrack, Expression, Meta, Nat, Register, Target, Verdict, fingerprint,
};
pub use objects::{ChainKind, Family, FieldType, Hook, HookPoint, Set, SetData, Table, TableFlags};
pub use socket::Socket;
