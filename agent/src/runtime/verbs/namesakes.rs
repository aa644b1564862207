//! Hosts that share a name: names are for people and not unique, so people are told.
use std::collections::BTreeMap;

use crate::catalog::facts::HostFact;
use crate::model::NodeId;
use crate::runtime::local::list;
use crate::runtime::state::State;

/// A line for each name that several hosts have, with what to do about it.
pub(crate) fn notices(state: &State) -> Vec<String> {
    let mut named: BTreeMap<&str, Vec<(NodeId, &HostFact)>> = BTreeMap::new();
    for (node, host) in state.catalog.hosts() {
        named.entry(&host.name).or_default().push((node, host));
    }
    let several = named.into_iter().filter(|(_, hosts)| hosts.len() > 1);
    several.map(|(name, hosts)| notice(state, name, &hosts)).collect()
}

fn notice(state: &State, name: &str, hosts: &[(NodeId, &HostFact)]) -> String {
    let away = |node: &NodeId| state.suspended.contains(node);
    let told: Vec<String> = hosts
        .iter()
        .map(|(node, host)| {
            let word = if away(node) { "suspended" } else { "live" };
            format!("{node} ({}, {word})", host.address)
        })
        .collect();
    let moved_on = |address| hosts.iter().any(|(node, host)| !away(node) && host.address == address);
    let lost: Vec<String> = hosts
        .iter()
        .filter(|(node, host)| away(node) && moved_on(host.address))
        .map(|(node, _)| format!("svc-agent node rm {node}"))
        .collect();
    let advice = match lost.is_empty() {
        true => "give all but one another name: run its agent with --node NAME".to_owned(),
        false => format!(
            "it lost its state directory and joined again as a new host; end what it was before: {}",
            list(&lost)
        ),
    };
    format!("several hosts are called {name}: {}; {advice}", list(&told))
}

/// What names a host to `node rm`: its name, or its id where another has the same name.
pub(crate) fn handle(state: &State, node: NodeId, name: &str) -> String {
    let mut others = state.catalog.hosts().filter(|(other, host)| *other != node && host.name == name);
    others.next().map_or_else(|| name.to_owned(), |_| node.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::catalog::facts::{Key, Value};
    use crate::catalog::tests::world::{host, node};
    use crate::runtime::claiming::Books;

    fn state(hosts: &[(u64, &str, &str)], suspended: &[u64]) -> State {
        let mut catalog = Catalog::default();
        for (id, name, address) in hosts {
            catalog.restart(node(*id), 1);
            let Value::Host(fact) = host(address, 1500) else { unreachable!() };
            let fact = HostFact { name: (*name).to_owned(), ..fact };
            catalog.write(node(*id), vec![(Key::Host, Some(Value::Host(fact)))]).unwrap();
        }
        let mut state = State::new(catalog, Books::new(node(1)), node(1));
        state.suspended = suspended.iter().map(|id| node(*id)).collect();
        state
    }

    #[test]
    fn hosts_of_one_name_are_told_with_what_to_do() {
        let apart = state(&[(1, "h1", "192.0.2.1"), (2, "h2", "192.0.2.2")], &[]);
        assert_eq!(notices(&apart), Vec::<String>::new());
        assert_eq!(handle(&apart, node(2), "h2"), "h2");
        let twice = state(&[(1, "h1", "192.0.2.1"), (2, "h1", "192.0.2.2")], &[]);
        let told = notices(&twice);
        assert!(told[0].contains("192.0.2.2, live") && told[0].contains("--node NAME"), "{told:?}");
        let lost = state(&[(1, "h1", "192.0.2.1"), (2, "h2", "192.0.2.2"), (3, "h2", "192.0.2.2")], &[2]);
        let told = notices(&lost);
        assert!(told[0].ends_with(&format!("svc-agent node rm {}", node(2))), "{told:?}");
        assert_eq!(handle(&lost, node(2), "h2"), node(2).to_string());
    }
}
