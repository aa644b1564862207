//! Against the real kernel, each test in a network namespace of its own that ends with its thread.
#![allow(clippy::unwrap_used)] // Helpers of tests are not recognised as tests.
use netfilter::{
    Answer, Base, Batch, ChainKind, Comparison, Conntrack, ElementData, Error, Expression, Family, FieldType,
    Hook, HookPoint, Meta, Nat, Register, Set, SetData, Socket, Table, TableFlags, Target, Verdict,
    conntrack, fingerprint,
};
use rustix::thread::UnshareFlags;

const TABLE: Table<'static> = Table { family: Family::Inet, name: "probe" };
const FIRST: Register = Register::word(0);

/// Runs `test` on a thread in a new network namespace; skips, by name, where that is not permitted.
fn in_namespace(name: &str, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            #[allow(unsafe_code)]
            // unshare concerns this thread alone, which shares no file descriptor table.
            let unshared = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) };
            match unshared {
                Ok(()) => test(),
                Err(errno) if std::env::var_os("CI").is_none() => {
                    eprintln!("skipped {name}: unshare: {errno}")
                }
                Err(errno) => panic!("{name}: unshare: {errno}"),
            }
        });
        thread.join().unwrap();
    });
}

fn hook(kind: ChainKind, point: HookPoint) -> Hook {
    Hook { kind, point, priority: -110, drop_by_default: false }
}

fn with_table(flags: TableFlags) -> Batch {
    let mut batch = Batch::new();
    batch.add_table(TABLE, flags);
    batch.add_chain(TABLE, "in", Some(&hook(ChainKind::Filter, HookPoint::Input)));
    batch.add_chain(TABLE, "out", Some(&hook(ChainKind::Nat, HookPoint::Output)));
    batch.add_chain(TABLE, "post", Some(&hook(ChainKind::Nat, HookPoint::Postrouting)));
    batch.add_chain(TABLE, "plain", None);
    batch
}

#[test]
fn every_expression_is_accepted_and_comes_back() {
    in_namespace("every_expression_is_accepted_and_comes_back", || {
        let mut socket = Socket::open().unwrap();
        let mut batch = with_table(TableFlags::PLAIN);
        let map = Set {
            name: "where",
            key: &[FieldType::IPV4_ADDRESS, FieldType::MARK],
            data: SetData::Value(&[FieldType::IPV4_ADDRESS, FieldType::PORT]),
            interval: false,
            size_max: None,
        };
        batch.add_set(TABLE, &map);
        batch.add_set(
            TABLE,
            &Set {
                name: "what",
                key: &[FieldType::PORT],
                data: SetData::Verdict,
                interval: false,
                size_max: None,
            },
        );
        let load = |meta| Expression::meta(meta, FIRST);
        let filter = vec![
            load(Meta::IncomingName),
            Expression::not_equal(FIRST, *b"eth0\0\0\0\0\0\0\0\0\0\0\0\0"),
            load(Meta::TransportProtocol),
            Expression::equal(FIRST, [6]),
            load(Meta::SocketUser),
            Expression::Compare {
                register: FIRST,
                operation: Comparison::GreaterOrEqual,
                value: 0_u32.to_be_bytes().to_vec(),
            },
            Expression::Conntrack { key: Conntrack::State, to: FIRST },
            Expression::Bitwise { from: FIRST, to: FIRST, mask: vec![6, 0, 0, 0], xor: vec![0; 4] },
            Expression::not_equal(FIRST, [0; 4]),
            Expression::payload(Base::Transport, 2, 2, FIRST),
            Expression::verdict_map("what", FIRST),
            Expression::Immediate { to: FIRST, value: vec![1, 0, 0, 0] },
            Expression::MetaSet { key: Meta::Mark, from: FIRST },
            Expression::Counter,
            Expression::Reject(Answer::TcpReset),
        ];
        let nat = vec![
            load(Meta::FamilyNumber),
            Expression::equal(FIRST, [2]),
            Expression::payload(Base::Network, 16, 4, FIRST),
            Expression::Random { to: FIRST.after(1), modulus: 7 },
            Expression::map("where", FIRST, FIRST),
            Expression::Nat {
                kind: Nat::Destination,
                family: Family::Ip,
                address: FIRST,
                port: Some(FIRST.after(1)),
            },
        ];
        let comment = format!("what nft shows {:016x}", fingerprint(&filter));
        batch.add_rule(TABLE, "in", &filter, Some(&comment));
        batch.add_rule(TABLE, "out", &nat, None);
        batch.add_rule(TABLE, "post", &[Expression::Masquerade], None);
        batch.insert_rule(TABLE, "in", &[Expression::Verdict(Verdict::jump("plain"))], None);
        batch.add_elements(TABLE, "where", |list| {
            list.push(&[10, 0, 0, 1, 3, 0, 0, 0], &ElementData::Value(&[10, 0, 0, 9, 0, 80, 0, 0]));
        });
        batch.add_elements(TABLE, "what", |list| {
            list.push(&[0, 80], &ElementData::Verdict(Verdict::goto("plain")));
        });
        socket.commit(&batch).unwrap();

        let rules = socket.rules(TABLE, Some("in")).unwrap();
        assert_eq!(rules.len(), 2);
        assert_eq!(rules[0].expressions[0].name, "immediate");
        assert_eq!(rules[1].comment.as_deref(), Some(comment.as_str()));
        assert_eq!(rules[1].expressions.len(), filter.len());
        assert_eq!(rules[1].counts(), [netfilter::Count::default()]);
        assert_eq!(socket.rules(TABLE, None).unwrap().len(), 4);
        let chains = socket.chains(TABLE).unwrap();
        assert_eq!(chains.len(), 4);
        assert_eq!(chains[1].hook.as_ref().unwrap().priority, -110);
        assert_eq!(socket.sets(TABLE).unwrap()[0].key_length, 8);
        let verdicts = socket.elements(TABLE, "what", |element| element.verdict).unwrap();
        assert_eq!(verdicts, [Verdict::goto("plain")]);

        let mut batch = Batch::new();
        batch.delete_rule(TABLE, "in", rules[1].handle);
        socket.commit(&batch).unwrap();
        assert_eq!(socket.rules(TABLE, Some("in")).unwrap().len(), 1);
    });
}

