//! Namespaces of our own, which the holder keeps while agents come and go.
use std::collections::BTreeSet;
use std::os::fd::AsFd;

use overlay::Space;

use super::{NetworkSpace, SpaceError, Spaces, listen};
use crate::holder;
use crate::model::Name;
use crate::netns::Namespace;
use crate::runtime::agent::chain;

impl Spaces {
    /// Opens a network's namespace: the one that the holder keeps, else a new one that it then keeps.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    pub fn ensure_network(&mut self, network: &Name) -> Result<(), SpaceError> {
        if self.networks.contains_key(network) {
            return Ok(());
        }
        let space = Space::Network(network.to_string());
        let open = self.keep_space(&holder::network_name(network), space)?;
        self.networks.insert(network.clone(), open);
        Ok(())
    }

    /// The namespace that the holder keeps under a name, else a new one that it then keeps.
    fn keep_space(&self, name: &str, space: Space) -> Result<NetworkSpace, SpaceError> {
        let kept = self.holder.get(name).map_err(SpaceError::Holder)?;
        let namespace = match kept.and_then(|mut files| files.pop()) {
            Some(file) => Namespace::from_fd(file).map_err(SpaceError::Open)?,
            None => {
                let namespace = Namespace::create().map_err(SpaceError::Open)?;
                self.holder.put(name, &[namespace.as_fd()]).map_err(SpaceError::Holder)?;
                namespace
            }
        };
        let (netlink, own) = Self::register(&self.kernel, space.clone(), &namespace)?;
        let monitor = listen(&self.touched, space, &namespace, own)?;
        Ok(NetworkSpace { namespace, _netlink: netlink, _monitor: monitor })
    }

    /// Opens the namespace in which paths to other hosts are tried.
    ///
    /// # Errors
    /// When it cannot be made or kept.
    pub fn ensure_paths(&mut self) -> Result<(), SpaceError> {
        if self.paths.is_none() {
            self.paths = Some(self.keep_space(holder::PATHS_NAME, Space::Paths)?);
        }
        Ok(())
    }

    /// That namespace, if it is open.
    pub fn paths(&self) -> Option<&Namespace> {
        self.paths.as_ref().map(|space| &space.namespace)
    }

    /// Lets go of it, which ends it with all that is in it.
    pub fn drop_paths(&mut self) {
        self.kernel.remove(&Space::Paths);
        if self.paths.take().is_some()
            && let Err(error) = self.holder.drop_name(holder::PATHS_NAME)
        {
            tracing::warn!("the holder keeps the namespace of paths: {}", chain(&error));
        }
    }

    /// Networks whose namespace is open or kept.
    pub fn networks(&self) -> BTreeSet<Name> {
        let kept = self.holder.list().unwrap_or_default();
        let kept = kept.iter().filter_map(|entry| entry.name.strip_prefix("network/")?.parse().ok());
        self.networks.keys().cloned().chain(kept).collect()
    }

    /// Lets go of a network's namespace, which ends it with all that is in it.
    pub fn drop_network(&mut self, network: &Name) {
        self.kernel.remove(&Space::Network(network.to_string()));
        self.networks.remove(network);
        if let Err(error) = self.holder.drop_name(&holder::network_name(network)) {
            tracing::warn!("the holder keeps the namespace of network {network}: {}", chain(&error));
        }
    }

    /// Gives a new holder all that one keeps.
    ///
    /// # Errors
    /// The last of what it did not take; it has the rest.
    pub fn keep_again(&self) -> Result<(), SpaceError> {
        let mut outcome = Ok(());
        let mut put = |name: &str, files: &[std::os::fd::BorrowedFd<'_>]| {
            if let Err(error) = self.holder.put(name, files) {
                outcome = Err(SpaceError::Holder(error));
            }
        };
        for (network, space) in &self.networks {
            put(&holder::network_name(network), &[space.namespace.as_fd()]);
        }
        if let Some(space) = &self.paths {
            put(holder::PATHS_NAME, &[space.namespace.as_fd()]);
        }
        for (cookie, container) in &self.containers {
            let Some(resolver) = &container.resolver else { continue };
            put(&holder::resolver_name(*cookie), &resolver.kept.each_ref().map(AsFd::as_fd));
        }
        outcome
    }
}
