//! What the kernel must do: each capability is used once, the way svc-agent uses it.
//!
//! A probe makes its own namespaces and holds the only handles into them, so all it made is gone when it returns.
mod files;
mod later;
mod links;
mod privilege;
mod raw;
mod tables;

use std::time::Duration;

use futures::future::LocalBoxFuture;

use super::check::{About, Check, Lack, Verdict, judge};
use crate::netns::Namespace;

/// Longest time for one probe; longer means that the kernel does not answer.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// What trying came to: what was done, or why it could not be.
type Outcome = Result<String, Lack>;

/// How a probe is run.
#[derive(Clone, Copy)]
enum Trial {
    /// Plain system calls, and netfilter, whose socket has a time-out of its own.
    Plain(fn() -> Outcome),
    /// Route netlink.
    Links(fn() -> LocalBoxFuture<'static, Outcome>),
}

/// One capability and how it is tried.
struct Probe {
    about: About,
    trial: Trial,
}

const fn plain(
    name: &'static str,
    without: Verdict,
    needed_for: &'static str,
    provided_by: &'static str,
    trial: fn() -> Outcome,
) -> Probe {
    Probe { about: About { name, needed_for, provided_by, without }, trial: Trial::Plain(trial) }
}

const fn links(
    name: &'static str,
    needed_for: &'static str,
    provided_by: &'static str,
    trial: fn() -> LocalBoxFuture<'static, Outcome>,
) -> Probe {
    Probe {
        about: About { name, needed_for, provided_by, without: Verdict::Missing },
        trial: Trial::Links(trial),
    }
}

/// All of them, in the order of the report: what others build on first.
const PROBES: &[Probe] = &[
    plain(
        "network-namespaces",
        Verdict::Missing,
        "everything: each overlay network lives in a namespace of its own",
        "network namespaces (CONFIG_NET_NS) and user.max_net_namespaces above 0",
        files::network_namespaces,
    ),
    plain(
        "namespace-cookie",
        Verdict::Missing,
        "attach: it is how a container's namespace is told from a later one",
        "SO_NETNS_COOKIE (kernel 5.14 and later)",
        files::cookie,
    ),
    plain(
        "pidfd",
        Verdict::Missing,
        "attach --pid and --container: seeing that the container has ended",
        "pidfd_open (kernel 5.3 and later)",
        files::pidfd,
    ),
    plain(
        "inotify",
        Verdict::Missing,
        "attach --netns: seeing that the namespace has been removed",
        "inotify (CONFIG_INOTIFY_USER)",
        files::inotify,
    ),
    plain(
        "sysctl",
        Verdict::Missing,
        "overlay networks: forwarding and the bridge's filter calls are set in their namespaces",
        "a writable /proc/sys (in a container it is read-only unless it is privileged)",
        files::sysctl,
    ),
    plain(
        "packet-socket",
        Verdict::Degraded,
        "announcing an address that has moved to another MAC",
        "module af_packet (CONFIG_PACKET)",
        files::packet_socket,
    ),
    links(
        "veth",
        "attach: the link between a container and its network",
        "module veth (CONFIG_VETH)",
        || Box::pin(links::veth()),
    ),
    links(
        "bridge",
        "overlay networks: local delivery, and answers to ARP without flooding",
        "module bridge (CONFIG_BRIDGE) with neighbour suppression (kernel 4.15 and later)",
        || Box::pin(links::bridge()),
    ),
    links("vxlan", "overlay networks: the tunnel between hosts", "module vxlan (CONFIG_VXLAN)", || {
        Box::pin(links::vxlan())
    }),
    plain(
        "nftables",
        Verdict::Missing,
        "everything that filters or translates",
        "module nf_tables with families ip and inet (CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET)",
        tables::tables,
    ),
    plain(
        "nftables-nat",
        Verdict::Missing,
        "the resolver at 127.0.0.11, virtual addresses and egress",
        "modules nft_chain_nat, nft_nat and nft_masq (CONFIG_NFT_NAT, CONFIG_NFT_MASQ)",
        tables::nat,
    ),
    plain(
        "nftables-balancing",
        Verdict::Missing,
        "virtual addresses: choosing a replica",
        "module nft_numgen (CONFIG_NFT_NUMGEN), kernel 5.6 and later",
        tables::balancing,
    ),
    plain(
        "nftables-bridge",
        Verdict::Missing,
        "the fence that keeps a container from using another's address",
        "family bridge of nf_tables (CONFIG_NF_TABLES_BRIDGE)",
        tables::bridge,
    ),
    plain(
        "nftables-owner",
        Verdict::Degraded,
        "virtual addresses outliving `nft flush ruleset` in a container; without it an additional table keeps \
         established flows and the rules are repaired within a second",
        "table flags owner and persist (kernel 6.9 and later)",
        tables::owner,
    ),
    plain(
        "conntrack",
        Verdict::Missing,
        "virtual addresses: ending flows to replicas that have gone",
        "modules nf_conntrack and nf_conntrack_netlink (CONFIG_NF_CT_NETLINK)",
        tables::flows,
    ),
    plain(
        "conntrack-timeouts",
        Verdict::Degraded,
        "idle connections to a virtual address outliving the namespace's own time-outs",
        "module nft_ct with time-out objects (CONFIG_NF_CONNTRACK_TIMEOUT)",
        tables::timeouts,
    ),
    plain(
        "ipvs",
        Verdict::Info,
        "least-connection balancing, a later and optional feature",
        "module ip_vs (CONFIG_IP_VS)",
        later::ipvs,
    ),
    plain(
        "esp",
        Verdict::Info,
        "encrypted networks",
        "modules xfrm_user, esp4 and gcm (CONFIG_XFRM_USER, CONFIG_INET_ESP, CONFIG_CRYPTO_GCM)",
        later::esp,
    ),
];

/// Tries everything.
pub(super) async fn checks() -> Vec<Check> {
    let lacking = privilege::lacking();
    let mut checks = privilege::checks(&lacking);
    for probe in PROBES {
        let outcome = attempt(probe.trial).await;
        checks.push(judge(&probe.about, outcome, &lacking));
    }
    checks
}

async fn attempt(trial: Trial) -> Outcome {
    match trial {
        Trial::Plain(trial) => trial(),
        Trial::Links(trial) => tokio::time::timeout(PROBE_TIMEOUT, trial()).await.unwrap_or_else(|_| {
            Err(Lack::because(format!("no answer from the kernel within {} s", PROBE_TIMEOUT.as_secs())))
        }),
    }
}

/// A namespace that ends with the returned value and with what was opened in it.
fn scratch() -> Result<Namespace, Lack> {
    Namespace::create().map_err(|error| Lack::chain(&error))
}

/// Runs a trial inside a scratch namespace.
fn inside(trial: impl FnOnce() -> Outcome + Send) -> Outcome {
    scratch()?.run(trial).map_err(|error| Lack::chain(&error))?
}
