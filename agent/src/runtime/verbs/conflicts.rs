//! What is told of declarations that disagree: the view says which stand, here it is put into words with hosts' names.
use crate::runtime::agent::{State, host_name};
use crate::view::Conflict;

/// So many are told at once.
const TOLD_MAX: usize = 64;

/// One conflict: what does not stand and on which host, and on which host stands what keeps it from doing so.
pub(crate) fn describe(state: &State, conflict: &Conflict) -> String {
    let name_of = |node| host_name(&state.catalog, node);
    let host = name_of(conflict.blamed());
    match conflict {
        Conflict::Name { network, attachment, standing, .. } => {
            let by = name_of(*standing);
            format!(
                "attachment {attachment} of host {host} on network {network} has been taken over by host {by}"
            )
        }
        Conflict::Address { network, attachment, address, holder, standing, .. } => {
            let by = name_of(*standing);
            format!(
                "attachment {attachment} of host {host} on network {network}: {address} is held by {holder} on host \
                 {by}"
            )
        }
        _ => format!("{conflict} (host {host})"),
    }
}

/// All of them, cut where there are too many to read.
pub(crate) fn lines<'a>(state: &State, conflicts: impl Iterator<Item = &'a Conflict>) -> Vec<String> {
    let told = conflicts.map(|conflict| describe(state, conflict)).collect();
    cut(told, TOLD_MAX, "declarations that disagree: svc-agent network inspect NETWORK")
}

/// The first of these lines; of what there are more is said in one line.
pub(crate) fn cut(mut lines: Vec<String>, max: usize, what: &str) -> Vec<String> {
    let more = lines.len().saturating_sub(max);
    lines.truncate(max);
    if more > 0 {
        lines.push(format!("and {more} more {what}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::Catalog;
    use crate::catalog::tests::world::{address, name, node};
    use crate::runtime::claiming::Books;

    #[test]
    fn who_took_over_is_named_apart_from_who_lost() {
        let state = State::new(Catalog::default(), Books::new(node(1)), node(1));
        let [lost, took] = [node(1), node(3)].map(|node| host_name(&state.catalog, node));
        let (network, attachment) = (name("alpha"), name("web"));
        let of_name = Conflict::Name {
            network: network.clone(),
            attachment: attachment.clone(),
            owner: node(1),
            standing: node(3),
        };
        assert_eq!(
            describe(&state, &of_name),
            format!("attachment web of host {lost} on network alpha has been taken over by host {took}")
        );
        let (address, holder) = (address("10.0.0.2"), name("db"));
        let of_address =
            Conflict::Address { network, attachment, owner: node(1), address, holder, standing: node(3) };
        assert_eq!(
            describe(&state, &of_address),
            format!("attachment web of host {lost} on network alpha: 10.0.0.2 is held by db on host {took}")
        );
        let many = vec![of_name; TOLD_MAX + 2];
        let told = lines(&state, many.iter());
        assert_eq!(told.len(), TOLD_MAX + 1);
        assert!(told[TOLD_MAX].starts_with("and 2 more declarations that disagree"), "{}", told[TOLD_MAX]);
    }
}
