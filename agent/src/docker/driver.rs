//! Networks and endpoints, as Docker makes and removes them.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use ipnetwork::IpNetwork;
use serde_json::Value;

use super::books::Endpoint;
use super::{NETWORK_OPTION, attaching, wire};
use crate::addresses;
use crate::model::Name;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;
use crate::runtime::state::State;
use crate::runtime::verbs::addressing;
use crate::store::Writes;

/// Options of `docker network create -o` that are known.
const MTU: &str = "com.docker.network.driver.mtu";
const ENCRYPTED: &str = "encrypted";

/// Changes the books and writes them down; nothing has changed if that fails.
///
/// # Errors
/// Why not.
pub(super) fn change(
    agent: &Agent,
    change: impl FnOnce(&mut State) -> Result<(), String>,
) -> Result<(), String> {
    tokio::task::block_in_place(|| {
        let mut state = lock(&agent.state);
        let before = state.docker.clone();
        let done = change(&mut state).and_then(|()| {
            let mut writes = Writes::default();
            let freed = addressing::put_freed(&state, Instant::now(), &mut writes);
            let written = freed.and_then(|()| state.docker.put(&mut writes));
            let written = written.and_then(|()| agent.store.commit(&writes, true));
            written.map_err(|error| chain(&error))
        });
        if done.is_err() {
            state.docker = before;
        }
        done
    })
}

/// What a network's own options say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// Which network of the cluster it is, if we made it.
    pub network: Option<String>,
    /// Bytes.
    pub mtu: Option<u32>,
}

/// Reads the options given with `-o`.
///
/// # Errors
/// What is not known, or cannot be done.
pub(super) fn options<'a>(given: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Options, String> {
    let mut options = Options::default();
    for (key, value) in given {
        match key {
            NETWORK_OPTION => options.network = Some(value.to_owned()),
            MTU => {
                let mtu = value.parse().map_err(|_| format!("-o {MTU}={value}: no number of bytes"))?;
                options.mtu = Some(mtu);
            }
            ENCRYPTED => {
                return Err(
                    "this version cannot encrypt a network yet, and will not carry it in clear: leave \
                            -o encrypted out only where the underlay is trusted"
                        .to_owned(),
                );
            }
            // Docker's own words to any driver, as com.docker.network.enable_ipv6.
            _ if key.starts_with("com.docker.") => {}
            _ => return Err(format!("-o {key} is not known to this driver; it knows {MTU}")),
        }
    }
    Ok(options)
}

/// A network is made: one of ours by its option, else by hand, to be taken up once its name is known.
pub(super) fn create_network(agent: &Agent, request: &wire::CreateNetwork) -> Result<(), String> {
    let generic = match request.options.get(wire::GENERIC) {
        Some(Value::Object(generic)) => generic.clone(),
        _ => serde_json::Map::new(),
    };
    let given = generic.iter().map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default()));
    let options = options(given)?;
    let name = options.network.map(|text| text.parse().map_err(|error| format!("{text}: {error}")));
    let name = name.transpose()?;
    change(agent, |state| {
        if let Some(name) = name.as_ref().filter(|name| state.catalog.network(name).is_none()) {
            return Err(format!("network {name} does not exist"));
        }
        state.docker.put_network(&request.network, name).map_err(|error| format!("networks: {error}"))
    })?;
    agent.docker.look.notify_one();
    Ok(())
}

/// A network is removed at Docker: by us, or by somebody who wants it gone everywhere, once its event has come.
pub(super) fn delete_network(agent: &Agent, request: &wire::About) -> Result<(), String> {
    let mut name = None;
    change(agent, |state| {
        name = state.docker.network(&request.network).cloned();
        state.docker.remove_network(&request.network);
        Ok(())
    })?;
    tracing::debug!(id = request.network, ?name, "Docker deletes a network");
    if let Some(name) = name.filter(|_| !lock(&agent.docker.removing).contains(&request.network)) {
        // Docker also takes a creation back so; its event says that there was one and is none any more.
        lock(&agent.docker.deleted).insert(request.network.clone(), (name, Instant::now()));
    }
    Ok(())
}

