//! Who this host is: its address on the underlay, its node id, its cluster.
use std::net::IpAddr;

use crate::api::types::Failure;
use crate::cluster::KeyRing;
use crate::config::{self, LinkAddress, Settings, Start};
use crate::model::NodeId;
use crate::netns::{self, Namespace};
use crate::runtime::agent::{Identity, chain, refused};
use crate::runtime::claiming::Books;
use crate::runtime::host;
use crate::store::{Store, Writes};

/// The underlay address: the configured one, else that of the interface with the default route.
pub(super) async fn advertised(settings: &Settings, namespace: &Namespace) -> Result<IpAddr, Failure> {
    let links = host::link_addresses(namespace).await.map_err(|error| refused(chain(&error), &[]))?;
    let lister = || -> std::io::Result<Vec<LinkAddress>> { Ok(links.clone()) };
    config::resolve_advertise(settings.advertise.as_ref(), &lister).map_err(|error| {
        refused(chain(&error), &["name this host's underlay address: --advertise ADDR or --advertise IFACE"])
    })
}

/// The hosts of a cluster reach each other over one family: a tunnel's device has one, and so have a host's sockets.
///
/// # Errors
/// When all hosts to join through are given by address, and none is of this host's family.
pub(super) fn refuse_other_family(start: &Start, own: IpAddr) -> Result<(), Failure> {
    let Start::Join(through) = start else { return Ok(()) };
    let addresses: Option<Vec<IpAddr>> =
        through.iter().map(|it| it.host.parse().ok().map(|it: IpAddr| it.to_canonical())).collect();
    let others = addresses.filter(|all| all.iter().all(|address| address.is_ipv4() != own.is_ipv4()));
    let Some(other) = others.and_then(|all| all.first().copied()) else { return Ok(()) };
    let (theirs, ours) = if own.is_ipv4() { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
    let what = format!(
        "the hosts of a cluster reach each other over IPv4 or over IPv6, not both: {other} is one over {theirs}, and this \
         host's address {own} is {ours}"
    );
    let hints = [
        format!("name an {theirs} address of this host: --advertise ADDR"),
        format!("or join through an {ours} address, if that is what the cluster uses"),
    ];
    Err(refused(what, &hints.each_ref().map(String::as_str)))
}

/// Node id, start count and cluster, durable before anything is said.
pub(super) fn identify(
    store: &Store,
    settings: &Settings,
    keys: &KeyRing,
    address: IpAddr,
) -> Result<Identity, Failure> {
    let fail = |error: crate::store::StoreError| refused(chain(&error), error.hints());
    let node = match store.meta::<NodeId>("node").map_err(fail)? {
        Some(node) => node,
        None => NodeId(rand::random::<u64>().max(1)),
    };
    let cluster = keys.cluster().to_string();
    // A host that has only tried to join, with a wrong key, belongs to no cluster yet, and knows nothing of any.
    let mut known = false;
    store.facts(|_| known = true).map_err(fail)?;
    let number = Books::load(store, node).map_err(|error| refused(chain(&error), &[]))?.promises.number();
    let joined = known || number.is_some();
    if let Some(before) = store.meta::<String>("cluster").map_err(fail)?
        && before != cluster
        && joined
    {
        let (key, state) = (settings.key_file.display(), settings.state_dir.display());
        let hints = [
            format!("use the key of that cluster ({key} is of cluster {cluster})"),
            format!(
                "or give that cluster up: remove {state}, and on one of its hosts: svc-agent node rm {}",
                settings.node
            ),
        ];
        let what = format!("this host's state in {state} is of cluster {before}");
        return Err(refused(what, &hints.each_ref().map(String::as_str)));
    }
    let incarnation = store.meta::<u64>("incarnation").map_err(fail)?.unwrap_or_default() + 1;
    let mut writes = Writes::default();
    writes.put_meta("node", &node).map_err(fail)?;
    writes.put_meta("cluster", &cluster).map_err(fail)?;
    writes.put_meta("incarnation", &incarnation).map_err(fail)?;
    store.commit(&writes, true).map_err(fail)?;
    let boot_id =
        netns::boot_id().map_err(|error| refused(format!("the boot id cannot be read: {error}"), &[]))?;
    Ok(Identity { node, incarnation, name: settings.node.clone(), cluster, address, boot_id })
}
