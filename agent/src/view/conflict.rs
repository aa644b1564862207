//! What cannot stand beside something else, so that whoever made it can be told.
use std::fmt;
use std::net::IpAddr;

use crate::model::{Name, NodeId, Stamp};

/// Something that was declared and is not heeded.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// A younger creation of a network's name; `born.node` made it.
    Network {
        /// The network.
        network: Name,
        /// The creation that lost.
        born: Stamp,
    },
    /// An attachment whose name stands on another host; its owner must fence it.
    Name {
        /// The network.
        network: Name,
        /// The attachment.
        attachment: Name,
        /// Host of the one that lost.
        owner: NodeId,
        /// Host of the one that stands.
        standing: NodeId,
    },
    /// An attachment of whose addresses another attachment holds one; its owner must fence it.
    Address {
        /// The network.
        network: Name,
        /// The attachment that lost.
        attachment: Name,
        /// Its host.
        owner: NodeId,
        /// What both hold.
        address: IpAddr,
        /// The attachment that keeps it.
        holder: Name,
        /// The holder's host.
        standing: NodeId,
    },
    /// An attachment without an address, or with one outside the subnets of the network's definition that stands.
    Outside {
        /// The network.
        network: Name,
        /// The attachment.
        attachment: Name,
        /// Its host.
        owner: NodeId,
    },
    /// A younger creation of a service whose settings differ from those that stand; `born.node` made it.
    Settings {
        /// The network.
        network: Name,
        /// The service.
        service: Name,
        /// The creation whose settings are not heeded.
        born: Stamp,
    },
    /// A VIP outside the subnets of the network's definition that stands.
    Vip {
        /// The network.
        network: Name,
        /// The service.
        service: Name,
        /// The creation that brought it.
        born: Stamp,
        /// The VIP, which is not served.
        vip: IpAddr,
    },
}

impl Conflict {
    /// The host that can put it right: the attachment's, or the creation's maker.
    pub fn blamed(&self) -> NodeId {
        match self {
            Self::Network { born, .. } | Self::Settings { born, .. } | Self::Vip { born, .. } => born.node,
            Self::Name { owner, .. } | Self::Address { owner, .. } | Self::Outside { owner, .. } => *owner,
        }
    }

    /// The network it is about.
    pub fn network(&self) -> &Name {
        match self {
            Self::Network { network, .. }
            | Self::Name { network, .. }
            | Self::Address { network, .. }
            | Self::Outside { network, .. }
            | Self::Settings { network, .. }
            | Self::Vip { network, .. } => network,
        }
    }

    /// The service it is about, if it is about one.
    pub fn service(&self) -> Option<&Name> {
        match self {
            Self::Settings { service, .. } | Self::Vip { service, .. } => Some(service),
            Self::Network { .. } | Self::Name { .. } | Self::Address { .. } | Self::Outside { .. } => None,
        }
    }

    /// The attachment that does not stand, and its owner who must fence it, if it is about one.
    pub fn attachment(&self) -> Option<(&Name, NodeId)> {
        match self {
            Self::Name { attachment, owner, .. }
            | Self::Address { attachment, owner, .. }
            | Self::Outside { attachment, owner, .. } => Some((attachment, *owner)),
            Self::Network { .. } | Self::Settings { .. } | Self::Vip { .. } => None,
        }
    }
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network { network, .. } => {
                write!(
                    f,
                    "network {network} was also created elsewhere, earlier; this later creation is not used"
                )
            }
            Self::Name { network, attachment, .. } => {
                write!(f, "attachment {attachment} on network {network} has been taken over by another host")
            }
            Self::Address { network, attachment, address, holder, .. } => {
                write!(f, "attachment {attachment} on network {network}: {address} is held by {holder}")
            }
            Self::Outside { network, attachment, .. } => {
                write!(
                    f,
                    "attachment {attachment} on network {network}: not all its addresses are in the subnets"
                )
            }
            Self::Settings { network, service, .. } => {
                let advice = "the settings of the earlier registration stand";
                write!(f, "service {service} on network {network} was registered twice: {advice}")
            }
            Self::Vip { network, service, vip, .. } => {
                write!(
                    f,
                    "service {service} on network {network}: VIP {vip} is outside the network's subnets"
                )
            }
        }
    }
}

/// What conflicts are kept under within a network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Network,
    Attachment(Name),
    Service(Name),
}
