//! Verbs on a host that has not joined its cluster: what they need does not matter while nobody takes this host in.
use crate::api::types::Failure;
use crate::cluster::Cluster;
use crate::runtime::agent::{Agent, refused};

/// # Errors
/// While this host has no node number, with what keeps it from having one.
pub(crate) fn refuse(agent: &Agent) -> Result<(), Failure> {
    let me = agent.identity.node;
    // Of one that was removed other words tell.
    if agent.is_removed() || agent.read(|state| state.books.promises.number().is_some()) {
        return Ok(());
    }
    let cluster = agent.cluster.get();
    let last = cluster.map(Cluster::complaints).unwrap_or_default().last().map(ToString::to_string);
    let found = cluster.is_some_and(|cluster| {
        let members = cluster.members();
        let members = members.borrow();
        members.values().any(|member| member.live && member.node != me)
    });
    Err(failure(last, found))
}

/// `complaint` is the last of a host that does not open our frames, `found` whether a member is seen.
fn failure(complaint: Option<String>, found: bool) -> Failure {
    let (why, hints): (String, &[&str]) = match (complaint, found) {
        (Some(complaint), false) => {
            (complaint, &["give this host the key file of the others and restart its agent"])
        }
        (_, true) => (
            "its node number is not settled".to_owned(),
            &["try again in a second", "see how far it is: svc-agent events"],
        ),
        (None, false) => (
            "no host of the cluster answers".to_owned(),
            &["see what to open in between: svc-agent ports", "see how far it is: svc-agent events"],
        ),
    };
    refused(format!("this host has not joined its cluster yet: {why}"), hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn why_a_host_has_not_joined_is_said_and_a_key_before_all_else() {
        let complaint = "host 192.0.2.1:7946 does not know our key id 07070707: wrong cluster key here?";
        let told = failure(Some(complaint.to_owned()), false);
        assert_eq!(told.message, format!("this host has not joined its cluster yet: {complaint}"));
        assert!(told.hints.iter().any(|hint| hint.contains("key file")), "{told:?}");
        // Who has found a member has its key; somebody else's is wrong.
        assert!(failure(Some(complaint.to_owned()), true).message.contains("node number"));
        assert!(failure(None, true).message.contains("node number"));
        assert!(failure(None, false).message.contains("no host of the cluster answers"));
    }
}
