//! Which host is meant.
use super::*;

fn candidate(number: u32, id: u64, name: &str, stage: Stage) -> Candidate {
    Candidate { member: Member { number, node: NodeId(id) }, name: name.to_owned(), stage }
}

#[test]
fn by_name_or_by_id_whatever_the_stage() {
    let all = [
        candidate(1, 0xa, "alpha", Stage::Member),
        candidate(2, 0xb, "beta", Stage::Leaving),
        candidate(3, 0xc, "000000000000000c", Stage::Joining),
        candidate(4, 0xd, "alpha", Stage::Member),
    ];
    assert_eq!(choose(&all, "beta").unwrap(), all[1]);
    assert_eq!(choose(&all, "000000000000000c").unwrap(), all[2]);
    assert_eq!(choose(&all, "000000000000000d").unwrap(), all[3]);
    let several = choose(&all, "alpha").unwrap_err();
    assert!(several.hints[0].contains("svc-agent node rm 000000000000000a"), "{several:?}");
    assert!(choose(&all, "gamma").unwrap_err().message.contains("not known"));
}

#[test]
fn a_removal_without_a_majority_counts_those_who_remain_and_names_the_silent_ones() {
    assert_eq!(
        not_removed("h2", 1, 2, true, &["h3".to_owned()]),
        "h2 is not removed: without h2, which is not asked, 1 of 2 members agreed, this host included; 2 are needed; \
         no agreement from: h3"
    );
}