/// An endpoint is made; answers the MAC, if the choice is ours.
pub(super) fn create_endpoint(
    agent: &Agent,
    request: &wire::CreateEndpoint,
) -> Result<Option<String>, String> {
    let interface = request.interface.as_ref().ok_or("an endpoint without an interface")?;
    let given = [&interface.address, &interface.address_six];
    let addresses: Vec<IpAddr> = given
        .into_iter()
        .filter(|text| !text.is_empty())
        .map(|text| text.parse::<IpNetwork>().map(|address| address.ip()))
        .collect::<Result<_, _>>()
        .map_err(|error| format!("an address that is none: {error}"))?;
    let first = *addresses.first().ok_or("an endpoint without an address")?;
    let asked = Some(&interface.mac_address).filter(|text| !text.is_empty());
    let mac = match asked {
        Some(text) => addresses::parse_mac(text).map_err(|error| chain(&error))?,
        None => addresses::mac_for(first),
    };
    let mac = addresses::format_mac(mac);
    change(agent, |state| {
        let network = state.docker.network(&request.network).cloned();
        let network = network.ok_or("this network is being taken up, or cannot be: see svc-agent status")?;
        let docker = &state.docker;
        if let Some(other) = addresses.iter().find(|address| !docker.has_lease(&network, **address)) {
            return Err(format!("{other} was not given out by this host"));
        }
        let other = docker.endpoints().find(|(id, it)| {
            let same = |address| addresses.contains(address);
            **id != request.endpoint && it.network == network && it.addresses.iter().any(same)
        });
        if let Some(other) = other.map(|(id, _)| id.clone()) {
            return Err(format!("endpoint {other} has one of its addresses"));
        }
        let (network_id, mac) = (request.network.clone(), mac.clone());
        let endpoint = Endpoint { network_id, network, addresses, mac, sandbox: None, settled: false };
        state.docker.put_endpoint(&request.endpoint, endpoint).map_err(|error| format!("endpoints: {error}"))
    })?;
    Ok(asked.is_none().then_some(mac))
}

/// A container starts: its namespace will be there in a moment.
pub(super) fn join(agent: &Arc<Agent>, request: &wire::Join) -> Result<(), String> {
    if !request.sandbox_key.starts_with('/') {
        return Err("a container without a namespace of its own".to_owned());
    }
    change(agent, |state| {
        let known = state.docker.set_sandbox(&request.endpoint, Some(request.sandbox_key.clone()));
        if known { Ok(()) } else { Err("an endpoint that is not known".to_owned()) }
    })?;
    attaching::begin(agent, &request.endpoint);
    Ok(())
}

/// A container has ended, or was taken off the network.
pub(super) fn leave(agent: &Arc<Agent>, request: &wire::About) -> Result<(), String> {
    // Said first: an attach that is under way looks at it once it is done.
    change(agent, |state| {
        state.docker.set_sandbox(&request.endpoint, None);
        Ok(())
    })?;
    attaching::end(agent, &request.endpoint)
}

/// An endpoint is removed; its addresses follow.
pub(super) fn delete_endpoint(agent: &Arc<Agent>, request: &wire::About) -> Result<(), String> {
    change(agent, |state| {
        state.docker.remove_endpoint(&request.endpoint);
        Ok(())
    })?;
    attaching::end(agent, &request.endpoint)
}

/// Forgets an endpoint that Docker has forgotten; its addresses are left to be released.
pub(super) fn forget_endpoint(agent: &Arc<Agent>, id: &str) -> Result<(), String> {
    delete_endpoint(agent, &wire::About { endpoint: id.to_owned(), ..wire::About::default() })
}

/// Docker has no use for an address any more.
pub(super) fn release(agent: &Agent, network: &Name, address: IpAddr) -> Result<(), String> {
    let mut had = false;
    change(agent, |state| {
        had = state.docker.release(network, address);
        if had {
            // Others may still send to who had it.
            state.freed.insert((network.clone(), address), Instant::now());
        }
        Ok(())
    })?;
    if had {
        lock(&agent.state).leases.remove(network, address);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_network_cannot_be_is_refused_by_its_option() {
        let read = |pairs: &[(&'static str, &'static str)]| options(pairs.iter().copied());
        let good = read(&[(MTU, "1400"), (NETWORK_OPTION, "payment"), ("com.docker.network.x", "y")]);
        assert_eq!(good.unwrap(), Options { network: Some("payment".to_owned()), mtu: Some(1_400) });
        assert!(read(&[(ENCRYPTED, "")]).unwrap_err().contains("will not carry it in clear"));
        assert!(read(&[("color", "red")]).unwrap_err().contains("-o color is not known"));
        assert!(read(&[(MTU, "large")]).is_err());
    }
}
