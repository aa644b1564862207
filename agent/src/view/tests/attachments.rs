//! Of two attachments that cannot both be, one stands and the other's host is told.
use super::Bed;
use crate::catalog::facts::{AttachmentFact, Key, Succession, Taken, Value};
use crate::catalog::tests::world::{
    address, attachment, attachment_key, name, network, network_key, node, stamp,
};
use crate::view::Conflict;

fn conflicts(bed: &Bed) -> Vec<Conflict> {
    bed.view.conflicts().cloned().collect()
}

#[test]
fn a_takeover_stands_when_the_suspended_owner_returns() {
    let mut bed = Bed::new();
    bed.attach(2, "web", &["10.0.0.2"], 5);
    bed.suspend(&[2]);
    assert_eq!(bed.owner_of("web"), Some(2), "a suspended host's attachments stay");
    bed.attach(3, "web", &["10.0.0.3"], 9);
    assert_eq!(bed.owner_of("web"), Some(3));
    let out = bed.suspend(&[]);
    assert!(out.attachments.is_empty());
    let lost =
        Conflict::Name { network: name("alpha"), attachment: name("web"), owner: node(2), standing: node(3) };
    assert_eq!((conflicts(&bed), lost.blamed()), (vec![lost.clone()], node(2)));
    let out = bed.say(2, attachment_key("alpha", "web"), None);
    assert!(
        out.conflicts && conflicts(&bed).is_empty(),
        "once it is fenced and detached nothing is left to say"
    );
}

#[test]
fn liveness_has_no_part_in_who_stands() {
    let mut bed = Bed::new();
    bed.attach(2, "web", &["10.0.0.2"], 5);
    bed.attach(3, "web", &["10.0.0.3"], 9);
    for suspended in [vec![], vec![2], vec![3], vec![2, 3]] {
        bed.suspend(&suspended);
        assert_eq!(bed.owner_of("web"), Some(3), "{suspended:?}");
    }
}

#[test]
fn who_took_over_stands_before_what_was_made_later_elsewhere() {
    let mut bed = Bed::new();
    bed.attach(2, "web", &["10.0.0.2"], 5);
    let succession = |object| Succession { object, from: stamp(5, 2), by: node(3), attempt: 1 };
    let heir = |object: Taken| {
        let Value::Attachment(fact) = attachment(&["10.0.0.2"], stamp(9, 3)) else { unreachable!() };
        Some(Value::Attachment(AttachmentFact { succeeds: vec![succession(object)], ..fact }))
    };
    bed.say(3, attachment_key("alpha", "web"), heir(Taken::Name(name("web"))));
    // Cut off, the other host frees the name and gives it anew.
    bed.attach(2, "web", &["10.0.0.2"], 20);
    assert_eq!(bed.owner_of("web"), Some(3));
    bed.say(3, attachment_key("alpha", "web"), None);
    assert_eq!(bed.owner_of("web"), Some(2));
    bed.say(3, attachment_key("alpha", "db"), heir(Taken::Address(address("10.0.0.2"))));
    assert_eq!((bed.owner_of("web"), bed.owner_of("db")), (None, Some(3)));
}

#[test]
fn an_address_is_one_attachments() {
    let mut bed = Bed::new();
    bed.attach(2, "web", &["10.0.0.2"], 5);
    let out = bed.attach(3, "db", &["10.0.0.2"], 9);
    assert_eq!(out.attachments, [(name("alpha"), name("db")), (name("alpha"), name("web"))].into());
    assert_eq!((bed.owner_of("web"), bed.owner_of("db")), (None, Some(3)));
    let lost = Conflict::Address {
        network: name("alpha"),
        attachment: name("web"),
        owner: node(2),
        address: address("10.0.0.2"),
        holder: name("db"),
        standing: node(3),
    };
    assert_eq!(conflicts(&bed), vec![lost]);
    bed.say(3, attachment_key("alpha", "db"), None);
    assert_eq!(bed.owner_of("web"), Some(2));
}

#[test]
fn an_address_outside_the_network_that_stands_is_left_out() {
    let mut bed = Bed::new();
    bed.attach(2, "web", &["10.0.9.2"], 5);
    let outside = Conflict::Outside { network: name("alpha"), attachment: name("web"), owner: node(2) };
    assert_eq!(conflicts(&bed), vec![]);
    bed.attach(3, "db", &["172.16.0.2"], 5);
    assert_eq!(bed.owner_of("db"), None);
    let born = stamp(1, 1);
    let narrower = network(stamp(7, 1), "10.0.0.0/24");
    let out = bed.say(1, network_key("alpha", born), Some(Value::Network(narrower)));
    assert!(out.attachments.contains(&(name("alpha"), name("web"))), "other subnets, other attachments");
    assert!(conflicts(&bed).contains(&outside));
    assert_eq!(bed.owner_of("web"), None);
}

#[test]
fn a_moved_host_moves_its_attachments_and_nothing_else() {
    let mut bed = Bed::new();
    bed.attach(1, "db", &["10.0.0.3"], 5);
    bed.attach(2, "web", &["10.0.0.2"], 5);
    let out = bed.say(2, Key::Host, Some(crate::catalog::tests::world::host("192.0.2.77", 1500)));
    assert_eq!(out.attachments, [(name("alpha"), name("web"))].into());
    assert_eq!(out.networks, [name("alpha")].into());
    let web = bed.view.attachment(&name("alpha"), &name("web")).unwrap();
    assert_eq!(web.underlay, Some(address("192.0.2.77")));
}
