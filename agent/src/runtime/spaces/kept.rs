//! Namespaces of our own, which the holder keeps while agents come and go.
use std::collections::BTreeSet;
use std::os::fd::AsFd;

use overlay::Space;

use super::{NetworkSpace, SpaceError, Spaces};
use crate::holder;
use crate::model::Name;
use crate::netns::Namespace;

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
    fn keep_space(&mut self, name: &str, space: Space) -> Result<NetworkSpace, SpaceError> {
        // It is wanted again.
        self.unreleased.remove(name);
        let kept = self.holder.get(name).map_err(SpaceError::Holder)?;
        let namespace = match kept.and_then(|mut files| files.pop()) {
            Some(file) => Namespace::from_fd(file).map_err(SpaceError::Open)?,
            None => {
                let namespace = Namespace::create().map_err(SpaceError::Open)?;
                self.holder.put(name, &[namespace.as_fd()]).map_err(SpaceError::Holder)?;
                namespace
            }
        };
        let (netlink, monitor) = Self::open(&self.kernel, &self.touched, space, &namespace)?;
        Ok(NetworkSpace { namespace, netlink, _monitor: monitor })
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
    ///
    /// # Errors
    /// When the holder keeps it; [`Self::release_again`] tries again.
    pub fn drop_paths(&mut self) -> Result<(), SpaceError> {
        self.kernel.remove(&Space::Paths);
        match self.paths.take() {
            Some(_) => self.release(holder::PATHS_NAME.to_owned()),
            None => Ok(()),
        }
    }

    /// Networks whose namespace is open or kept.
    pub fn networks(&self) -> BTreeSet<Name> {
        let kept = self.holder.list().unwrap_or_default();
        let kept = kept.iter().filter_map(|entry| entry.name.strip_prefix("network/")?.parse().ok());
        self.networks.keys().cloned().chain(kept).collect()
    }

    /// Lets go of a network's namespace, which ends it with all that is in it.
    ///
    /// # Errors
    /// When the holder keeps it; [`Self::release_again`] tries again.
    pub fn drop_network(&mut self, network: &Name) -> Result<(), SpaceError> {
        self.kernel.remove(&Space::Network(network.to_string()));
        self.networks.remove(network);
        self.release(holder::network_name(network))
    }

    /// Has the holder let go of a name.
    pub(super) fn release(&mut self, name: String) -> Result<(), SpaceError> {
        let released = self.holder.drop_name(&name).map(drop).map_err(SpaceError::Holder);
        if released.is_err() {
            self.unreleased.insert(name);
        }
        released
    }

    /// Has the holder let go of what it did not let go of before.
    ///
    /// # Errors
    /// The first of what it keeps still: a holder that hangs is not waited for once for each.
    pub fn release_again(&mut self) -> Result<(), SpaceError> {
        while let Some(name) = self.unreleased.pop_first() {
            self.release(name)?;
        }
        Ok(())
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
            put(&holder::resolver_name(*cookie), &resolver.server.files());
        }
        outcome
    }
}
