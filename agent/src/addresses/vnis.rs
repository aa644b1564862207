//! Which VXLAN network identifier a network gets.
use super::hash::stable_hash;

/// The greatest identifier: 24 bits (RFC 7348, section 5). 0 is left out, as Linux treats it as "none" on devices that carry
/// metadata.
pub const VNI_MAX: u32 = 0x00ff_ffff;
/// The lowest identifier that is chosen without being asked for. People number by hand from the bottom, often after
/// VLANs (to 4,094), and Swarm counts upwards from 4,096: both share UDP port 4789 with us.
pub const VNI_CHOSEN_FIRST: u32 = 0x0001_0000;
/// The highest identifier that is chosen without being asked for: all ones is left to those who use it as a mark.
pub const VNI_CHOSEN_LAST: u32 = VNI_PATHS - 1;
/// Of the tunnel that paths between hosts are tried through; no network's.
pub const VNI_PATHS: u32 = VNI_MAX - 1;

/// Why a number is no VNI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{vni} is no VXLAN network identifier for a network; use 1 to {VNI_MAX}, without {VNI_PATHS}")]
pub struct VniError {
    vni: u32,
}

/// Checks an identifier that was asked for.
///
/// # Errors
/// [`VniError`] unless it is 1 to 16,777,215, and not [`VNI_PATHS`].
pub fn check_vni(vni: u32) -> Result<u32, VniError> {
    if (1..=VNI_MAX).contains(&vni) && vni != VNI_PATHS { Ok(vni) } else { Err(VniError { vni }) }
}

/// The identifiers to try for a network, in order, each once: from a point that its name decides, upwards and around. All
/// hosts have the same order, so two that create a network at once meet in the claim and not later.
pub fn vni_candidates(name: &str) -> impl Iterator<Item = u32> + use<> {
    let count = VNI_CHOSEN_LAST - VNI_CHOSEN_FIRST + 1;
    let start = u32::try_from(stable_hash(name) % u64::from(count)).unwrap_or(0);
    (0..count).map(move |step| VNI_CHOSEN_FIRST + (start + step) % count)
}
