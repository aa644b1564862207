use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::*;

/// Stands before a host and keeps what passes towards it.
pub(super) struct Relay {
    pub(super) front: SocketAddr,
    pub(super) kept: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Lets nothing pass while set.
    pub(super) cut: Arc<AtomicBool>,
    pub(super) task: JoinHandle<()>,
}

impl Relay {
    /// For one peer: what comes to `front` goes to `to`, and what comes back goes to whoever wrote last.
    pub(super) async fn before(to: SocketAddr) -> Self {
        let front = UdpSocket::bind(free_address()).await.unwrap();
        let back = UdpSocket::bind((front.local_addr().unwrap().ip(), 0)).await.unwrap();
        back.connect(to).await.unwrap();
        let address = front.local_addr().unwrap();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let cut = Arc::new(AtomicBool::new(false));
        let (keep, is_cut) = (Arc::clone(&kept), Arc::clone(&cut));
        let task = tokio::spawn(async move {
            let (mut there, mut here, mut peer) = (vec![0; 2_000], vec![0; 2_000], None);
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut there) => {
                        if is_cut.load(Ordering::Relaxed) {
                            continue;
                        }
                        peer = Some(from);
                        keep.lock().unwrap().push(there[..length].to_vec());
                        let _ = back.send(&there[..length]).await;
                    }
                    Ok(length) = back.recv(&mut here) => {
                        if let Some(peer) = peer
                            && !is_cut.load(Ordering::Relaxed)
                        {
                            let _ = front.send_to(&here[..length], peer).await;
                        }
                    }
                }
            }
        });
        Self { front: address, kept, cut, task }
    }

    pub(super) async fn replay(&self, to: SocketAddr) -> u64 {
        let kept = self.kept.lock().unwrap().clone();
        let stranger = UdpSocket::bind(free_address()).await.unwrap();
        for datagram in &kept {
            stranger.send_to(datagram, to).await.unwrap();
            tokio::task::yield_now().await;
        }
        u64::try_from(kept.len()).unwrap()
    }
}

/// What waits in the way's own socket; so little that nothing but the way decides how far an answer gets.
const WAITING_BYTES_MAX: u32 = 64 * 1024;

/// Stands before a host and lets requests pass freely, answers only as many bytes as it is told. For one connection.
pub(super) struct NarrowWay {
    pub(super) front: SocketAddr,
    left: Arc<Semaphore>,
    passed: Arc<AtomicUsize>,
    task: JoinHandle<std::io::Result<()>>,
}

impl NarrowWay {
    pub(super) async fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((free_address().ip(), 0)).await.unwrap();
        let front = listener.local_addr().unwrap();
        let (left, passed) = (Arc::new(Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
        let (allowed, counted) = (Arc::clone(&left), Arc::clone(&passed));
        let task = tokio::spawn(async move {
            let (asking, _) = listener.accept().await?;
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(WAITING_BYTES_MAX)?;
            let answering = socket.connect(to).await?;
            let ((mut requests, mut answered), (mut answers, mut requested)) =
                (asking.into_split(), answering.into_split());
            let there = async { tokio::io::copy(&mut requests, &mut requested).await.map(drop) };
            let back = async {
                let mut bytes = vec![0; 16 * 1024];
                loop {
                    // At least one byte is allowed; more, as far as they are.
                    let Ok(first) = allowed.acquire().await else { return Ok(()) };
                    first.forget();
                    let more = allowed.forget_permits(bytes.len() - 1);
                    let length = answers.read(&mut bytes[..=more]).await?;
                    allowed.add_permits(1 + more - length);
                    answered.write_all(&bytes[..length]).await?;
                    counted.fetch_add(length, Ordering::Relaxed);
                    if length == 0 {
                        return Ok(());
                    }
                }
            };
            tokio::try_join!(there, back).map(drop)
        });
        Self { front, left, passed, task }
    }

    /// Lets so many bytes more of answers pass.
    pub(super) fn widen(&self, bytes: usize) {
        self.left.add_permits(bytes);
    }

    /// Bytes of answers that have passed.
    pub(super) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }
}

impl Drop for NarrowWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Stands before a host and lets everything pass, but no answers while it is silent. For one connection.
pub(super) struct SilentWay {
    pub(super) front: SocketAddr,
    pub(super) silent: Arc<AtomicBool>,
    task: JoinHandle<std::io::Result<()>>,
}

impl SilentWay {
    pub(super) async fn before(to: SocketAddr) -> Self {
        let listener = TcpListener::bind((free_address().ip(), 0)).await.unwrap();
        let front = listener.local_addr().unwrap();
        let silent = Arc::new(AtomicBool::new(false));
        let kept_back = Arc::clone(&silent);
        let task = tokio::spawn(async move {
            let (asking, _) = listener.accept().await?;
            let answering = TcpSocket::new_v4()?.connect(to).await?;
            let ((mut requests, mut answered), (mut answers, mut requested)) =
                (asking.into_split(), answering.into_split());
            let there = async { tokio::io::copy(&mut requests, &mut requested).await.map(drop) };
            let back = async {
                let mut bytes = vec![0; 16 * 1024];
                loop {
                    let length = answers.read(&mut bytes).await?;
                    while kept_back.load(Ordering::Relaxed) {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    answered.write_all(&bytes[..length]).await?;
                    if length == 0 {
                        return Ok(());
                    }
                }
            };
            tokio::try_join!(there, back).map(drop)
        });
        Self { front, silent, task }
    }
}

impl Drop for SilentWay {
    fn drop(&mut self) {
        self.task.abort();
    }
}
