//! Which address the other hosts reach this one at.
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// The setting `advertise`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Advertise {
    /// This address; the host must have it.
    Address(IpAddr),
    /// The address of this interface.
    Interface(String),
}

impl fmt::Display for Advertise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Interface(name) => f.write_str(name),
        }
    }
}

impl FromStr for Advertise {
    /// What is wrong, as part of a sentence.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return match unusable(address) {
                Some(reason) => Err(format!("{address} is {reason}, where no other host reaches this one")),
                None => Ok(Self::Address(address)),
            };
        }
        // The kernel's dev_valid_name: 1 to 15 bytes, no slash, no colon, no white space, not "." or "..".
        let foreign = |b: u8| b == b'/' || b == b':' || b.is_ascii_whitespace() || b.is_ascii_control();
        if text.is_empty() || text.len() > 15 || matches!(text, "." | "..") || text.bytes().any(foreign) {
            return Err(format!(
                "\"{}\" is neither an address nor an interface's name",
                super::kinds::excerpt(text)
            ));
        }
        Ok(Self::Interface(text.to_owned()))
    }
}

/// An address that a link of this host has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkAddress {
    /// Name of the link.
    pub interface: String,
    /// The address, without its prefix.
    pub address: IpAddr,
    /// The link has the host's default route of that address's family, with the least metric.
    pub default_route: bool,
    /// It may turn out to be somebody else's (IPv6), and cannot be used yet.
    pub tentative: bool,
}

/// Why no address could be settled on; each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum AdvertiseError {
    /// The host's addresses could not be listed.
    #[error("list this host's addresses")]
    List(#[source] std::io::Error),
    /// The address is not this host's.
    #[error("advertise: {address} is no address of this host; use one of {}", candidates.join(", "))]
    ForeignAddress {
        /// As it was set.
        address: IpAddr,
        /// What could be set.
        candidates: Vec<String>,
    },
    /// The interface is not there or has no address that others can reach.
    #[error("advertise: interface {interface} is not there or has no address that other hosts reach; use one of {}", candidates.join(", "))]
    NoAddressOn {
        /// As it was set.
        interface: String,
        /// What could be set.
        candidates: Vec<String>,
    },
    /// Nothing was set and there is no default route to choose by.
    #[error("advertise: not set, and without a default route there is no telling which of {} is meant; set --advertise ADDR", candidates.join(", "))]
    Ambiguous {
        /// What could be set.
        candidates: Vec<String>,
    },
    /// This host has nothing but loopback.
    #[error("advertise: this host has no address that other hosts reach; give it one, then start again")]
    None,
}

/// Settles the advertised address. IPv4 goes before IPv6 on one interface, the first listed before later ones.
///
/// # Errors
/// [`AdvertiseError`], when the setting does not fit what `list` returns, or nothing does.
pub fn resolve_advertise(
    setting: Option<&Advertise>,
    list: &dyn Fn() -> std::io::Result<Vec<LinkAddress>>,
) -> Result<IpAddr, AdvertiseError> {
    let all = list().map_err(AdvertiseError::List)?;
    let mut usable: Vec<&LinkAddress> = all.iter().filter(|link| unusable(link.address).is_none()).collect();
    usable.sort_by_key(|link| link.address.is_ipv6());
    let candidates = || usable.iter().map(|link| format!("{} ({})", link.address, link.interface)).collect();
    match setting {
        Some(Advertise::Address(address)) => {
            let found = usable.iter().any(|link| link.address == *address);
            if found {
                Ok(*address)
            } else {
                Err(AdvertiseError::ForeignAddress { address: *address, candidates: candidates() })
            }
        }
        Some(Advertise::Interface(interface)) => {
            usable.iter().find(|link| link.interface == *interface).map(|link| link.address).ok_or_else(
                || AdvertiseError::NoAddressOn { interface: interface.clone(), candidates: candidates() },
            )
        }
        None => match (usable.iter().find(|link| link.default_route), usable.as_slice()) {
            (Some(link), _) => Ok(link.address),
            (None, []) => Err(AdvertiseError::None),
            (None, [only]) => Ok(only.address),
            (None, _) => Err(AdvertiseError::Ambiguous { candidates: candidates() }),
        },
    }
}

/// Why other hosts cannot reach a host at this address, if so.
fn unusable(address: IpAddr) -> Option<&'static str> {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Some("the unspecified address")
    } else if address.is_loopback() {
        Some("a loopback address")
    } else if address.is_multicast() {
        Some("a multicast address")
    } else if link_local {
        Some("a link-local address")
    } else {
        None
    }
}
