//! From words of the command line to the API's values. Pure; an error says what is wrong and what to write.
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use crate::catalog::facts::{Balance, ServiceMode};
use crate::config::kinds::{Wrong, duration_within, excerpt};

pub(super) use crate::api::words::{read_port as port, read_probe as probe};

/// `vip` or `dnsrr`; the grammar lets nothing else through.
pub(super) fn mode(text: String) -> ServiceMode {
    if text == "dnsrr" { ServiceMode::Dnsrr } else { ServiceMode::Vip }
}

/// `random`, `hash` or `least-conn`; the grammar lets nothing else through.
pub(super) fn balance(text: String) -> Balance {
    match text.as_str() {
        "hash" => Balance::Hash,
        "least-conn" => Balance::LeastConn,
        _ => Balance::Random,
    }
}

/// A network's range: with its prefix, and no bits behind it.
pub(super) fn subnet(text: &str) -> Result<IpNetwork, String> {
    let form = "write for example 10.128.4.0/22 or fd00:1::/64";
    let subnet: IpNetwork = match text.parse() {
        Ok(subnet) if text.contains('/') => subnet,
        Ok(_) => return Err(format!("\"{}\" has no prefix length; {form}", excerpt(text))),
        Err(_) => return Err(format!("\"{}\" is no subnet; {form}", excerpt(text))),
    };
    if subnet.ip() != subnet.network() {
        let meant = format!("{}/{}", subnet.network(), subnet.prefix());
        return Err(format!("{subnet} has bits set behind its prefix; write {meant} if that is meant"));
    }
    Ok(subnet)
}

/// An address.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("\"{}\" is no IP address; write for example 10.128.4.9", excerpt(text)))
}

/// Six octets in hexadecimal with colons between them; lower case in return.
pub(super) fn mac(text: &str) -> Result<String, String> {
    let form = "write six octets such as 02:42:0a:80:04:09";
    let octet = |text: &str| {
        let hexadecimal = text.len() == 2 && text.bytes().all(|b| b.is_ascii_hexdigit());
        hexadecimal.then(|| u8::from_str_radix(text, 16).ok()).flatten()
    };
    let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
    let Some(octets) = octets.filter(|octets| octets.len() == 6) else {
        return Err(format!("\"{}\" is no MAC address; {form}", excerpt(text)));
    };
    // IEEE 802: the lowest bit of the first octet marks a group.
    if octets[0] & 1 == 1 {
        return Err(format!("{text} is a group's MAC address; make its first octet even"));
    }
    if octets.iter().all(|octet| *octet == 0) {
        return Err(format!("{text} stands for no address; {form}"));
    }
    Ok(text.to_ascii_lowercase())
}

/// A VXLAN network identifier: 24 bits (RFC 7348, section 5), 0 left out.
pub(super) fn vni(text: &str) -> Result<u32, String> {
    let vni = text.parse::<u32>().ok().filter(|vni| (1..1 << 24).contains(vni));
    vni.ok_or_else(|| {
        format!("\"{}\" is no VXLAN network identifier; use a number from 1 to 16777215", excerpt(text))
    })
}

/// An MTU in bytes: from what every IPv4 host must take (RFC 791) to what a packet can have.
pub(super) fn mtu(text: &str) -> Result<u32, String> {
    let mtu = text.parse::<u32>().ok().filter(|mtu| (576..=65_535).contains(mtu));
    mtu.ok_or_else(|| {
        format!("\"{}\" is no MTU; use a number from 576 to 65535, and 1280 or more for IPv6", excerpt(text))
    })
}

/// A namespace: a path (made absolute, for the agent has another working directory), a name, or `host`.
pub(super) fn netns(text: &str) -> Result<String, String> {
    if text.contains('/') {
        let path =
            std::path::absolute(text).map_err(|error| format!("the working directory is gone: {error}"))?;
        return path.into_os_string().into_string().map_err(|_| "the path is no UTF-8".to_owned());
    }
    if text.is_empty() || text.len() > 255 || matches!(text, "." | "..") {
        return Err("it is no namespace; write a path, a name that `ip netns` lists, or host".to_owned());
    }
    Ok(text.to_owned())
}

/// A name to look up: 253 visible characters at most, a final dot aside.
pub(super) fn query_name(text: &str) -> Result<String, String> {
    let bare = text.strip_suffix('.').unwrap_or(text);
    let labels = bare.split('.').all(|label| (1..=63).contains(&label.len()));
    if bare.len() > 253 || !labels || !bare.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!(
            "\"{}\" is no name; write labels of 1 to 63 characters with dots between them",
            excerpt(text)
        ));
    }
    Ok(text.to_owned())
}

/// A record type's name, upper case in return; whether there is such a type is the agent's to say.
pub(super) fn record_type(text: &str) -> Result<String, String> {
    let named = (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric());
    named.then(|| text.to_ascii_uppercase()).ok_or_else(|| {
        format!("\"{}\" is no record type; write for example A, AAAA, SRV or PTR", excerpt(text))
    })
}

/// How long to wait.
pub(super) fn timeout(text: &str) -> Result<Duration, Wrong> {
    duration_within(text, Duration::from_millis(1), Duration::from_secs(86_400))
}

/// Time between two checks.
pub(super) fn check_interval(text: &str) -> Result<Duration, Wrong> {
    duration_within(text, Duration::from_millis(100), Duration::from_secs(3_600))
}

/// Time until a check counts as failed.
pub(super) fn check_timeout(text: &str) -> Result<Duration, Wrong> {
    duration_within(text, Duration::from_millis(10), Duration::from_secs(60))
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
