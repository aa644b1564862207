//! Docker's own resolver in a container's namespace. It knows the containers of Docker's own networks that the container is on,
//! and asks the name servers that `docker run --dns` gave.
//!
//! Docker redirects 127.0.0.11:53 to a port of its own choice, and our redirect goes before. So it is asked at that port, which is
//! the other UDP socket at that address.
use std::net::Ipv4Addr;
use std::sync::Arc;

use async_trait::async_trait;

use super::engine::Described;
use crate::model::Name;
use crate::netns::Namespace;
use crate::runtime::agent::Agent;
use crate::runtime::events::lock;

/// Where Docker's resolver and ours are asked.
const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);
/// Bytes of a reply over UDP: Docker's resolver takes no more.
const REPLY_BYTES_MAX: usize = 4_096;

#[derive(Debug)]
struct Docker {
    namespace: Namespace,
    port: u16,
}

#[async_trait]
impl dns::Exchange for Docker {
    async fn exchange(&self, query: Vec<u8>) -> Option<Vec<u8>> {
        let (namespace, port) = (self.namespace.clone(), self.port);
        let open = move || {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.connect((RESOLVER, port))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let opened = tokio::task::spawn_blocking(move || namespace.open_socket("a query", open)).await;
        let socket = tokio::net::UdpSocket::from_std(opened.ok()?.ok()?).ok()?;
        socket.send(&query).await.ok()?;
        let mut reply = vec![0; REPLY_BYTES_MAX];
        let count = socket.recv(&mut reply).await.ok()?;
        reply.truncate(count);
        Some(reply)
    }
}

/// Has a container's names asked of Docker, too, if it is on a network of Docker's own, or has name servers of its own.
pub(super) fn follow(agent: &Arc<Agent>, cookie: u64, ours: &[Name], described: &Described) {
    let other = |network: &&String| super::names::label(network).is_none_or(|label| !ours.contains(&label));
    let networks: Vec<Arc<str>> =
        described.networks.iter().filter(other).map(|it| it.to_ascii_lowercase().into()).collect();
    let opened = lock(&agent.namespaces).get(&cookie).cloned();
    let has_servers = described.has_servers;
    let port = opened.as_ref().filter(|_| has_servers || !networks.is_empty()).and_then(|opened| {
        let ports =
            opened.namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/udp")).ok()?.ok()?;
        resolvers(&ports).find(|port| Some(*port) != opened.resolver_port)
    });
    let mut all = lock(&agent.docker.beside);
    match (opened, port) {
        (Some(opened), Some(port)) => {
            let exchange = Arc::new(Docker { namespace: opened.namespace, port });
            all.insert(cookie, dns::Beside { networks, has_servers, exchange });
        }
        _ => drop(all.remove(&cookie)),
    }
    drop(all);
    agent.changed.notify_one();
}

/// UDP ports at the resolvers' address, of a table of /proc/net/udp.
fn resolvers(table: &str) -> impl Iterator<Item = u16> + '_ {
    let here = u32::from_ne_bytes(RESOLVER.octets());
    table.lines().skip(1).filter_map(move |line| {
        let (address, port) = line.split_whitespace().nth(1)?.split_once(':')?;
        let is_here = u32::from_str_radix(address, 16).ok()? == here;
        u16::from_str_radix(port, 16).ok().filter(|_| is_here)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolvers_are_found_by_their_address() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
                     1: 0B00007F:A3F1 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 71 2 0 0\n\
                     2: 0100007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 72 2 0 0\n\
                     3: 0B00007F:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 73 2 0 0\n";
        assert_eq!(resolvers(table).collect::<Vec<_>>(), [0xA3F1, 0x35]);
        assert_eq!(resolvers("").count(), 0);
    }
}
