//! What the kernel must do: each capability is used once, the way svc-agent uses it.
//!
//! A probe makes its own namespaces and holds the only handles into them, so all it made is gone when it returns.
mod files;
mod later;
mod links;
mod privilege;
mod raw;
mod tables;
#[cfg(test)]
mod tests;

use std::time::Duration;

use futures::future::LocalBoxFuture;

use self::Trial::{Links, Plain};
use super::check::Verdict::{Degraded, Info, Missing};
use super::check::{About, Check, FIRST_PROBE, Lack, judge};
use crate::netns::Namespace;

/// Takes making or entering a namespace.
const SYS_ADMIN: Option<&str> = Some("CAP_SYS_ADMIN");
/// Takes anything within a namespace's network.
const NET_ADMIN: Option<&str> = Some("CAP_NET_ADMIN");

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

/// All of them, in the order of the report: what others build on first.
const PROBES: &[Probe] = &[
    Probe {
        about: About {
            name: FIRST_PROBE,
            needed_for: "everything: each overlay network lives in a namespace of its own",
            remedy: "use a kernel with CONFIG_NET_NS, and raise /proc/sys/user/max_net_namespaces",
            capability: SYS_ADMIN,
            without: Missing,
        },
        trial: Plain(files::network_namespaces),
    },
    Probe {
        about: About {
            name: "namespace-cookie",
            needed_for: "attach: it is how a container's namespace is told from a later one",
            remedy: "use kernel 5.14 or later (SO_NETNS_COOKIE)",
            capability: None,
            without: Missing,
        },
        trial: Plain(files::cookie),
    },
    Probe {
        about: About {
            name: "pidfd",
            needed_for: "attach --pid and --container: seeing that the container has ended",
            remedy: "use kernel 5.3 or later (pidfd_open), and allow it in the seccomp filter",
            capability: None,
            without: Missing,
        },
        trial: Plain(files::pidfd),
    },
    Probe {
        about: About {
            name: "inotify",
            needed_for: "attach --netns: seeing that the namespace has been removed",
            remedy: "use a kernel with CONFIG_INOTIFY_USER, and raise the limits in /proc/sys/fs/inotify",
            capability: None,
            without: Missing,
        },
        trial: Plain(files::inotify),
    },
    Probe {
        about: About {
            name: "sysctl",
            needed_for: "overlay networks: forwarding, and no host filter on bridged frames",
            remedy: "mount /proc/sys writable (in a container: run it privileged)",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Plain(files::sysctl),
    },
    Probe {
        about: About {
            name: "packet-socket",
            needed_for: "announcing an address that has moved to another MAC",
            remedy: "load module af_packet, or use a kernel with CONFIG_PACKET",
            capability: Some("CAP_NET_RAW"),
            without: Degraded,
        },
        trial: Plain(files::packet_socket),
    },
    Probe {
        about: About {
            name: "veth",
            needed_for: "attach: the link between a container and its network",
            remedy: "load module veth, or use a kernel with CONFIG_VETH",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Links(|| Box::pin(links::veth())),
    },
    Probe {
        about: About {
            name: "bridge",
            needed_for: "overlay networks: local delivery, and answers to ARP without flooding",
            remedy: "load module bridge, or use a kernel (4.15 or later) with CONFIG_BRIDGE",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Links(|| Box::pin(links::bridge())),
    },
    Probe {
        about: About {
            name: "vxlan",
            needed_for: "overlay networks: the tunnel between hosts",
            remedy: "load module vxlan, or use a kernel with CONFIG_VXLAN",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Links(|| Box::pin(links::vxlan())),
    },
    Probe {
        about: About {
            name: "nftables",
            needed_for: "everything that filters or translates",
            remedy: "load module nf_tables, or use a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_INET",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Plain(tables::tables),
    },
    Probe {
        about: About {
            name: "nftables-nat",
            needed_for: "the resolver at 127.0.0.11, virtual addresses and egress",
            remedy: "load modules nft_chain_nat and nft_masq, or use a kernel with CONFIG_NFT_NAT and CONFIG_NFT_MASQ",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Plain(tables::nat),
    },
    Probe {
        about: About {
            name: "nftables-balancing",
            needed_for: "virtual addresses: choosing a replica",
            remedy: "load module nft_numgen, or use a kernel with CONFIG_NFT_NUMGEN",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Plain(tables::balancing),
    },
    Probe {
        about: About {
            name: "nftables-device",
            needed_for: "the fence that keeps a container from using another's address",
            remedy: "load module nft_fwd_netdev, or use a kernel with CONFIG_NF_TABLES_NETDEV and CONFIG_NFT_FWD_NETDEV",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Plain(tables::device),
    },
    Probe {
        about: About {
            name: "nftables-owner",
            needed_for: "flows that outlive `nft flush ruleset` in a container; without it a further table keeps them",
            remedy: "use kernel 6.9 or later (table flags owner and persist)",
            capability: NET_ADMIN,
            without: Degraded,
        },
        trial: Plain(tables::owner),
    },
    Probe {
        about: About {
            name: "conntrack",
            needed_for: "virtual addresses: ending flows to replicas that have gone",
            remedy: "load module nf_conntrack_netlink, or use a kernel with CONFIG_NF_CT_NETLINK",
            capability: NET_ADMIN,
            without: Missing,
        },
        trial: Plain(tables::flows),
    },
    Probe {
        about: About {
            name: "conntrack-timeouts",
            needed_for: "idle connections to a virtual address that outlive the kernel's own time-outs",
            remedy: "use a kernel with CONFIG_NF_CONNTRACK_TIMEOUT",
            capability: NET_ADMIN,
            without: Degraded,
        },
        trial: Plain(tables::timeouts),
    },
    Probe {
        about: About {
            name: "ipvs",
            needed_for: "least-connection balancing, an option",
            remedy: "load module ip_vs, or use a kernel with CONFIG_IP_VS",
            capability: NET_ADMIN,
            without: Info,
        },
        trial: Plain(later::ipvs),
    },
    Probe {
        about: About {
            name: "esp",
            needed_for: "encrypted networks",
            remedy: "load modules esp4 and gcm, or use a kernel with CONFIG_XFRM_USER, CONFIG_INET_ESP and CONFIG_CRYPTO_GCM",
            capability: NET_ADMIN,
            without: Info,
        },
        trial: Plain(later::esp),
    },
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
        Plain(trial) => trial(),
        Links(trial) => tokio::time::timeout(PROBE_TIMEOUT, trial()).await.unwrap_or_else(|_| {
            Err(Lack::because(format!("no answer from the kernel within {} s", PROBE_TIMEOUT.as_secs())))
        }),
    }
}

/// A namespace that ends with the returned value and with what was opened in it.
fn scratch() -> Result<Namespace, Lack> {
    Namespace::create().map_err(|error| Lack::chain(&error).untried())
}

/// Runs a trial inside a scratch namespace.
fn inside(trial: impl FnOnce() -> Outcome + Send) -> Outcome {
    scratch()?.run(trial).map_err(|error| Lack::chain(&error))?
}
