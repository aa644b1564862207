//! A client of the resolver at 127.0.0.11, as small as one that measures should be (RFC 1035, section 4).
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// Bytes of an answer without EDNS (RFC 1035, 4.2.1).
const ANSWER_BYTES: usize = 512;

/// A socket of the calling thread's namespace that asks there.
pub(crate) fn socket() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(250)))?;
    socket.connect(RESOLVER)?;
    Ok(socket)
}

/// The question for a name's addresses.
pub(crate) fn question(name: &str, id: u16) -> Vec<u8> {
    // Recursion desired; one question.
    let mut message = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for label in name.split('.') {
        message.push(u8::try_from(label.len()).unwrap_or(u8::MAX));
        message.extend_from_slice(label.as_bytes());
    }
    // The root; A; IN.
    message.extend_from_slice(&[0, 0, 1, 0, 1]);
    message
}

/// The one address of an answer that has one record.
pub(crate) fn address(answer: &[u8]) -> Option<Ipv4Addr> {
    let one_record = answer.get(3)? & 0xf == 0 && answer.get(6..12)? == [0, 1, 0, 0, 0, 0];
    let last: [u8; 4] = *answer.last_chunk()?;
    one_record.then_some(Ipv4Addr::from(last))
}

/// Asks once; `None` for any other answer than one address.
pub(crate) fn ask(socket: &UdpSocket, question: &[u8]) -> io::Result<Option<Ipv4Addr>> {
    let mut answer = [0; ANSWER_BYTES];
    socket.send(question)?;
    loop {
        let length = socket.recv(&mut answer)?;
        // What was asked before and answered late is passed over.
        if answer.get(..2) == question.get(..2) {
            return Ok(address(answer.get(..length).unwrap_or_default()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_laid_out_as_the_rfc_says() {
        let message = question("a.bc", 0x0102);
        assert_eq!(message, [1, 2, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, b'a', 2, b'b', b'c', 0, 0, 1, 0, 1]);
    }

    #[test]
    fn only_an_answer_with_one_record_has_an_address() {
        let mut answer = question("a", 7);
        assert_eq!(address(&answer), None);
        answer[7] = 1;
        answer.extend_from_slice(&[10, 0, 0, 9]);
        assert_eq!(address(&answer), Some(Ipv4Addr::new(10, 0, 0, 9)));
        answer[3] = 3;
        assert_eq!(address(&answer), None);
        assert_eq!(address(&answer[..5]), None);
    }
}
