//! Why a namespace cannot be worked in.
use crate::holder;

/// A namespace could not be opened; what was open stays so.
#[derive(Debug, thiserror::Error)]
pub enum SpaceError {
    /// The namespace itself, or a socket in it.
    #[error("open the namespace")]
    Open(#[source] crate::netns::Error),
    /// It has ended, or its place shows another one now.
    #[error("the namespace is gone")]
    Gone,
    /// The holder did not take or give its descriptors.
    #[error("hand its descriptors to the holder")]
    Holder(#[source] holder::Error),
    /// No memory, or no file descriptor, for what a restart is to find of look-ups that wait.
    #[error("keep notes of look-ups that wait")]
    Notes(#[source] std::io::Error),
    /// The resolver did not start.
    #[error("start its resolver")]
    Resolver(#[source] dns::ServerError),
    /// Its balancing tables could not be removed.
    #[error("remove its balancing tables")]
    Table(#[source] lb::Error),
    /// A netfilter socket could not be opened in it.
    #[error("open netfilter in it")]
    Netfilter(#[source] netfilter::Error),
}
