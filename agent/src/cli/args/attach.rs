//! `attach`, `detach`, and how a container is named.
use std::net::IpAddr;

use clap::{ArgGroup, Args};

use super::Waiting;
use crate::api::types::Place;
use crate::cli::parse;
use crate::model::Name;

#[derive(Debug, Args)]
#[command(group(ArgGroup::new("where").required(true).args(["netns", "pid", "container"])))]
pub(crate) struct Attach {
    /// Name of the attachment: a DNS label, which other containers of the network resolve.
    pub(crate) name: Name,
    /// Network to attach to [default: the only one there is; `default` is made on first use].
    #[arg(long, value_name = "NET")]
    pub(crate) network: Option<Name>,
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// A fixed address of the network's range [default: a free one].
    #[arg(long, value_name = "ADDR", value_parser = parse::address)]
    pub(crate) ip: Option<IpAddr>,
    /// A fixed MAC address [default: derived from the address].
    #[arg(long, value_name = "MAC", value_parser = parse::mac)]
    pub(crate) mac: Option<String>,
    /// A further name of the attachment on this network; may be repeated.
    #[arg(long = "alias", value_name = "NAME")]
    pub(crate) aliases: Vec<Name>,
    /// Add a default route through this network even if there is one already.
    #[arg(long)]
    pub(crate) default_route: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Detach {
    /// Name of the attachment.
    pub(crate) name: Name,
    /// Network to detach from [default: the only one it is on].
    #[arg(long, value_name = "NET")]
    pub(crate) network: Option<Name>,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// Which container is meant.
#[derive(Debug, Default, Args)]
#[group(id = "place", multiple = false)]
pub(crate) struct PlaceArguments {
    /// Network namespace: a path, a name as in `ip netns`, or `host` for this host itself.
    #[arg(long, value_name = "PATH|NAME|host", value_parser = parse::netns)]
    netns: Option<String>,
    /// Network namespace of this process.
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Running container of Docker or Podman, by name or id; to be attached again after it has been restarted.
    #[arg(long, value_name = "C", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    container: Option<String>,
}

impl PlaceArguments {
    /// The place, if one was named.
    pub(crate) fn place(self) -> Option<Place> {
        let netns = self.netns.map(Place::Netns);
        netns.or(self.pid.map(Place::Pid)).or(self.container.map(Place::Container))
    }
}
