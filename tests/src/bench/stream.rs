//! How fast one TCP connection carries bytes.
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agent::netns::Namespace;
use anyhow::{Context, Result};

use crate::machine;

/// One write or read, in bytes.
const CHUNK_BYTES: usize = 128 << 10;
/// Sent before the clock starts, so that the window is open.
const WARM_UP: Duration = Duration::from_millis(30);
/// A read that waits longer finds the sender at its end.
const READ_LIMIT: Duration = Duration::from_millis(20);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// A connection that stands, with both ends in our hands.
pub(crate) struct Stream {
    sender: TcpStream,
    receiver: TcpStream,
}

impl Stream {
    /// Listens at `serving` in `server` and connects to `to` from `client`, which may be translated on its way.
    pub(crate) fn open(client: &Namespace, server: &Namespace, to: Ipv4Addr, serving: u16) -> Result<Self> {
        let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, serving);
        let listener = server.open_socket("a listener", || TcpListener::bind(any))?;
        let target = SocketAddr::from((to, serving));
        let sender = client
            .open_socket("a stream", || TcpStream::connect_timeout(&target, CONNECT_LIMIT))
            .with_context(|| format!("stream to {target}"))?;
        let (receiver, _) = listener.accept()?;
        receiver.set_read_timeout(Some(READ_LIMIT))?;
        Ok(Self { sender, receiver })
    }

    /// Gigabits per second that arrive within `window`.
    pub(crate) fn measure(&self, window: Duration) -> Result<f64> {
        let (sent, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let begin = Instant::now();
        let arrived = std::thread::scope(|scope| {
            let send = scope.spawn(|| {
                machine::under_test(0);
                let result = self.send(begin + WARM_UP + window, &sent);
                done.store(true, Ordering::Release);
                result
            });
            let receive = scope.spawn(|| {
                machine::under_test(1);
                self.receive(begin + WARM_UP, window, &sent, &done)
            });
            let ended = |_| io::Error::other("a thread has panicked");
            send.join().map_err(ended)??;
            receive.join().map_err(ended)?
        });
        Ok(arrived? * 8.0 / 1e9)
    }

    fn send(&self, end: Instant, sent: &AtomicU64) -> io::Result<()> {
        let chunk = vec![0x5a; CHUNK_BYTES];
        let mut stream = &self.sender;
        while Instant::now() < end {
            let written = stream.write(&chunk)?;
            sent.fetch_add(u64::try_from(written).unwrap_or_default(), Ordering::Release);
        }
        Ok(())
    }

    /// Bytes per second that arrived in the window; reads on until all that was sent is here.
    fn receive(
        &self,
        begin: Instant,
        window: Duration,
        sent: &AtomicU64,
        done: &AtomicBool,
    ) -> io::Result<f64> {
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut stream = &self.receiver;
        let (mut all, mut counted, mut first, mut last) = (0_u64, 0_u64, None, begin);
        loop {
            match stream.read(&mut chunk) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    let (now, read) = (Instant::now(), u64::try_from(read).unwrap_or_default());
                    all += read;
                    if now >= begin && now <= begin + window {
                        // What arrives first was under way before the clock started.
                        counted += if first.is_some() { read } else { 0 };
                        first.get_or_insert(now);
                        last = now;
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
            if done.load(Ordering::Acquire) && all >= sent.load(Ordering::Acquire) {
                let seconds = first.map_or(0.0, |first| last.duration_since(first).as_secs_f64());
                #[allow(clippy::cast_precision_loss)] // Far below 2^52 bytes.
                return Ok(if seconds > 0.0 { counted as f64 / seconds } else { 0.0 });
            }
        }
    }
}
