//! What is to be done so that Docker has the networks that the cluster has.
use std::collections::BTreeMap;

use ipnetwork::{IpNetwork, Ipv4Network};

use crate::addresses::overlaps;
use crate::model::Name;

/// A network of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ours {
    /// Its subnets.
    pub subnets: Vec<IpNetwork>,
    /// Without a way out.
    pub internal: bool,
}

/// A network of this driver at Docker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Theirs {
    /// Docker's id.
    pub id: String,
    /// Docker's name.
    pub name: String,
    /// Which of the cluster's it is: one that we made.
    pub ours: Option<Name>,
    /// Its subnets.
    pub subnets: Vec<IpNetwork>,
    /// Without a way out.
    pub internal: bool,
    /// Whether containers may be put on it by hand, in Swarm's words.
    pub attachable: bool,
    /// With IPv6.
    pub six: bool,
    /// The driver's options.
    pub options: BTreeMap<String, String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
}

/// One thing to do at Docker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make the network that stands for one of the cluster's.
    Make {
        /// Its name.
        name: Name,
    },
    /// Remove one that stands for nothing any more.
    Remove {
        /// Docker's id.
        id: String,
        /// Docker's name.
        name: String,
    },
    /// Make the cluster's of one that was made by hand.
    TakeUp {
        /// Which.
        theirs: Theirs,
    },
}

/// All that is to be done, removals first: a name may be needed again.
pub(super) fn plan(ours: &BTreeMap<Name, Ours>, theirs: &[Theirs]) -> Vec<Step> {
    let stands = |it: &Theirs| {
        let name = it.ours.as_ref()?;
        let same = |ours: &Ours| ours.subnets == it.subnets && ours.internal == it.internal;
        ours.get(name).filter(|ours| same(ours)).map(|_| name.clone())
    };
    let gone = theirs.iter().filter(|it| it.ours.is_some() && stands(it).is_none());
    let removals = gone.map(|it| Step::Remove { id: it.id.clone(), name: it.name.clone() });
    let by_hand = theirs.iter().filter(|it| it.ours.is_none());
    let taken_up = by_hand.map(|it| Step::TakeUp { theirs: it.clone() });
    let there: Vec<Name> = theirs.iter().filter_map(stands).collect();
    let awaited = |name: &Name| {
        theirs.iter().any(|it| it.ours.is_none() && super::names::label(&it.name).as_ref() == Some(name))
    };
    // Docker's networks have IPv4 in any case.
    let can = |ours: &Ours| ours.subnets.iter().any(IpNetwork::is_ipv4);
    let missing = ours.iter().filter(|(name, it)| can(it) && !there.contains(name) && !awaited(name));
    let made = missing.map(|(name, _)| Step::Make { name: name.clone() });
    removals.chain(taken_up).chain(made).collect()
}

/// Whether Docker chose a subnet, rather than a person: it takes the first of its pools (`--default-address-pool` as it is by
/// default: 172.17.0.0/16 to 172.31.0.0/16, then 192.168.0.0/16 by the /20) that is clear of what is there.
pub(super) fn is_automatic(subnet: &IpNetwork, taken: &[IpNetwork]) -> bool {
    let sixteens = (17..=31_u8).filter_map(|n| Ipv4Network::new([172, n, 0, 0].into(), 16).ok());
    let twenties = (0..=15_u8).filter_map(|n| Ipv4Network::new([192, 168, n * 16, 0].into(), 20).ok());
    let mut pools = sixteens.chain(twenties).map(IpNetwork::V4);
    pools.find(|pool| !taken.iter().any(|taken| overlaps(pool, taken))) == Some(*subnet)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn ours(subnet: &str) -> Ours {
        Ours { subnets: vec![subnet.parse().unwrap()], internal: false }
    }

    fn theirs(id: &str, called: &str, mark: Option<&str>, subnet: &str) -> Theirs {
        Theirs {
            id: id.to_owned(),
            name: called.to_owned(),
            ours: mark.map(name),
            subnets: vec![subnet.parse().unwrap()],
            ..Theirs::default()
        }
    }

    #[test]
    fn docker_has_what_the_cluster_has_and_the_cluster_what_was_made_by_hand() {
        let cluster = BTreeMap::from([
            (name("there"), ours("10.1.0.0/16")),
            (name("missing"), ours("10.2.0.0/16")),
            (name("anew"), ours("10.3.0.0/16")),
            (name("by-hand"), ours("10.4.0.0/16")),
            (name("six"), ours("fd00:1::/64")),
        ]);
        let by_hand = theirs("d", "by_hand", None, "172.18.0.0/16");
        let docker = [
            theirs("a", "there", Some("there"), "10.1.0.0/16"),
            theirs("b", "gone", Some("gone"), "10.9.0.0/16"),
            theirs("c", "anew", Some("anew"), "10.8.0.0/16"),
            by_hand.clone(),
        ];
        let removed = |id: &str, name: &str| Step::Remove { id: id.to_owned(), name: name.to_owned() };
        assert_eq!(
            plan(&cluster, &docker),
            [
                removed("b", "gone"),
                removed("c", "anew"),
                Step::TakeUp { theirs: by_hand },
                Step::Make { name: name("anew") },
                Step::Make { name: name("missing") },
            ]
        );
    }

    #[test]
    fn the_first_of_dockers_pools_that_is_free_is_no_persons_choice() {
        let taken: Vec<IpNetwork> = ["172.17.0.0/16", "172.18.0.0/24"].map(|it| it.parse().unwrap()).into();
        let chosen = |text: &str| !is_automatic(&text.parse().unwrap(), &taken);
        assert!(!chosen("172.19.0.0/16"));
        for text in ["172.20.0.0/16", "172.19.0.0/24", "10.5.0.0/16", "192.168.0.0/20"] {
            assert!(chosen(text), "{text}");
        }
        let all: Vec<IpNetwork> = vec!["172.16.0.0/12".parse().unwrap()];
        assert!(is_automatic(&"192.168.0.0/20".parse().unwrap(), &all));
    }
}
