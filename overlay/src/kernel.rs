//! What the reconciler asks of a kernel: narrow, so that it has three implementations.
pub(crate) mod fake;
pub(crate) mod faulty;
pub(crate) mod linux;

use std::io;

use async_trait::async_trait;

use crate::{Observed, Op, Space};

/// What of /proc/sys is read in the host's namespace, and in those of networks.
const HOST_SYSCTLS: &[&str] = &["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"];
const NETWORK_SYSCTLS: &[&str] = &[
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-arptables",
    "net/ipv6/conf/default/addr_gen_mode",
    "net/ipv6/conf/default/accept_ra",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/all/arp_ignore",
    "net/ipv4/conf/all/send_redirects",
    "net/ipv4/conf/default/send_redirects",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
];

/// And in that of paths.
const PATHS_SYSCTLS: &[&str] = &[
    "net/ipv6/conf/default/addr_gen_mode",
    "net/ipv6/conf/default/accept_ra",
    "net/ipv4/icmp_echo_ignore_all",
    "net/ipv4/icmp_ratemask",
];

/// How much of a namespace is read. The greater includes the lesser.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// What route netlink and /proc/sys tell: links and what they carry. The kernel says whose change of its nf_tables
    /// tables it was, so that those are read only after somebody else's.
    Links,
    /// Those and the tables.
    All,
}

/// A kernel's namespaces.
#[async_trait]
pub trait Kernel: Send + Sync {
    /// The namespaces that can be worked in now.
    fn spaces(&self) -> Vec<Space>;
    /// What a namespace holds, as far as `look` goes; the rest is left empty. The cost grows with the namespace.
    async fn observe(&self, space: &Space, look: Look) -> Result<Observed, KernelError>;
    /// Does one thing. After an error it is not known whether it was done.
    async fn apply(&self, space: &Space, op: &Op) -> Result<(), KernelError>;
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// No sockets were handed over for this namespace, or they were taken back.
    #[error("no handles into {0}")]
    NoSpace(Space),
    /// There is no such link.
    #[error("no link {name} in {space}")]
    NoLink {
        /// Where.
        space: Space,
        /// Its name.
        name: String,
    },
    /// The kernel refused a request.
    #[error("the kernel refused it")]
    Refused(#[source] io::Error),
    /// The route netlink socket failed.
    #[error("route netlink failed")]
    Route(#[source] Box<rtnetlink::Error>),
    /// netfilter refused a change, or its socket failed.
    #[error("netfilter failed")]
    Netfilter(#[source] netfilter::Error),
    /// A file or a packet socket failed.
    #[error("{what} failed")]
    Io {
        /// The file, or what the socket is for.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A thread that worked inside a namespace ended early.
    #[error("a worker thread ended early")]
    Worker,
}

impl KernelError {
    /// The kernel's error number, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::NoSpace(_) | Self::Worker | Self::Route(_) => None,
            Self::NoLink { .. } => Some(libc::ENODEV),
            Self::Refused(source) | Self::Io { source, .. } => source.raw_os_error(),
            Self::Netfilter(source) => source.errno(),
        }
    }

    /// The error and all it came from, in one line.
    pub fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut next = std::error::Error::source(self);
        while let Some(source) = next {
            text.push_str(": ");
            text.push_str(&source.to_string());
            next = source.source();
        }
        text
    }
}

/// One kernel may serve a reconciler and whoever hands it namespaces.
#[async_trait]
impl<K: Kernel + ?Sized> Kernel for std::sync::Arc<K> {
    fn spaces(&self) -> Vec<Space> {
        (**self).spaces()
    }

    async fn observe(&self, space: &Space, look: Look) -> Result<Observed, KernelError> {
        (**self).observe(space, look).await
    }

    async fn apply(&self, space: &Space, op: &Op) -> Result<(), KernelError> {
        (**self).apply(space, op).await
    }
}
