//! The resolver at 127.0.0.11: a zone as a plain value, a pure answer, a server.
//!
//! [`Zone`] is all that one attached namespace may ask about; [`answer`] decides, without I/O, a clock or `async`, what a
//! [`Question`] gets; [`Server`] serves it on sockets that the caller opened inside the namespace; [`Forwarder`] asks the
//! host's own upstreams for the rest. Nothing here knows of netlink, of other namespaces or of where a zone comes from.
//!
//! Names are DNS labels (RFC 1123) joined by dots, lower case, without a trailing dot.
mod answer;
mod beside;
mod forward;
mod handle;
mod network;
mod probe;
mod question;
mod resolv_conf;
mod reverse;
mod server;
mod shards;
mod stats;
mod zone;

pub use answer::{ANSWERS_MAX, Answer, Data, Owner, Soa, Ttls, answer};
pub use beside::{Beside, Exchange};
pub use forward::{ForwardSettings, Forwarder};
pub use handle::ZoneHandle;
pub use network::Network;
pub use probe::{probe_answer, probe_question};
pub use question::{Kind, Question, QuestionError};
pub use resolv_conf::{RESOLVER, Upstreams, parse_resolv_conf, render_resolv_conf};
pub use server::{Limits, Server, ServerError, ServerSettings, Sockets};
pub use stats::{Outcome, Stats};
pub use zone::{Attachment, Mode, Service, Zone};
