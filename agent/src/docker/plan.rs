//! What is to be done so that Docker has the networks that the cluster has.
use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::{IpNetwork, Ipv4Network};

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

/// Names that Docker gives to no network (moby, runconfig/hostconfig_unix.go, IsPreDefinedNetwork): `default` is that of
/// our network for who names none.
const PREDEFINED: [&str; 4] = ["bridge", "default", "host", "none"];

/// All that is to be done, removals first: a name may be needed again.
pub(super) fn plan(ours: &BTreeMap<Name, Ours>, theirs: &[Theirs]) -> Vec<Step> {
    let stands = |it: &Theirs| {
        let name = it.ours.as_ref()?;
        let sorted = |subnets: &[IpNetwork]| subnets.iter().copied().collect::<BTreeSet<_>>();
        let same = |ours: &Ours| sorted(&ours.subnets) == sorted(&it.subnets) && ours.internal == it.internal;
        ours.get(name).filter(|ours| same(ours)).map(|_| name.clone())
    };
    // Of several of one name, which a start or an end in the midst of it may have left, one is kept.
    let twice = |it: &Theirs| {
        let other = |other: &&Theirs| other.ours == it.ours && other.name == it.name && other.id < it.id;
        theirs.iter().filter(other).any(|other| stands(other).is_some())
    };
    let gone = theirs.iter().filter(|it| it.ours.is_some() && (stands(it).is_none() || twice(it)));
    let removals = gone.map(|it| Step::Remove { id: it.id.clone(), name: it.name.clone() });
    let by_hand = theirs.iter().filter(|it| it.ours.is_none());
    let taken_up = by_hand.map(|it| Step::TakeUp { theirs: it.clone() });
    let there: Vec<Name> = theirs.iter().filter_map(stands).collect();
    let awaited = |name: &Name| {
        theirs.iter().any(|it| it.ours.is_none() && super::names::label(&it.name).as_ref() == Some(name))
    };
    // Docker's networks have IPv4 in any case.
    let can = |name: &Name, ours: &Ours| {
        ours.subnets.iter().any(IpNetwork::is_ipv4) && !PREDEFINED.contains(&name.as_str())
    };
    let missing = ours.iter().filter(|(name, it)| can(name, it) && !there.contains(name) && !awaited(name));
    // One that is to be removed first may have containers on it.
    let called = |name: &Name| theirs.iter().any(|it| it.name == name.as_str());
    let made = missing.filter(|(name, _)| !called(name)).map(|(name, _)| Step::Make { name: name.clone() });
    removals.chain(taken_up).chain(made).collect()
}

/// Whether Docker chose a subnet, rather than a person: it is one of its pools (`--default-address-pool` as it is by default:
/// 172.17.0.0/16 to 172.31.0.0/16, and 192.168.0.0/16 by the /20), which it takes in turn.
pub(super) fn is_automatic(subnet: &IpNetwork) -> bool {
    let sixteens = (17..=31_u8).filter_map(|n| Ipv4Network::new([172, n, 0, 0].into(), 16).ok());
    let twenties = (0..=15_u8).filter_map(|n| Ipv4Network::new([192, 168, n * 16, 0].into(), 20).ok());
    let mut pools = sixteens.chain(twenties).map(IpNetwork::V4);
    pools.any(|pool| pool == *subnet)
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
            (name("default"), ours("10.5.0.0/16")),
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
                Step::Make { name: name("missing") },
            ]
        );
    }

    #[test]
    fn one_of_dockers_pools_is_no_persons_choice() {
        for (text, automatic) in [
            ("172.19.0.0/16", true),
            ("192.168.0.0/20", true),
            ("172.19.0.0/24", false),
            ("10.5.0.0/16", false),
            ("172.32.0.0/16", false),
            ("192.168.8.0/20", false),
        ] {
            assert_eq!(text.parse().ok().map(|subnet| is_automatic(&subnet)), Some(automatic), "{text}");
        }
    }

    #[test]
    fn what_was_left_twice_is_there_once_and_nothing_is_made_beside_what_cannot_go() {
        let both = vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()];
        let cluster = BTreeMap::from([(name("blue"), Ours { subnets: both.clone(), internal: false })]);
        let one = |id: &str, order: [usize; 2]| Theirs {
            subnets: order.map(|index| both[index]).to_vec(),
            ..theirs(id, "blue", Some("blue"), "10.1.0.0/16")
        };
        assert_eq!(plan(&cluster, &[one("a", [1, 0])]), []);
        let removed = Step::Remove { id: "b".to_owned(), name: "blue".to_owned() };
        assert_eq!(plan(&cluster, &[one("b", [0, 1]), one("a", [1, 0])]), [removed]);
        let other = theirs("c", "blue", Some("blue"), "10.9.0.0/16");
        let removed = Step::Remove { id: "c".to_owned(), name: "blue".to_owned() };
        assert_eq!(plan(&cluster, &[other]), [removed], "it may have containers");
    }
}
