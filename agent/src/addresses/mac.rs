//! MAC addresses: derived from IP addresses, read and written.
use std::net::IpAddr;

/// A MAC address, in the order of transmission.
pub type Mac = [u8; 6];

/// Why a text is no MAC address for an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is no MAC address for an interface: {reason}; use the form 02:42:0a:80:00:05")]
pub struct MacError {
    text: String,
    reason: &'static str,
}

/// The MAC of an attachment, from its address (the IPv4 one if it has both): unicast and locally administered.
///
/// IPv4 gives `02:42` and the four bytes, one MAC per address. IPv6 gives `06` and the last five bytes: one MAC per
/// address within a /88 and within all blocks of a larger subnet.
pub fn mac_for(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, c, d] = v4.octets();
            [0x02, 0x42, a, b, c, d]
        }
        IpAddr::V6(v6) => {
            let [.., a, b, c, d, e] = v6.octets();
            [0x06, a, b, c, d, e]
        }
    }
}

/// The MAC of a network's gateway, from the gateway's address: the same on every host, so a container that moves keeps its
/// neighbour entry.
pub fn gateway_mac(gateway: IpAddr) -> Mac {
    mac_for(gateway)
}

/// Lower case, with colons.
pub fn format_mac(mac: Mac) -> String {
    let [a, b, c, d, e, f] = mac;
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// Reads six pairs of hexadecimal digits with colons or hyphens between them.
///
/// # Errors
/// [`MacError`] for another form, for a group address (multicast and broadcast: lowest bit of the first byte) and for all zeros,
/// neither of which an interface can have.
pub fn parse_mac(text: &str) -> Result<Mac, MacError> {
    let refuse = |reason| MacError { text: text.chars().take(40).collect(), reason };
    let separator = if text.contains('-') { '-' } else { ':' };
    let mut mac = [0; 6];
    let mut parts = text.split(separator);
    for byte in &mut mac {
        let part = parts.next().ok_or_else(|| refuse("it has fewer than six bytes"))?;
        let digits = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let value = u8::from_str_radix(part, 16).ok().filter(|_| digits);
        *byte = value.ok_or_else(|| refuse("a byte of it is not two hexadecimal digits"))?;
    }
    if parts.next().is_some() {
        return Err(refuse("it has more than six bytes"));
    }
    if mac == [0; 6] {
        return Err(refuse("it is all zeros"));
    }
    if mac[0] & 1 == 1 {
        return Err(refuse("it is a multicast address"));
    }
    Ok(mac)
}
