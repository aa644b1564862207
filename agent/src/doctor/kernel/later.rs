//! Capabilities of features to come, told as information.
use super::super::check::Lack;
use super::{Outcome, inside, raw};

/// CTRL_CMD_GETFAMILY to the controller family (include/uapi/linux/genetlink.h).
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
/// include/uapi/linux/xfrm.h.
const XFRM_MSG_NEWSA: u16 = 0x10;
const XFRMA_ALG_AEAD: u16 = 18;
/// sizeof(struct xfrm_usersa_info), and the offsets of what is not 0 in it.
const SA_BYTES: usize = 224;
const SA_SELECTOR_FAMILY: usize = 40;
const SA_DESTINATION: usize = 56;
const SA_SPI: usize = 72;
const SA_PROTOCOL: usize = 76;
const SA_SOURCE: usize = 80;
const SA_LIMITS: usize = 96;
const SA_FAMILY: usize = 212;
/// `char alg_name[64]` of struct xfrm_algo_aead.
const ALGORITHM_NAME_BYTES: usize = 64;
/// AES-128 and the salt of RFC 4106, section 8.1.
const KEY_BYTES: usize = 20;
const ICV_BITS: u32 = 128;

pub(super) fn ipvs() -> Outcome {
    inside(|| {
        let mut body = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
        raw::attribute(&mut body, CTRL_ATTR_FAMILY_NAME, b"IPVS\0");
        raw::request(libc::NETLINK_GENERIC, GENL_ID_CTRL, &body)
            .map_err(|error| Lack::of("look up generic netlink family IPVS", &error))?;
        Ok("the kernel has it".to_owned())
    })
}

pub(super) fn esp() -> Outcome {
    inside(|| {
        raw::request(libc::NETLINK_XFRM, XFRM_MSG_NEWSA, &security_association())
            .map_err(|error| Lack::of("add an ESP association with rfc4106(gcm(aes))", &error))?;
        Ok("added an ESP association with rfc4106(gcm(aes))".to_owned())
    })
}

/// Transport mode between two documentation addresses, with a key of zeros: nothing is ever sent by it.
fn security_association() -> Vec<u8> {
    let family = u16::try_from(libc::AF_INET).unwrap_or_default().to_ne_bytes();
    let mut body = vec![0; SA_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| body[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(SA_SELECTOR_FAMILY, &family);
    put(SA_DESTINATION, &[192, 0, 2, 2]);
    put(SA_SPI, &0x1000_u32.to_be_bytes());
    put(SA_PROTOCOL, &[50]);
    put(SA_SOURCE, &[192, 0, 2, 1]);
    // Soft and hard limits of bytes and packets: none.
    put(SA_LIMITS, &[0xff; 32]);
    put(SA_FAMILY, &family);
    let mut algorithm = b"rfc4106(gcm(aes))".to_vec();
    algorithm.resize(ALGORITHM_NAME_BYTES, 0);
    let key_bits = u32::try_from(KEY_BYTES * 8).unwrap_or_default();
    algorithm.extend_from_slice(&key_bits.to_ne_bytes());
    algorithm.extend_from_slice(&ICV_BITS.to_ne_bytes());
    algorithm.resize(algorithm.len() + KEY_BYTES, 0);
    raw::attribute(&mut body, XFRMA_ALG_AEAD, &algorithm);
    body
}