#[test]
fn a_refusal_names_the_message_and_nothing_takes_effect() {
    in_namespace("a_refusal_names_the_message_and_nothing_takes_effect", || {
        let mut socket = Socket::open().unwrap();
        socket.commit(&with_table(TableFlags::PLAIN)).unwrap();
        let before = socket.generation().unwrap();
        let mut batch = Batch::new();
        batch.add_chain(TABLE, "more", None);
        batch.delete_elements(TABLE, "absent", |list| list.push(&[1, 2, 3, 4], &ElementData::None));
        batch.add_rule(TABLE, "more", &[Expression::Counter], None);
        let error = socket.commit(&batch).unwrap_err();
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert!(error.to_string().contains("delete elements in \"probe absent\""), "{error}");
        assert_eq!(socket.chains(TABLE).unwrap().len(), 4);
        assert_eq!(socket.generation().unwrap(), before);
    });
}

#[test]
fn a_batch_for_another_generation_is_refused_whole() {
    in_namespace("a_batch_for_another_generation_is_refused_whole", || {
        let mut socket = Socket::open().unwrap();
        let generation = socket.generation().unwrap();
        socket.commit(&with_table(TableFlags::PLAIN)).unwrap();
        assert_eq!(socket.generation().unwrap(), generation + 1);
        let mut batch = Batch::new();
        batch.delete_table(TABLE);
        batch.require_generation(generation);
        assert!(matches!(socket.commit(&batch), Err(Error::Changed { expected }) if expected == generation));
        batch.require_generation(generation + 1);
        socket.commit(&batch).unwrap();
        assert_eq!(socket.table(TABLE).unwrap(), None);
    });
}

#[test]
fn hundred_thousand_elements_are_one_transaction() {
    in_namespace("hundred_thousand_elements_are_one_transaction", || {
        let mut socket = Socket::open().unwrap();
        let mut batch = with_table(TableFlags::PLAIN);
        let fields = [FieldType::IPV4_ADDRESS];
        batch.add_set(
            TABLE,
            &Set {
                name: "big",
                key: &fields,
                data: SetData::Value(&fields),
                interval: false,
                size_max: None,
            },
        );
        batch.add_elements(TABLE, "big", |list| {
            for number in 0..100_000_u32 {
                list.push(&number.to_be_bytes(), &ElementData::Value(&(!number).to_be_bytes()));
            }
        });
        assert!(batch.length_bytes() > 2_000_000);
        let before = socket.generation().unwrap();
        socket.commit(&batch).unwrap();
        assert_eq!(socket.generation().unwrap(), before + 1);
        let word = |bytes: &[u8]| bytes.try_into().map(u32::from_be_bytes).ok();
        let mut read = || {
            let pair = |element: &netfilter::Element<'_>| Some((word(element.key)?, word(element.data)?));
            let mut all = socket.elements(TABLE, "big", |element| pair(&element)).unwrap();
            all.sort_unstable();
            all
        };
        // The kernel's hash table grows behind the commit; a walk meanwhile can name an element twice or not at all
        // (net/netfilter/nft_set_hash.c goes on after EAGAIN of rhashtable_walk_next), and nothing tells when it has
        // grown. Never does it name one that is not there, or with another's data.
        let expected: Vec<_> = (0..100_000).map(|number: u32| (number, !number)).collect();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut all = read();
        while all != expected && std::time::Instant::now() < deadline {
            let stray = all.iter().find(|(key, data)| *key >= 100_000 || *data != !key);
            assert_eq!(stray, None);
            all = read();
        }
        assert!(all == expected, "{} elements", all.len());
    });
}

