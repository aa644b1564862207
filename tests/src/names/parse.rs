//! From bytes to an answer; `None` for anything that is no well-formed one.
use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Answer, Record};

/// Compression pointers followed in one name.
const JUMPS_MAX: usize = 16;

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

pub(super) fn answer(id: u16, bytes: &[u8]) -> Option<Answer> {
    let mut reader = Reader { bytes, at: 0 };
    let found = reader.number()?;
    let flags = reader.number()?;
    let counts = [reader.number()?, reader.number()?, reader.number()?, reader.number()?];
    if found != id || flags & 0x8000 == 0 || counts[0] > 1 {
        return None;
    }
    let start = reader.at;
    if counts[0] == 1 {
        reader.name()?;
        reader.take(4)?;
    }
    let question = bytes.get(start..reader.at)?.to_vec();
    let records = (0..counts[1]).map(|_| reader.record()).collect::<Option<_>>()?;
    let authority = (0..counts[2]).map(|_| reader.record()).collect::<Option<_>>()?;
    Some(Answer {
        code: code(flags & 15),
        authoritative: flags & 0x0400 != 0,
        truncated: flags & 0x0200 != 0,
        question,
        records,
        authority,
    })
}

fn code(number: u16) -> String {
    let names = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
    names.get(usize::from(number)).map_or_else(|| number.to_string(), |&name| name.to_owned())
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(length)?;
        let taken = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(taken)
    }

    fn number(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn name(&mut self) -> Option<String> {
        let (mut labels, mut after) = (Vec::new(), None);
        let mut jumps = 0;
        loop {
            let length = self.take(1)?[0];
            match length {
                0 => break,
                1..=63 => labels.push(String::from_utf8_lossy(self.take(length.into())?).to_lowercase()),
                192.. => {
                    let low = self.take(1)?[0];
                    after.get_or_insert(self.at);
                    self.at = usize::from(u16::from_be_bytes([length & 63, low]));
                    jumps += 1;
                    if jumps > JUMPS_MAX {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        self.at = after.unwrap_or(self.at);
        Some(labels.join("."))
    }

    fn record(&mut self) -> Option<Record> {
        let name = self.name()?;
        let kind = self.number()?;
        self.take(2)?;
        let ttl = u32::from_be_bytes(self.take(4)?.try_into().ok()?);
        let length = self.number()?;
        let start = self.at;
        let bytes = self.take(length.into())?;
        let end = self.at;
        let data = match kind {
            1 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).to_string(),
            28 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string(),
            2 | 5 | 12 => {
                self.at = start;
                let name = self.name()?;
                self.at = end;
                name
            }
            _ => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        Some(Record { name, kind, ttl, data })
    }
}
