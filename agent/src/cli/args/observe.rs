//! `node …`, `status`, `events`, `resolve`.
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Waiting;
use crate::cli::{examples, parse};
use crate::model::Name;

#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List the hosts of the cluster.
    #[command(after_help = examples::NODE_LS)]
    Ls,
    /// End a host that will not return: its replicas, addresses and promises are given up.
    #[command(after_help = examples::NODE_RM)]
    Rm {
        /// Name or id of the host.
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        name: String,
        #[command(flatten)]
        waiting: Waiting,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Ask again until all is well, for at most this long.
    #[arg(long, value_name = "DUR", value_parser = parse::timeout)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct Events {
    /// Go on with what happens next, over restarts of the agent; with -o json, one event per line.
    #[arg(long, short)]
    pub(crate) follow: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// Name to look up, as the container would.
    #[arg(value_parser = parse::query_name)]
    pub(crate) name: String,
    /// Attachment whose resolver is asked.
    #[arg(long, value_name = "ATTACHMENT")]
    pub(crate) on: Name,
    /// Type of record: A, AAAA, SRV, PTR, ...
    #[arg(long = "type", value_name = "T", default_value = "A", value_parser = parse::record_type)]
    pub(crate) record_type: String,
}
