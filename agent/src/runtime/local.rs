//! The local side of an attachment: what this host must know to make it again after a restart.
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::catalog::facts::Succession;
use crate::model::{Name, Stamp};

/// Where an attachment's namespace is found again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredPlace {
    /// A path that holds the namespace, as this agent sees it.
    Path(String),
    /// A process inside it.
    Pid(u32),
    /// The host's own.
    Host,
}

/// An attachment on this host. Written before the kernel is touched, so that a crash leaves a trace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalAttachment {
    /// Its network.
    pub network: Name,
    /// Its name.
    pub name: Name,
    /// Where its namespace is.
    pub place: StoredPlace,
    /// Boot in which the cookie holds; after a reboot the attachment is swept.
    pub boot_id: String,
    /// Cookie of the namespace (SO_NETNS_COOKIE).
    pub cookie: u64,
    /// At most one per family.
    pub addresses: Vec<IpAddr>,
    /// Its MAC, lower case.
    pub mac: String,
    /// Further names.
    pub aliases: Vec<Name>,
    /// A default route was asked for even where there is one.
    pub default_route: bool,
    /// Order of attachment on this host; gives the metric of its default route and the order of its names.
    pub order: u64,
    /// When it was attached.
    pub since: Stamp,
    /// As [`AttachmentFact::succeeds`](crate::catalog::facts::AttachmentFact::succeeds).
    #[serde(default)]
    pub succeeds: Vec<Succession>,
    /// The resolv.conf that we wrote for it, to be removed with it.
    pub resolv_conf: Option<String>,
    /// Docker's id of the endpoint that it is for, where Docker made it: its link keeps out of the way of Docker's own names.
    #[serde(default)]
    pub endpoint: Option<String>,
    /// Whether the other hosts have been told; false between "reserve" and "announce".
    pub announced: bool,
    /// Withdrawn, but what the kernel holds of it may not be removed yet; finished by the next start after a crash.
    #[serde(default)]
    pub detaching: bool,
}

impl LocalAttachment {
    /// Key in the store and in status.
    pub fn key(&self) -> String {
        format!("{}/{}", self.network, self.name)
    }

    /// Whether `other` asks for the same thing (`attach` again changes nothing then). Returns what differs.
    pub fn difference(&self, other: &Asked) -> Vec<String> {
        let mut differs = Vec::new();
        if self.cookie != other.cookie {
            differs.push("it is attached to another namespace".to_owned());
        }
        if let Some(ip) = other.ip.filter(|ip| !self.addresses.contains(ip)) {
            differs.push(format!("its address is {}, not {ip}", list(&self.addresses)));
        }
        if let Some(mac) = other.mac.as_ref().filter(|mac| **mac != self.mac) {
            differs.push(format!("its MAC is {}, not {mac}", self.mac));
        }
        if self.aliases != other.aliases {
            differs.push(format!(
                "its aliases are [{}], not [{}]",
                list(&self.aliases),
                list(&other.aliases)
            ));
        }
        if self.default_route != other.default_route {
            let (is, asked) = (self.default_route, other.default_route);
            differs.push(format!("--default-route is {is}, not {asked}"));
        }
        differs
    }
}

/// What an `attach` asks for, after parsing.
#[derive(Clone, Debug)]
pub struct Asked {
    /// Cookie of the namespace meant.
    pub cookie: u64,
    /// `--ip`.
    pub ip: Option<IpAddr>,
    /// `--mac`, in canonical form.
    pub mac: Option<String>,
    /// `--alias`.
    pub aliases: Vec<Name>,
    /// `--default-route`.
    pub default_route: bool,
    /// Docker's endpoint, with the addresses that were given out for it.
    pub endpoint: Option<(String, Vec<IpAddr>)>,
}

/// Joins things with commas.
pub fn list<T: std::fmt::Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// So many of a list that may be long are named in a message.
pub const NAMED_MAX: usize = 8;

/// As [`list`], of a list that may be long: the first ones, and how many more there are.
pub fn list_some<T: std::fmt::Display>(items: &[T]) -> String {
    list_of(items, items.len())
}

/// As [`list_some`], where only the first of `total` were kept.
pub fn list_of<T: std::fmt::Display>(first: &[T], total: usize) -> String {
    let named = &first[..first.len().min(NAMED_MAX)];
    match total.saturating_sub(named.len()) {
        0 => list(named),
        more if named.is_empty() => format!("{more} that are not named"),
        more => format!("{} and {more} more", list(named)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_cut_says_so() {
        let ten: Vec<u32> = (1..=10).collect();
        assert_eq!(list_some(&ten[..8]), "1, 2, 3, 4, 5, 6, 7, 8");
        assert_eq!(list_some(&ten), "1, 2, 3, 4, 5, 6, 7, 8 and 2 more");
        assert_eq!(list_of(&ten[..2], 5), "1, 2 and 3 more");
        assert_eq!(list_of::<u32>(&[], 5), "5 that are not named");
        assert_eq!(list_some::<u32>(&[]), "");
    }
}
