//! A copied state directory: two hosts that say that they are one.
//!
//! The copy is told by its address: what it says of itself was said elsewhere. So before a host that has moved speaks to
//! anybody else, it asks at its old address whether it is still there. The other way round, its later start would make
//! the cluster refuse the host that it is a copy of.
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::api::types::Failure;
use crate::catalog::facts::{Key, Value};
use crate::cluster::Cluster;
use crate::runtime::agent::{Agent, refused};
use crate::runtime::verbs;

/// How long the old address may take to answer.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

/// Where this host was, by its own word, if that is not where it is now.
pub(super) fn moved_from(agent: &Agent, now: SocketAddr) -> Option<SocketAddr> {
    let said = agent.read(|state| state.catalog.value(agent.identity.node, &Key::Host));
    match said {
        Some(Value::Host(host)) if host.address != now.ip() => Some(verbs::node::address_of(&host)),
        _ => None,
    }
}

/// Asks whether this host is still where it was.
///
/// # Errors
/// It is: this one is a copy.
pub(super) async fn refuse(agent: &Agent, cluster: &Cluster, before: SocketAddr) -> Result<(), Failure> {
    cluster.add_seed(before);
    let asked = Instant::now();
    while asked.elapsed() < PATIENCE {
        if cluster.duplicate().is_some_and(|twin| twin.address.ip() == before.ip()) {
            let what = format!(
                "another host, at {}, runs as this one: this state directory is a copy of its",
                before.ip()
            );
            let directory = agent.settings.load().state_dir.display().to_string();
            let hint = format!("move {directory} away, and join as a new host: svc-agent run --join ADDR");
            return Err(refused(what, &[&hint]));
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    cluster.remove_seed(before);
    Ok(())
}
