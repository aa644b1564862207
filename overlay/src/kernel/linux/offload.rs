//! Whether a tunnel leaves checksums to the device below it (ethtool(8), `tx`).
// There is no safe wrapper of this ioctl in the crates we use.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use super::Open;
use crate::kernel::KernelError;
use crate::name::is_tunnel;
use crate::{Link, LinkKind};

/// ETHTOOL_GTXCSUM and ETHTOOL_STXCSUM (include/uapi/linux/ethtool.h), the only ones that need no table of names.
const GET: u32 = 0x16;
const SET: u32 = 0x17;
/// SIOCETHTOOL (include/uapi/linux/sockios.h), in the type that the C library's ioctl takes: musl's is another than glibc's.
const ETHTOOL: libc::Ioctl = 0x8946;

/// struct ethtool_value.
#[repr(C)]
struct Value {
    command: u32,
    data: u32,
}

impl Open {
    pub(super) async fn set_offload(&self, name: &str, on: bool) -> Result<(), KernelError> {
        let name = name.to_owned();
        self.inside("setting checksum offload", move || ask(&name, SET, on.into()).map(drop)).await
    }

    pub(super) async fn read_offload(&self, links: &mut BTreeMap<String, Link>) -> Result<(), KernelError> {
        let tunnels = links.iter().filter(|(name, link)| is_tunnel(name) && is_vxlan(link));
        let Some(name) = tunnels.map(|(name, _)| name.clone()).next() else { return Ok(()) };
        let asked = name.clone();
        let read = move || match ask(&asked, GET, 0) {
            Ok(on) => Ok(on != 0),
            // It has gone meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(true),
            Err(error) => Err(error),
        };
        let on = self.inside("reading checksum offload", read).await?;
        if let Some(link) = links.get_mut(&name) {
            link.offload = on;
        }
        Ok(())
    }
}

fn is_vxlan(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Vxlan(_))
}

/// In the calling thread's namespace.
fn ask(name: &str, command: u32, data: u32) -> io::Result<u32> {
    let socket: OwnedFd = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0))
        .or_else(|_| std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0)))?
        .into();
    let mut value = Value { command, data };
    // SAFETY: all zeros is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: request and value live over the call; the command reads and writes no more than a `Value`.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), ETHTOOL, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(value.data) }
}
