//! Follows the address that the others reach this host at, where it changes while the agent runs, and the MTU there.
//!
//! An address that is gone is followed by a start in place: the same process runs the agent anew, as an operator's restart
//! would, and all that hangs on the address is made as at any start. What the kernel holds stays meanwhile.
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::api::types::Failure;
use crate::catalog::facts::{HostFact, Key, Value};
use crate::config::{Advertise, LinkAddress, resolve_advertise};
use crate::runtime::agent::{Agent, State, chain, refused};
use crate::runtime::host;
use crate::store::Writes;

#[cfg(test)]
mod tests;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(500);
/// Set for the agent that follows in this process: where it was. Not a setting.
const MOVED_FROM: &str = "SVCAGENT_MOVED_FROM";

/// What has become of the address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is where it was.
    Here,
    /// It is gone, and the setting names this one now.
    Moved(IpAddr),
    /// It is gone, and nothing is in its place: why.
    Gone(String),
}

/// Where this host is to be reached, that was reached at `own`: there as long as it has that address. Of the same family
/// always, as all hosts of a cluster are.
pub(super) fn place(setting: Option<&Advertise>, own: IpAddr, links: &[LinkAddress]) -> Place {
    if links.iter().any(|link| link.address == own) {
        return Place::Here;
    }
    // Without a setting it is the default route that tells; while there is none, a lone address may be anything's.
    let fits = |link: &&LinkAddress| {
        link.address.is_ipv4() == own.is_ipv4()
            && !link.tentative
            && (setting.is_some() || link.default_route)
    };
    let fitting: Vec<LinkAddress> = links.iter().filter(fits).cloned().collect();
    match (setting, resolve_advertise(setting, &|| Ok(fitting.clone()))) {
        (Some(Advertise::Interface(_)) | None, Ok(address)) => Place::Moved(address),
        (Some(Advertise::Interface(interface)), Err(_)) => Place::Gone(format!(
            "{own}, where the others reach this host, is gone, and {interface} has no other address of its family: give \
             {interface} one, and it is followed"
        )),
        (Some(Advertise::Address(_)), _) => Place::Gone(format!(
            "{own}, where the others reach this host, is on no interface any more: put it back, or start the agent again with \
             another --advertise ADDR (of an interface, --advertise IFACE, changes are followed)"
        )),
        (None, Err(_)) => Place::Gone(format!(
            "{own}, where the others reach this host, is gone, and no interface with a default route has another address of its \
             family: give it one, and it is followed; or start the agent again with --advertise ADDR or IFACE"
        )),
    }
}

/// Tells when this host has got another address, and names it as a problem when it has none. Runs until then.
pub(super) async fn follow(agent: Arc<Agent>, moved: oneshot::Sender<IpAddr>) {
    let own = agent.identity.address;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut next, mut mtu) = (None, None);
    loop {
        ticks.tick().await;
        let links = match host::link_addresses(&agent.host_namespace).await {
            Ok(links) => links,
            Err(error) => {
                tracing::debug!("this host's addresses are not known: {}", chain(&error));
                continue;
            }
        };
        let setting = agent.settings.load().advertise.clone();
        let (found, problem) = match place(setting.as_ref(), own, &links) {
            Place::Here => {
                mtu = tell_mtu(&agent, mtu).await;
                (None, None)
            }
            // Whoever sets an interface up anew may leave another of its addresses alone for a moment.
            Place::Moved(address) if next == Some(address) => {
                let _ended = moved.send(address);
                return;
            }
            Place::Moved(address) => (Some(address), None),
            Place::Gone(why) => (None, Some(("host/address".to_owned(), why))),
        };
        next = found;
        agent.report("host/address", problem.into_iter().collect());
    }
}

/// What the underlay lets through may change as well; all hosts' containers send by the least of it, so it is told once two
/// looks have found the same. Returns what this one has.
async fn tell_mtu(agent: &Agent, before: Option<u32>) -> Option<u32> {
    match host::underlay_mtu(&agent.host_namespace, agent.identity.address).await {
        Ok(Some(mtu)) if before == Some(mtu) => write_mtu(agent, mtu),
        Ok(mtu) => return mtu,
        Err(error) => tracing::debug!("the underlay's MTU is not known: {}", chain(&error)),
    }
    before
}

fn write_mtu(agent: &Agent, underlay_mtu: u32) {
    let me = agent.identity.node;
    let told = |state: &State| state.catalog.host(me).map(|host| HostFact::clone(host));
    // Before it has joined it says nothing of itself.
    let Some(before) = agent.read(told).filter(|before| before.underlay_mtu != underlay_mtu) else { return };
    let written = agent.update(|state| {
        let fact = told(state).map(|before| Value::Host(HostFact { underlay_mtu, ..before }));
        Ok((fact.map(|fact| (Key::Host, Some(fact))).into_iter().collect(), Writes::default()))
    });
    let was = before.underlay_mtu;
    match written {
        Ok(_) => {
            let line = format!("the underlay's MTU is {underlay_mtu} bytes here now, it was {was}");
            agent.events.record("host", line, "agent");
        }
        Err(failure) => tracing::warn!("the underlay's MTU is not told to the others: {}", failure.message),
    }
}

/// Whether this process ran the agent at this address before, so that nobody else is there under its name.
pub(super) fn was_here(before: IpAddr) -> bool {
    std::env::var(MOVED_FROM).is_ok_and(|from| from.parse() == Ok(before))
}

/// Starts the agent anew in this process, which keeps its id and its supervisor. Returns only when that fails.
pub(super) fn start_anew(before: IpAddr) -> Failure {
    // Not by its link in /proc, or the process would be called "exe"; but by that if the program was replaced meanwhile.
    let program = std::env::current_exe().ok().filter(|program| Path::exists(program));
    let program = program.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let mut words = std::env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = words.next() {
        command.arg0(name);
    }
    let error = command.args(words).env(MOVED_FROM, before.to_string()).exec();
    refused(format!("the agent cannot be started anew for its new address: {error}"), &["start it again"])
}
