use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use tokio::net::UdpSocket;
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
