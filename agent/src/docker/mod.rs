//! Docker without Swarm: a network and address driver that its engine asks through a plugin socket.
//!
//! What the engine waits for is answered from this host's own state (an address may take a claim), and the engine is never
//! asked meanwhile: it would wait for us while we wait for it. What it does not tell a driver (names of networks and containers) is asked for afterwards.
//!
//! - [`ipam`]: addresses, given out by the same allocator as `attach` has;
//! - [`driver`]: networks and endpoints come and go;
//! - [`mirror`]: each network of the cluster is one of Docker's on every host, and one that was made with Docker becomes
//!   the cluster's;
//! - [`attaching`]: a container's namespace is attached when it is there;
//! - [`containers`]: what Docker says of it later: aliases, labels, health, its end before it comes.
mod attaching;
mod books;
mod containers;
mod driver;
mod engine;
mod ipam;
mod labels;
mod mirror;
mod names;
mod plan;
mod resolver;
mod server;
mod socket;
mod wire;

pub(crate) use books::KEY;
pub(crate) use books::Saved;
pub use books::{Books, Endpoint};
pub use containers::follow as follow_containers;
pub use mirror::{follow, remove_all};
pub use server::serve;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use tokio::sync::Notify;

use crate::model::Name;

/// What the plugin's calls and the look at Docker's networks say to each other. Not kept.
#[derive(Debug, Default)]
pub struct Signals {
    /// This host leaves its cluster: nothing is made at Docker any more.
    leaving: AtomicBool,
    /// Something is to be looked at.
    pub(crate) look: Notify,
    /// Docker's networks that are being removed by us, by id, until Docker has none of that id.
    removing: Mutex<BTreeSet<String>>,
    /// What the network stood for that the driver was told to delete by somebody else, by id, until its event comes.
    deleted: Mutex<BTreeMap<String, (Name, Instant)>>,
    /// Networks that were removed at Docker by somebody else, with what Docker called them.
    unwanted: Mutex<BTreeMap<Name, String>>,
    /// Docker's resolver in namespaces that are on networks of its own, too, by cookie.
    pub(crate) beside: Mutex<BTreeMap<u64, dns::Beside>>,
    /// Containers that run on networks of ours, by Docker's id.
    containers: Mutex<BTreeMap<String, containers::Known>>,
}

/// What the driver is called: `docker network create -d svc-agent NAME`.
pub const DRIVER: &str = "svc-agent";
/// The option that says which network of the cluster one of Docker's is.
const NETWORK_OPTION: &str = "svc-agent.network";
/// Who asks, in events.
const ORIGIN: &str = "docker";
