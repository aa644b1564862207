//! A network device that computes checksums itself, and those of packets in tunnels wrongly.
#![allow(unsafe_code)] // Packet sockets with virtio headers, which rustix lacks.
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::{Cluster, shell_in};

/// struct virtio_net_hdr, which stands in front of each frame.
const HEADER_BYTES: usize = 10;
/// VIRTIO_NET_HDR_F_NEEDS_CSUM: whoever sends it on has to compute it.
const NEEDS_CHECKSUM: u8 = 1;
/// Where the headers of a tunnel over IPv4 end: what is to be computed behind them is inside.
const INSIDE: usize = 14 + 20 + 8 + 8;
const FRAME_BYTES_MAX: usize = 70_000;
/// A thread looks this often whether it is to end.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// SOL_PACKET's options (include/uapi/linux/if_packet.h).
const VIRTIO_HEADER: libc::c_int = 15;
const IGNORE_OUTGOING: libc::c_int = 23;

/// The device, between a host and the switch; dropped, it carries nothing any more.
#[derive(Debug)]
pub struct DamagingNic {
    stop: Arc<AtomicBool>,
    damaged: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl DamagingNic {
    /// Puts it in a host's way.
    pub fn insert(cluster: &Cluster, host: &str) -> Self {
        let switch = cluster.bed().switch();
        // In pieces that fit a wire: it has no segmentation, nor do packet sockets know that of tunnels.
        for host in cluster.hosts() {
            cluster.shell(&host, "ip link set eth0 gso_max_segs 1");
        }
        let build = format!(
            "ip link add nic type veth peer name nic-port && ip link set nic up && ip link set nic-port up &&
             ip link set to-{host} nomaster && ip link set nic-port master br-u"
        );
        assert_eq!(shell_in(switch, &build), "");
        let open = |link: String| switch.run(|| open(&link)).expect("the switch").expect("a packet socket");
        let (host_side, switch_side) = (open(format!("to-{host}")), open("nic".to_owned()));
        let (stop, damaged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let counter = Arc::clone(&damaged);
        let compute = move |frame: &mut [u8]| {
            counter.fetch_add(u64::from(compute(frame)), Ordering::Relaxed);
        };
        let copies = (host_side.try_clone().expect("a socket"), switch_side.try_clone().expect("a socket"));
        let threads = vec![
            pump(host_side, switch_side, Arc::clone(&stop), compute),
            pump(copies.1, copies.0, Arc::clone(&stop), |_| {}),
        ];
        Self { stop, damaged, threads }
    }

    /// Packets damaged so far.
    pub fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }
}

impl Drop for DamagingNic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

fn pump(
    mut from: File,
    mut to: File,
    stop: Arc<AtomicBool>,
    mut change: impl FnMut(&mut [u8]) + Send + 'static,
) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = vec![0; FRAME_BYTES_MAX];
        while !stop.load(Ordering::Relaxed) {
            let Ok(length) = from.read(&mut buffer) else { continue };
            let Some(frame) = buffer.get_mut(..length) else { continue };
            change(frame);
            // A link that is down loses it, as links do.
            let _lost = to.write(frame);
        }
    })
}

/// Computes what the host left to be computed; whether it did so wrongly.
fn compute(frame: &mut [u8]) -> bool {
    if frame.first().is_none_or(|flags| flags & NEEDS_CHECKSUM == 0) {
        return false;
    }
    let word = |at: usize| usize::from(u16::from_ne_bytes([frame[at], frame[at + 1]]));
    let (start, offset) = (word(6), word(8));
    frame[..HEADER_BYTES].fill(0);
    let packet = &mut frame[HEADER_BYTES..];
    let mut sum: u32 = packet[start..]
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let right = !u16::try_from(sum).unwrap_or(0);
    let wrong = start >= INSIDE;
    let written = if wrong { right ^ 0x5555 } else { right };
    packet[start + offset..start + offset + 2].copy_from_slice(&written.to_be_bytes());
    wrong
}

/// In the calling thread's namespace.
fn open(link: &str) -> io::Result<File> {
    let protocol = u16::try_from(libc::ETH_P_ALL).map_err(io::Error::other)?.to_be();
    let name = std::ffi::CString::new(link).map_err(io::Error::other)?;
    let check = |result: libc::c_int| if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) };
    // SAFETY: no pointers but the name's, which lives over its call; the descriptor is owned at once.
    let (socket, index) = unsafe {
        let raw = check(libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0))?;
        (File::from_raw_fd(raw), libc::if_nametoindex(name.as_ptr()))
    };
    for option in [VIRTIO_HEADER, IGNORE_OUTGOING] {
        let on: libc::c_int = 1;
        let length = libc::socklen_t::try_from(size_of_val(&on)).map_err(io::Error::other)?;
        // SAFETY: the value lives over the call, with the length given.
        check(unsafe {
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const on).cast(), length)
        })?;
    }
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut at: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    at.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    at.sll_protocol = protocol;
    at.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of_val(&at)).map_err(io::Error::other)?;
    // SAFETY: the address lives over the call, with the length given.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), length) })?;
    let wait = rustix::net::sockopt::Timeout::Recv;
    rustix::net::sockopt::set_socket_timeout(&socket, wait, Some(LOOK_INTERVAL))?;
    Ok(socket)
}
