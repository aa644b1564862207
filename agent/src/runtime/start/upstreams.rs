//! Whom the forwarder asks: what the settings say, else what the host's resolv.conf says, followed while running.
mod file;
#[cfg(test)]
mod tests;
mod watch;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::runtime::agent::Agent;
use crate::runtime::events::lock;
use crate::runtime::host;
use file::ResolvConf;

/// Keeps the forwarder's upstreams as they are to be, and says which of them cannot be asked.
pub(super) async fn follow(agent: Arc<Agent>, forwarder: dns::Forwarder) {
    let mut file = ResolvConf::new(Path::new(host::HOST_RESOLV_CONF));
    let mut looping = Vec::new();
    loop {
        let found = file.read();
        let configured = agent.settings.load().upstream.clone();
        let (servers, origin) = match configured.is_empty() {
            true => (&found.servers, host::HOST_RESOLV_CONF),
            false => (&configured, "settings"),
        };
        if forwarder.set_upstreams(servers) {
            agent.events.record("host", told(servers, &found.ignored), origin);
        }
        tell_loops(&agent, &forwarder, &mut looping);
        file.changed().await;
    }
}

fn told(servers: &[SocketAddr], ignored: &[String]) -> String {
    let named = |servers: Vec<String>| servers.join(", ");
    let mut line = match servers.is_empty() {
        true => "no name server to forward to: names that are not ours fail".to_owned(),
        false => format!("forwarding to {}", named(servers.iter().map(ToString::to_string).collect())),
    };
    if !ignored.is_empty() {
        line.push_str(&format!("; of no use: {}", named(ignored.to_vec())));
    }
    line
}

/// An upstream that asks us what we ask it is this host's problem for as long as it is left out.
fn tell_loops(agent: &Agent, forwarder: &dns::Forwarder, told: &mut Vec<SocketAddr>) {
    let now = forwarder.loops();
    if now == *told {
        return;
    }
    let mut problems = lock(&agent.problems);
    for server in told.iter().filter(|server| !now.contains(server)) {
        problems.set(format!("upstream/{server}"), None, Instant::now());
    }
    for server in &now {
        let error = "it asks our resolver what we ask it: a loop, so it is not asked for a minute".to_owned();
        problems.set(format!("upstream/{server}"), Some(error), Instant::now());
    }
    *told = now;
}
