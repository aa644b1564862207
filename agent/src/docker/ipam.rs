//! Addresses that Docker asks for: given out by the allocator, and Docker's until it gives them back.
use std::net::IpAddr;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use super::wire;
use crate::addresses::{Layout, Wanted};
use crate::catalog::facts::Region;
use crate::model::Name;
use crate::runtime::agent::Agent;
use crate::runtime::claiming::Hold;
use crate::runtime::events::lock;
use crate::runtime::verbs::addressing;

/// A pool is one subnet of a network. Its id says all there is to know, so that none has to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pool {
    /// `None`: made by hand, and the network's name is not known yet.
    network: Option<Name>,
    subnet: IpNetwork,
}

impl Pool {
    fn id(&self) -> String {
        format!("{}={}", self.network.as_ref().map_or("", Name::as_str), self.subnet)
    }

    fn of(id: &str) -> Result<Self, String> {
        let read = || {
            let (network, subnet) = id.split_once('=')?;
            let network = if network.is_empty() { None } else { Some(network.parse().ok()?) };
            Some(Self { network, subnet: subnet.parse().ok()? })
        };
        read().ok_or_else(|| format!("\"{}\" is no pool of this driver", id.escape_default()))
    }
}

/// The pool of a network, which its creation names in an option; answers its id and its subnet.
///
/// # Errors
/// When there is no such network, or no such subnet of it.
pub(super) fn request_pool(
    agent: &Agent,
    request: &wire::RequestPool,
) -> Result<(String, IpNetwork), String> {
    let asked: Option<IpNetwork> = match request.pool.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| format!("\"{}\" is no subnet", text.escape_default()))?),
    };
    let named = request.options.as_ref().and_then(|options| options.get(super::NETWORK_OPTION));
    let Some(named) = named else {
        // Docker would ask again and again for one that its host has no route to.
        let subnet = asked.ok_or("give a --subnet, or leave --ipam-driver out")?;
        return Ok((Pool { network: None, subnet }.id(), subnet));
    };
    let name: Name = named.parse().map_err(|_| format!("\"{}\" is no name", named.escape_default()))?;
    let record = agent.read(|state| state.catalog.network(&name));
    let record = record.ok_or_else(|| format!("network {name} does not exist"))?;
    let mut subnets = record.definition.subnets.iter().filter(|subnet| subnet.is_ipv6() == request.six);
    let subnet = subnets.find(|subnet| asked.is_none_or(|asked| asked == **subnet));
    let subnet = *subnet.ok_or_else(|| format!("network {name} has no such subnet: {}", request.pool))?;
    Ok((Pool { network: Some(name), subnet }.id(), subnet))
}

/// An address of a pool with its prefix length: the gateway's, a certain one or any.
///
/// # Errors
/// Why none can be had.
pub(super) async fn request_address(agent: &Arc<Agent>, request: &wire::Address) -> Result<String, String> {
    let pool = Pool::of(&request.pool)?;
    let layout = Layout::new(pool.subnet).map_err(|error| error.to_string())?;
    let asked: Option<IpAddr> = match request.address.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| format!("\"{}\" is no address", text.escape_default()))?),
    };
    let shown = |address: IpAddr| format!("{address}/{}", pool.subnet.prefix());
    let kind = request.options.as_ref().and_then(|options| options.get(wire::REQUEST_TYPE));
    if kind.is_some_and(|kind| kind == wire::GATEWAY) {
        let gateway = layout.gateway();
        return match asked.filter(|asked| *asked != gateway) {
            Some(other) => Err(format!("the gateway of {} is {gateway}, not {other}", pool.subnet)),
            None => Ok(shown(gateway)),
        };
    }
    let network = pool.network.clone().ok_or("this network is being taken up; try again in a second")?;
    let wanted = asked.map_or(Wanted::Any, Wanted::Exactly);
    let mut hold = Hold::new(agent, Vec::new());
    let given = addressing::allocate(agent, &network, layout, (Region::Endpoint, wanted), &mut hold).await;
    let address = given.map_err(|failure| failure.message)?;
    super::driver::change(agent, |state| {
        state.docker.lease(&network, address);
        Ok(())
    })?;
    // Docker's from here on; the hold ends.
    lock(&agent.state).leases.insert(&network, address);
    Ok(shown(address))
}

/// Docker has no use for an address any more.
pub(super) fn release_address(agent: &Agent, request: &wire::Address) -> Result<(), String> {
    let pool = Pool::of(&request.pool)?;
    let (Some(network), Ok(address)) = (pool.network, request.address.parse::<IpAddr>()) else {
        return Ok(());
    };
    super::driver::release(agent, &network, address)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pools_id_says_what_it_is() {
        for network in [None, Some("payment".parse().unwrap())] {
            for subnet in ["10.1.0.0/16", "fd00:1::/64"] {
                let pool = Pool { network: network.clone(), subnet: subnet.parse().unwrap() };
                assert_eq!(Pool::of(&pool.id()).unwrap(), pool);
            }
        }
        for id in ["", "payment", "payment=", "=x", "a b=10.0.0.0/8"] {
            assert!(Pool::of(id).is_err(), "{id}");
        }
    }
}
