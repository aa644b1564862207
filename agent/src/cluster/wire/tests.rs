use proptest::prelude::*;

use super::*;

fn messages() -> impl Strategy<Value = Message> {
    let data = prop::collection::vec(any::<u8>(), 0..40);
    let refusals = prop::sample::select(vec![Refusal::Busy, Refusal::TooLarge, Refusal::Failed]);
    prop_oneof![
        (any::<u64>(), any::<u32>(), data.clone()).prop_map(|(id, total, data)| Message::First {
            id,
            total,
            data
        }),
        (any::<u64>(), data.clone()).prop_map(|(id, data)| Message::More { id, data }),
        (any::<u64>(), refusals).prop_map(|(id, refusal)| Message::Refused { id, refusal }),
        any::<u64>().prop_map(|id| Message::Cancel { id }),
        Just(Message::Ping),
        Just(Message::Pong),
        data.prop_map(|data| Message::Gossip { data }),
    ]
}

proptest! {
    #[test]
    fn messages_survive(message in messages()) {
        prop_assert_eq!(Message::decode(&message.encode()), Some(message));
    }

    #[test]
    fn envelopes_and_hellos_survive(values in any::<[u64; 7]>(), body in prop::collection::vec(any::<u8>(), 0..40)) {
        let speaker = Speaker { node: NodeId(values[0]), incarnation: values[1], boot: values[2] };
        let envelope = Envelope { speaker, receiver: values[3], counter: values[4] };
        let bytes = envelope.encode(&body);
        prop_assert_eq!(Envelope::decode(&bytes), Some((envelope, &body[..])));
        let hello = Hello { echo: values[5], newest: values[6] };
        prop_assert_eq!(Hello::decode(&hello.encode()), Some(hello));
    }

    #[test]
    fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let _ = Message::decode(&bytes);
        let _ = Envelope::decode(&bytes);
        let _ = Hello::decode(&bytes);
    }
}

#[test]
fn addresses_of_both_families_survive() {
    for text in ["10.1.2.3:7946", "[2001:db8::1]:7946"] {
        let address: SocketAddr = text.parse().unwrap();
        let mut bytes = Vec::new();
        put_address(&mut bytes, address);
        assert_eq!(Reader(&bytes).address(), Some(address));
    }
}
