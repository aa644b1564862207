//! `network …`.
use clap::{Args, Subcommand};
use ipnetwork::IpNetwork;

use super::Waiting;
use crate::cli::{examples, parse};
use crate::model::Name;

#[derive(Debug, Subcommand)]
pub(crate) enum NetworkVerb {
    /// Create a network; with equal settings, one that exists is the same network.
    #[command(after_help = examples::NETWORK_CREATE)]
    Create(Create),
    /// List the networks.
    #[command(after_help = examples::NETWORK_LS)]
    Ls,
    /// Show one network.
    #[command(after_help = examples::NETWORK_INSPECT)]
    Inspect {
        /// Name of the network.
        name: Name,
    },
    /// Remove a network that nothing is attached to.
    #[command(after_help = examples::NETWORK_RM)]
    Rm {
        /// Name of the network.
        name: Name,
        #[command(flatten)]
        waiting: Waiting,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Create {
    /// Name of the network: a DNS label, unique in the cluster.
    pub(crate) name: Name,
    /// Its address range; at most one per family [default: an IPv4 one from the pool].
    #[arg(long = "subnet", value_name = "CIDR", value_parser = parse::subnet)]
    pub(crate) subnets: Vec<IpNetwork>,
    /// Also an IPv6 subnet, from the cluster's own range.
    #[arg(long)]
    pub(crate) ipv6: bool,
    /// An IPv6 subnet from the cluster's own range, and none of IPv4.
    #[arg(long, conflicts_with_all = ["ipv6", "subnets"])]
    pub(crate) ipv6_only: bool,
    /// Encrypt what travels between hosts.
    #[arg(long)]
    pub(crate) encrypted: bool,
    /// No way out: no default route, no egress, no forwarded names.
    #[arg(long)]
    pub(crate) internal: bool,
    /// Upper bound of the MTU in bytes [default: what fits the hosts' links].
    #[arg(long, value_name = "N", value_parser = parse::mtu)]
    pub(crate) mtu: Option<u32>,
    /// VXLAN network identifier, 1 to 16777215 [default: a free one].
    #[arg(long, value_name = "N", value_parser = parse::vni)]
    pub(crate) vni: Option<u32>,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}
