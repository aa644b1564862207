//! `register`, `deregister`, `service …`, `drain`.
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::{PlaceArguments, Waiting};
use crate::catalog::facts::{Balance, PortSetting, Probe, ServiceMode};
use crate::cli::{examples, parse};
use crate::model::Name;

#[derive(Debug, Args)]
pub(crate) struct Register {
    /// Name of the service: a DNS label.
    pub(crate) service: Name,
    /// Network of the service [default: the attachment's, where it is on one].
    #[arg(long, value_name = "NET")]
    pub(crate) network: Option<Name>,
    /// Attachment that serves [default: the one of the namespace this command runs in, else the only one on this host].
    #[arg(long, value_name = "ATTACHMENT", conflicts_with = "place")]
    pub(crate) on: Option<Name>,
    #[command(flatten)]
    pub(crate) place: PlaceArguments,
    /// Share of new flows beside the other replicas', 0 to 256 [default: 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=256))]
    pub(crate) weight: Option<u16>,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

/// Settings of a service; what is not given is not meant.
#[derive(Debug, Default, Args)]
pub(crate) struct SettingArguments {
    /// Port of the service, and of its replicas where that differs; may be repeated [default: every port, unchanged].
    #[arg(long = "port", value_name = "[PUBLIC:]TARGET[/PROTO]", value_parser = parse::port)]
    pub(crate) ports: Vec<PortSetting>,
    /// A further name of the service; may be repeated.
    #[arg(long = "alias", value_name = "NAME")]
    pub(crate) aliases: Vec<Name>,
    /// How its name is answered: with the virtual IP, or with the replicas' addresses [default: vip].
    #[arg(long, value_name = "MODE", value_parser = PossibleValuesParser::new(["vip", "dnsrr"]).map(parse::mode))]
    pub(crate) mode: Option<ServiceMode>,
    /// How new flows are spread over the replicas [default: random].
    #[arg(long, value_name = "POLICY", value_parser = PossibleValuesParser::new(["random", "hash", "least-conn"]).map(parse::balance))]
    pub(crate) lb: Option<Balance>,
    /// Health check, run inside the replica's namespace [default: none].
    #[arg(long, value_name = "tcp:PORT|http://:PORT/PATH", value_parser = parse::probe)]
    pub(crate) check: Option<Probe>,
    /// Time between two checks, 100ms to 1h [default: 1s].
    #[arg(long, value_name = "DUR", value_parser = parse::check_interval, requires = "check")]
    pub(crate) check_interval: Option<Duration>,
    /// Time until a check counts as failed, 10ms to 1m [default: 1s].
    #[arg(long, value_name = "DUR", value_parser = parse::check_timeout, requires = "check")]
    pub(crate) check_timeout: Option<Duration>,
    /// Time-outs in a row until the replica gets no new flows, 1 to 100 [default: 2].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100), requires = "check")]
    pub(crate) check_failures: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Deregister {
    /// Name of the service.
    pub(crate) service: Name,
    /// Network of the service [default: the only one that has it].
    #[arg(long, value_name = "NET")]
    pub(crate) network: Option<Name>,
    /// Take out only this replica [default: all of them, and the service].
    #[arg(long, value_name = "ATTACHMENT")]
    pub(crate) on: Option<Name>,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ServiceVerb {
    /// Change settings of a service on all hosts; what is not given stays.
    #[command(after_help = examples::SERVICE_SET)]
    Set(Set),
    /// Show one service with its replicas.
    #[command(after_help = examples::SERVICE_INSPECT)]
    Inspect {
        /// Name of the service.
        service: Name,
        /// Network of the service [default: the only one that has it].
        #[arg(long, value_name = "NET")]
        network: Option<Name>,
    },
    /// List the services.
    #[command(after_help = examples::SERVICE_LS)]
    Ls,
}

#[derive(Debug, Args)]
pub(crate) struct Set {
    /// Name of the service.
    pub(crate) service: Name,
    /// Network of the service [default: the only one that has it].
    #[arg(long, value_name = "NET")]
    pub(crate) network: Option<Name>,
    #[command(flatten)]
    pub(crate) settings: SettingArguments,
    /// Declare no ports: every port is served again.
    #[arg(long, conflicts_with = "ports")]
    pub(crate) no_ports: bool,
    /// Drop all further names.
    #[arg(long, conflicts_with = "aliases")]
    pub(crate) no_aliases: bool,
    /// Run no health check any more: every replica that is not drained gets flows.
    #[arg(long, conflicts_with = "check")]
    pub(crate) no_check: bool,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Name of the service.
    pub(crate) service: Name,
    /// Network of the service [default: the only one that has it].
    #[arg(long, value_name = "NET")]
    pub(crate) network: Option<Name>,
    /// Attachment of the replica.
    #[arg(long, value_name = "ATTACHMENT")]
    pub(crate) on: Name,
    /// Longest time to wait for the other hosts [default: --timeout, else 2s].
    #[arg(long, value_name = "DUR", value_parser = parse::timeout)]
    pub(crate) wait: Option<Duration>,
    #[command(flatten)]
    pub(crate) waiting: Waiting,
}
