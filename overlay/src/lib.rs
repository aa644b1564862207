//! VXLAN overlays on one host: a plain desired state, made true over rtnetlink.
//!
//! [`Desired`] goes in, [`Reconciler`] compares it with what the kernel holds and applies the difference.
//! `plan` decides and does no I/O; [`Kernel`] acts. The crate never changes namespace: its caller opens sockets
//! in each [`Space`] and hands them over ([`Handles`]).
//!
//! What is ours: every link whose alias begins with [`TAG`], every table named [`TABLE`], every route of protocol
//! [`ROUTE_PROTOCOL`] on such a link, one rule in DOCKER-USER, and all of a network's own namespace.
mod desired;
mod fence;
mod kernel;
mod name;
mod observed;
mod op;
mod plan;
mod reconcile;
mod rule;
mod world;

pub use desired::{Attachment, DefaultRoute, Desired, Host, Mac, Network, Paths, Remote, Space, Subnet};
pub use kernel::fake::FakeKernel;
pub use kernel::faulty::FaultyKernel;
pub use kernel::linux::{Enter, Handles, LinuxKernel};
pub use kernel::{Kernel, KernelError, Look};
pub use name::{
    PATHS, TABLE, TAG, gateway_mac, host_link, host_port, link_addresses, link_addresses_six, link_pool_six,
    network_port,
};
pub use observed::{ChainState, ForwardHook, Link, LinkKind, Observed, PortFlags, Route, TableState, Vxlan};
pub use op::{Object, Op, Peer, Step};
pub use plan::{Plan, Problem, ROUTE_PROTOCOL, plan};
pub use reconcile::{Phase, REPAIRED_MAX, Reconciler, Report, Teardown};
pub use rule::{Chain, Entry, Rule, Set, Table};
pub use world::World;
