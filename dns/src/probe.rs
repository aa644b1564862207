//! A look-up by which it is found out whether a namespace is answered by us, and rightly.
use std::net::IpAddr;

use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};

/// A query for the name that an address has, as a libc sends it. `None` if it cannot be encoded, which no address causes.
pub fn probe_question(id: u16, address: IpAddr) -> Option<Vec<u8>> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.metadata.recursion_desired = true;
    message.queries.push(Query::query(Name::from(address), RecordType::PTR));
    message.to_vec().ok()
}

/// What a datagram says to that query: `None` if it is no answer to it, `Err` with what it says if it is not `wanted`, a
/// dotted name without a trailing dot, said by somebody who has authority over it.
pub fn probe_answer(datagram: &[u8], id: u16, wanted: &str) -> Option<Result<(), String>> {
    let message = Message::from_vec(datagram).ok().filter(|message| message.metadata.id == id)?;
    let code = message.metadata.response_code;
    if code != ResponseCode::NoError {
        return Some(Err(code.to_str().to_owned()));
    }
    let names = message.answers.iter().filter_map(|record| match &record.data {
        RData::PTR(name) => Some(name.to_string().trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    });
    let names: Vec<String> = names.collect();
    Some(match names.as_slice() {
        [name] if *name == wanted && message.metadata.authoritative => Ok(()),
        [name] if *name == wanted => Err(format!("{name}, without authority")),
        [] => Err("no name".to_owned()),
        [name, ..] => Err(name.clone()),
    })
}

#[cfg(test)]
mod tests {
    use hickory_proto::op::MessageType;
    use hickory_proto::rr::{Record, rdata::PTR};

    use super::*;

    const ADDRESS: [u8; 4] = [10, 1, 0, 7];

    /// An answer to the question, as somebody gives it.
    fn answer(id: u16, names: &[&str], change: impl FnOnce(&mut Message)) -> Vec<u8> {
        let mut message = Message::from_vec(&probe_question(id, ADDRESS.into()).unwrap()).unwrap();
        let asked = message.queries[0].name().clone();
        message.metadata.message_type = MessageType::Response;
        message.metadata.authoritative = true;
        for name in names {
            let data = RData::PTR(PTR(Name::from_ascii(name).unwrap()));
            message.answers.push(Record::from_rdata(asked.clone(), 2, data));
        }
        change(&mut message);
        message.to_vec().unwrap()
    }

    #[test]
    fn p52_only_the_right_answer_to_this_question_passes() {
        let judge = |bytes: &[u8]| probe_answer(bytes, 7, "web.blue.svc.internal");
        let right = ["Web.blue.svc.internal."];
        assert_eq!(judge(&answer(7, &right, |_| {})), Some(Ok(())));
        assert_eq!(judge(&answer(8, &right, |_| {})), None, "of another question");
        assert_eq!(judge(b"?"), None);
        let stranger = |message: &mut Message| message.metadata.authoritative = false;
        assert_eq!(
            judge(&answer(7, &right, stranger)),
            Some(Err("web.blue.svc.internal, without authority".to_owned()))
        );
        assert_eq!(judge(&answer(7, &["dns.google."], |_| {})), Some(Err("dns.google".to_owned())));
        assert_eq!(judge(&answer(7, &[], |_| {})), Some(Err("no name".to_owned())));
        let denial = |message: &mut Message| message.metadata.response_code = ResponseCode::NXDomain;
        assert!(matches!(judge(&answer(7, &[], denial)), Some(Err(code)) if code.contains("omain")));
    }
}
