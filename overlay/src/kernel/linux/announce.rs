//! Tells local containers that an address has moved to another MAC.
// There is no safe wrapper of a packet socket's address (sockaddr_ll) in the crates we use.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::Open;
use crate::Mac;
use crate::kernel::KernelError;

const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

impl Open {
    /// Sends it out of the bridge, which keeps gratuitous requests away from a port with neighbour suppression:
    /// it reaches the local ports alone.
    pub(super) async fn announce(&self, bridge: &str, address: IpAddr, mac: Mac) -> Result<(), KernelError> {
        let index = self.index(bridge).await?;
        self.inside("announcing an address", move || {
            let (protocol, frame) = match address {
                IpAddr::V4(four) => (ARP, gratuitous_arp(four, mac)),
                IpAddr::V6(six) => (IPV6, neighbour_advertisement(six, mac)),
            };
            send(index, protocol, &frame)
        })
        .await
    }
}

fn send(index: u32, protocol: u16, frame: &[u8]) -> io::Result<()> {
    // SAFETY: no pointers; the result is checked before it is owned.
    let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a fresh descriptor that nobody else has.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: all zeros is a valid sockaddr_ll.
    let mut to: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    to.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or_default();
    to.sll_protocol = protocol.to_be();
    to.sll_ifindex = i32::try_from(index).map_err(io::Error::other)?;
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).map_err(io::Error::other)?;
    // SAFETY: frame and address live over the call, with the lengths given.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            0,
            std::ptr::from_ref(&to).cast(),
            length,
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// RFC 5227, section 3: a request whose sender and target address are the same. (As a reply some stacks ignore
/// it.)
fn gratuitous_arp(address: Ipv4Addr, mac: Mac) -> Vec<u8> {
    let mut frame = ethernet([0xff; 6], mac, ARP);
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// RFC 4861, sections 4.4 and 7.2.6: unsolicited, to all nodes, with the override flag.
fn neighbour_advertisement(address: Ipv6Addr, mac: Mac) -> Vec<u8> {
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    let sum = checksum(address, ALL_NODES, &message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], mac, IPV6);
    frame.extend([0x60, 0, 0, 0, 0, 32, 58, 255]);
    frame.extend(address.octets());
    frame.extend(ALL_NODES.octets());
    frame.extend(message);
    frame
}

fn ethernet(to: [u8; 6], from: Mac, protocol: u16) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(from.0);
    frame.extend(protocol.to_be_bytes());
    frame
}

/// RFC 4443, section 2.3, over the pseudo-header of RFC 8200.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes: Vec<u8> = [from.octets(), to.octets()].concat();
    bytes.extend(length);
    bytes.extend([0, 0, 0, 58]);
    bytes.extend(message);
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])))
        .fold(0, u32::wrapping_add);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
