//! A name server outside, which notes what it is asked.
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use agent::netns::Namespace;

use super::{RESOLVER, exchange_udp};
use crate::wait::pause;

/// How long a relay waits for an answer.
const RELAY_LIMIT: Duration = Duration::from_secs(5);

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    /// Every A question with this address.
    Address(Ipv4Addr),
    /// The same, after a while.
    Slowly(Ipv4Addr, Duration),
    /// NXDOMAIN to everything.
    Deny,
    /// Nothing to anything.
    Silent,
    /// What the resolver of its own namespace answers, as a name server in a container that forwards to 127.0.0.11.
    Relay,
}

/// The server; dropped, it ends.
#[derive(Debug)]
pub struct Upstream {
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Serves UDP in a namespace.
    pub fn start(namespace: &Namespace, at: SocketAddr, manner: Manner) -> Self {
        let open = || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(at)?;
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
            Ok(socket)
        };
        let socket = namespace.run(open).expect("a namespace").expect("the upstream's socket");
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (noted, stopped) = (Arc::clone(&asked), Arc::clone(&stop));
        let namespace = namespace.clone();
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, from)) = socket.recv_from(&mut bytes) else { continue };
                let Some((name, reply)) = reply(&bytes[..length], manner) else { continue };
                noted.lock().expect("the notes").push(name);
                match manner {
                    Manner::Silent => {}
                    Manner::Relay => relay(&namespace, &socket, bytes[..length].to_vec(), from),
                    Manner::Slowly(_, after) => later(&socket, reply, from, after),
                    Manner::Address(_) | Manner::Deny => drop(socket.send_to(&reply, from)),
                }
            }
        });
        Self { asked, stop, thread: Some(thread) }
    }

    /// Names that it was asked for so far, in lower case.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("the notes").clone()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic in it has been printed.
            let _ended = thread.join();
        }
    }
}

/// Beside the others that are relayed. It ends by itself.
fn relay(namespace: &Namespace, socket: &UdpSocket, query: Vec<u8>, from: SocketAddr) {
    let (namespace, socket) = (namespace.clone(), socket.try_clone().expect("a copy of the socket"));
    std::thread::spawn(move || {
        if let Ok(reply) = exchange_udp(&namespace, RESOLVER, &query, RELAY_LIMIT) {
            let _gone = socket.send_to(&reply, from);
        }
    });
}

/// Beside the others that wait. It ends by itself.
fn later(socket: &UdpSocket, reply: Vec<u8>, from: SocketAddr, after: Duration) {
    let socket = socket.try_clone().expect("a copy of the socket");
    std::thread::spawn(move || {
        pause(after);
        let _gone = socket.send_to(&reply, from);
    });
}

fn reply(query: &[u8], manner: Manner) -> Option<(String, Vec<u8>)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(query.get(at..at + length)?).to_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(query.get(at..at + 2)?.try_into().ok()?);
    let question = query.get(12..at + 4)?;
    let answers = u8::from(kind == 1 && manner != Manner::Deny);
    let code = if manner == Manner::Deny { 3 } else { 0 };
    let mut reply = query.get(..2)?.to_vec();
    reply.extend([0x81, 0x80 | code, 0, 1, 0, answers, 0, 0, 0, 0]);
    reply.extend(question);
    if let (1, Manner::Address(address) | Manner::Slowly(address, _)) = (answers, manner) {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address.octets());
    }
    Some((labels.join("."), reply))
}
