use super::*;

/// Two addresses, the name by a pointer, and a record of another type before them.
fn answer() -> Vec<u8> {
    let mut message = question(7, "payment-api").unwrap();
    message[2..8].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 3]);
    for (kind, data) in [(5u16, &b"\x03foo\0"[..]), (1, &[10, 0, 0, 1]), (1, &[10, 0, 0, 2])] {
        message.extend([0xc0, 12]);
        message.extend(kind.to_be_bytes());
        message.extend([0, 1, 0, 0, 0, 60, 0]);
        message.push(u8::try_from(data.len()).unwrap());
        message.extend(data);
    }
    message
}

#[test]
fn questions_are_as_the_rfc_says() {
    let expected = b"\x12\x34\x01\x00\x00\x01\0\0\0\0\0\0\x05tasks\x02pa\0\0\x01\0\x01";
    assert_eq!(question(0x1234, "tasks.pa").unwrap(), expected);
    assert_eq!(question(1, "a..b"), None);
    assert_eq!(question(1, &"a".repeat(64)), None);
}

#[test]
fn answers_are_read_and_others_refused() {
    let reply = read(&answer(), 7).unwrap();
    assert_eq!(reply.addresses, [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]);
    assert_eq!((reply.code.as_str(), reply.show().as_str()), ("NOERROR", "10.0.0.1  10.0.0.2"));
    assert_eq!(read(&answer(), 8), None);
    assert_eq!(read(&question(7, "x").unwrap(), 7), None, "a question is no answer");
    let mut missing = question(7, "x").unwrap();
    missing[2..4].copy_from_slice(&[0x81, 0x83]);
    assert_eq!(read(&missing, 7).unwrap().show(), "NXDOMAIN");
}

#[test]
fn what_is_cut_off_anywhere_is_no_answer() {
    let whole = answer();
    for length in 0..whole.len() {
        assert_eq!(read(&whole[..length], 7), None, "{length} bytes");
    }
}