#[test]
fn an_owned_table_survives_its_owner_and_is_adopted() {
    in_namespace("an_owned_table_survives_its_owner_and_is_adopted", || {
        let mut first = Socket::open().unwrap();
        match first.commit(&with_table(TableFlags::OWNED)) {
            Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => return, // before kernel 6.9
            result => result.unwrap(),
        }
        let state = first.table(TABLE).unwrap().unwrap();
        assert_eq!(state.owner, Some(first.port()));
        let mut second = Socket::open().unwrap();
        let mut batch = Batch::new();
        batch.add_chain(TABLE, "theirs", None);
        assert_eq!(second.commit(&batch).unwrap_err().errno(), Some(libc::EPERM));
        drop(first);
        let orphan = second.table(TABLE).unwrap().unwrap();
        assert_eq!((orphan.handle, orphan.owner), (state.handle, None));
        assert_eq!(orphan.flags, TableFlags { owner: false, persist: true });
        second.commit(&with_table(TableFlags::OWNED)).unwrap();
        assert_eq!(second.table(TABLE).unwrap().unwrap().owner, Some(second.port()));
        let mut batch = Batch::new();
        batch.destroy_table(TABLE);
        second.commit(&batch).unwrap();
        second.commit(&batch).unwrap();
    });
}

#[test]
fn ranges_are_looked_up() {
    in_namespace("ranges_are_looked_up", || {
        let mut socket = Socket::open().unwrap();
        let mut batch = with_table(TableFlags::PLAIN);
        let (address, port) = (FieldType::IPV4_ADDRESS, FieldType::PORT);
        batch.add_set(
            TABLE,
            &Set {
                name: "one",
                key: &[address],
                data: SetData::Value(&[address]),
                interval: true,
                size_max: None,
            },
        );
        batch.add_elements(TABLE, "one", |list| {
            list.push(&[10, 0, 0, 0], &ElementData::Value(&[1, 2, 3, 4]));
            list.push_interval_end(&[10, 0, 1, 0]);
        });
        batch.add_set(
            TABLE,
            &Set { name: "two", key: &[address, port], data: SetData::None, interval: true, size_max: None },
        );
        batch.add_elements(TABLE, "two", |list| {
            list.push_range(&[10, 0, 0, 0, 0, 1, 0, 0], &[10, 0, 0, 9, 0, 9, 0, 0], &ElementData::None);
        });
        let inverted = Expression::Lookup { set: "one".into(), key: FIRST, to: Target::None, inverted: true };
        let mut rule = vec![Expression::payload(Base::Network, 12, 4, FIRST), inverted];
        batch.add_rule(TABLE, "in", &rule, None);
        rule[1] = Expression::map("one", FIRST, FIRST);
        batch.add_rule(TABLE, "in", &rule, None);
        socket.commit(&batch).unwrap();
        let ends = socket.elements(TABLE, "one", |element| Some(element.interval_end)).unwrap();
        assert_eq!(ends.len(), 2);
        let keys = socket.elements(TABLE, "two", |element| Some(element.key_end?.to_vec())).unwrap();
        assert_eq!(keys, [[10, 0, 0, 9, 0, 9, 0, 0]]);
    });
}

#[test]
fn timeouts_are_objects() {
    in_namespace("timeouts_are_objects", || {
        let mut socket = Socket::open().unwrap();
        let mut batch = with_table(TableFlags::PLAIN);
        batch.add_timeout(TABLE, "long", 17, &[(1, 30), (2, 120)]);
        let rule = [
            Expression::meta(Meta::TransportProtocol, FIRST),
            Expression::equal(FIRST, [17]),
            Expression::Timeout { object: "long".into() },
        ];
        batch.add_rule(TABLE, "out", &rule, None);
        match socket.commit(&batch) {
            Err(error) => println!("no time-out objects here: {error}"),
            Ok(()) => assert_eq!(socket.rules(TABLE, Some("out")).unwrap()[0].expressions[2].name, "objref"),
        }
    });
}

#[test]
fn flows_are_listed_and_deleted() {
    in_namespace("flows_are_listed_and_deleted", || {
        let mut socket = Socket::open().unwrap();
        let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        assert!(up.success());
        let mut batch = with_table(TableFlags::PLAIN);
        batch.add_rule(
            TABLE,
            "in",
            &[Expression::Conntrack { key: Conntrack::State, to: FIRST }, Expression::Counter],
            None,
        );
        socket.commit(&batch).unwrap();
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", server.local_addr().unwrap()).unwrap();
        let port = server.local_addr().unwrap().port();
        let wanted = |flow: &conntrack::Flow| {
            let ours = matches!(flow.original.transport, conntrack::Transport::Ports { destination, .. } if destination == port);
            ours.then_some(*flow)
        };
        let flows = conntrack::flows(&mut socket, 2, wanted).unwrap();
        assert_eq!(flows.len(), 1);
        assert_eq!(flows[0].original.protocol, 17);
        assert!(conntrack::delete(&mut socket, &flows[0]).unwrap());
        assert!(!conntrack::delete(&mut socket, &flows[0]).unwrap());
        assert_eq!(conntrack::flows(&mut socket, 2, wanted).unwrap(), []);
        assert_eq!(socket.rules(TABLE, Some("in")).unwrap()[0].counts()[0].packets, 1);
    });
}
