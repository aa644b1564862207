//! What becomes of the ways to other hosts: probes, their answers, and what follows from them. No I/O, no clocks.
//!
//! A probe goes through a tunnel of its own, which has all that networks' tunnels have (device, port, outer source, fence,
//! checksums), and the other host's kernel answers it, whether an agent runs there or not: an echo request with an echo, a
//! datagram to a port that nobody has with a refusal, once its checksum was found right.
mod offload;
mod packet;
mod path;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

pub use offload::{Damage, Offload, Trial};
pub use packet::{Answer, Tag, answer, datagram, echo, outer_source, tunnel_filter};
pub use path::{DEAD_AFTER, Path, Probe};

/// The port that a datagram is sent to. Nobody has it in that namespace.
pub const NOBODYS_PORT: u16 = 9;

/// A host's address in that tunnel, by its node number; `None` for a number beyond 24 bits.
pub fn address(number: u32) -> Option<Ipv4Addr> {
    (1..1 << 24).contains(&number).then(|| Ipv4Addr::from(0x0a00_0000 | number))
}
