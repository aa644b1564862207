//! What `status` says beside the hosts.
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::cluster::Unreadable;
use crate::runtime::agent::Agent;
use crate::runtime::verbs;

/// A host with this one's identity that has been silent for so long is there no more.
const TWIN_GONE_AFTER: Duration = Duration::from_secs(10);
/// Addresses named whose frames do not open; more are counted.
const STRANGERS_NAMED: usize = 4;

/// What concerns this host as a whole, or the cluster's declarations; and whether any of it is wrong here. Who sends what
/// does not open is only told of: anybody can, from any address.
pub(super) fn of(agent: &Agent) -> (Vec<String>, bool) {
    let mut notices = own(agent);
    let wrong = !notices.is_empty();
    if let Some(cluster) = agent.cluster.get() {
        let members: BTreeSet<IpAddr> =
            agent.read(|state| state.catalog.hosts().map(|(_, host)| host.address).collect());
        notices.extend(strangers(&cluster.unreadable(), &members, Instant::now()));
    }
    (notices, wrong)
}

fn own(agent: &Agent) -> Vec<String> {
    let mut notices: Vec<String> = agent.read(|state| {
        let mut notices = verbs::conflicts::lines(state, state.view.conflicts());
        notices.extend(verbs::namesakes::notices(state));
        if !state.synced {
            notices.push("this host has not synced with another one since it started".to_owned());
        }
        notices
    });
    if agent.is_removed() {
        let by = agent.cluster.get().and_then(|cluster| cluster.removed_by());
        let by = by.map(|by| format!(", says {by}")).unwrap_or_default();
        notices.push(format!(
            "this host was removed from its cluster{by}: the others send it nothing any more; take down what is left \
             with svc-agent leave, or stop the agent, move {} away and join again",
            agent.settings.load().state_dir.display()
        ));
    }
    let Some(cluster) = agent.cluster.get() else { return notices };
    notices.extend(cluster.notices());
    if let Some(newest) = cluster.superseded() {
        notices.push(format!(
            "other hosts have seen start {newest} of this host, which is later than this one: its state directory is \
             an old copy; leave and join again"
        ));
    }
    if let Some(duplicate) = cluster.duplicate().filter(|it| it.at.elapsed() < TWIN_GONE_AFTER) {
        notices.push(format!(
            "another host ({}) says it is this one: its state directory is a copy; stop one of the two and move its \
             state directory away",
            duplicate.address
        ));
    }
    notices
}

/// Who sends frames that do not open without being a member, which is a problem of its own: a host that cannot join, as
/// an example.
fn strangers(unreadable: &[Unreadable], members: &BTreeSet<IpAddr>, now: Instant) -> Vec<String> {
    let others: Vec<&Unreadable> = unreadable.iter().filter(|it| !members.contains(&it.from)).collect();
    let mut lines: Vec<String> = others
        .iter()
        .take(STRANGERS_NAMED)
        .map(|frames| {
            let seconds = now.saturating_duration_since(frames.since).as_secs();
            format!(
                "{frames} (for {seconds} s); if that is to be a host of this cluster, give it this host's key file and \
                 restart its agent"
            )
        })
        .collect();
    if let Some(more) = others.len().checked_sub(STRANGERS_NAMED).filter(|more| *more > 0) {
        lines.push(format!("nor do frames from {more} more addresses"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::cluster::KeyId;

    #[test]
    fn whoever_cannot_join_for_its_key_is_named_with_its_address_and_since_when() {
        let begin = Instant::now();
        let frames = |number| {
            let from = IpAddr::V4(Ipv4Addr::new(192, 0, 2, number));
            Unreadable::new(begin, from, KeyId([7; 4]), false)
        };
        let all: Vec<Unreadable> = (1..=8).map(frames).collect();
        let members = BTreeSet::from([all[0].from, all[1].from]);
        let lines = strangers(&all, &members, begin + Duration::from_secs(9));
        assert_eq!(lines.len(), STRANGERS_NAMED + 1);
        assert!(lines[0].starts_with("frames from 192.0.2.3 do not open here"), "{}", lines[0]);
        assert!(lines[0].contains("07070707") && lines[0].contains("(for 9 s)"), "{}", lines[0]);
        assert_eq!(lines[STRANGERS_NAMED], "nor do frames from 2 more addresses");
        assert!(strangers(&all[..2], &members, begin).is_empty());
    }
}
