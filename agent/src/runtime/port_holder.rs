//! Who has a UDP port of the host.
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes that are looked at; a machine with more names none.
const PROCESSES_MAX: usize = 65_536;

/// So long an answer is kept: to find one reads every process's descriptors.
const KEPT: Duration = Duration::from_secs(10);

/// What was last found.
#[derive(Debug, Default)]
pub struct Holder(Option<(u16, Instant, String)>);

impl Holder {
    /// Who has the port, as found within the last 10 s, or by `find` now.
    pub fn of(&mut self, port: u16, now: Instant, find: impl FnOnce(u16) -> String) -> String {
        let fresh = |at: Instant| now.saturating_duration_since(at) < KEPT;
        if let Some((_, _, words)) = self.0.as_ref().filter(|(known, at, _)| *known == port && fresh(*at)) {
            return words.clone();
        }
        let words = find(port);
        self.0 = Some((port, now, words.clone()));
        words
    }
}

/// In words. A port that no process has is mostly the kernel's: another tunnel, whose settings do not go with ours.
pub fn of(port: u16) -> String {
    process_at(port).unwrap_or_else(|| {
        "a tunnel that is not ours, or a process that is not seen from here (ip -d link show type vxlan)"
            .to_owned()
    })
}

/// The process that has it, if one has.
pub fn process_at(port: u16) -> Option<String> {
    let sockets = sockets_at(port);
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().take(PROCESSES_MAX);
    processes.filter(|process| has_one(&process.path(), &sockets)).find_map(|process| {
        let id: u32 = process.file_name().to_str()?.parse().ok()?;
        let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
        Some(format!("process {id} ({})", printable(&name)))
    })
}

/// A process may call itself anything.
fn printable(name: &str) -> String {
    name.trim().chars().filter(|character| !character.is_control()).collect()
}

/// Inodes of the sockets at a port, in the calling thread's namespace: the host's.
fn sockets_at(port: u16) -> Vec<u64> {
    let tables = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];
    let texts = tables.map(|table| std::fs::read_to_string(table).unwrap_or_default());
    texts.iter().flat_map(|text| text.lines().skip(1).filter_map(|line| socket_at(line, port))).collect()
}

/// One line of them (net/ipv4/udp.c, udp4_format_sock): number, local address and port, and as the tenth field the inode.
fn socket_at(line: &str, port: u16) -> Option<u64> {
    let mut fields = line.split_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    let inode = fields.nth(7)?.parse().ok()?;
    (u16::from_str_radix(local, 16) == Ok(port)).then_some(inode)
}

fn has_one(process: &Path, sockets: &[u64]) -> bool {
    let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    files.filter_map(|file| std::fs::read_link(file.path()).ok()).any(|target| {
        let inode = target.to_str().and_then(|text| text.strip_prefix("socket:[")?.strip_suffix(']'));
        inode.and_then(|inode| inode.parse().ok()).is_some_and(|inode: u64| sockets.contains(&inode))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_a_port_is_named() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        let named = of(port);
        assert!(named.contains(&format!("process {} (", std::process::id())), "{named}");
        drop(socket);
        assert!(of(port).contains("a tunnel"));
        assert_eq!(printable("a\u{1b}[2J\tb\n"), "a[2Jb");
    }

    #[test]
    fn who_has_a_port_is_sought_once_in_ten_seconds() {
        let (mut holder, start) = (Holder::default(), Instant::now());
        let mut sought = 0;
        for (port, seconds) in [(1, 0), (1, 0), (1, 9), (1, 10), (2, 11), (2, 12)] {
            let words = holder.of(port, start + Duration::from_secs(seconds), |port| {
                sought += 1;
                port.to_string()
            });
            assert_eq!(words, port.to_string());
        }
        assert_eq!(sought, 3);
    }
}
