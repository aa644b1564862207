//! What a system call is about, as far as it changes anything.
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use rustix::net::AddressFamily;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

/// Longest path that is read from a process.
const PATH_BYTES_MAX: usize = 256;
/// Kernel protocols of netlink, by number.
const ROUTE: u32 = 0;
const NETFILTER: u32 = 12;
/// Flags of a netlink request that reads a whole table.
const DUMP: u16 = 0x300;
/// Begin of a batch of nf_tables.
const BATCH_BEGIN: u16 = 16;

/// What is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Links, addresses, routes, neighbours, rules, tracked flows, sysctls, namespaces.
    Kernel,
    /// The state database.
    Store,
    /// Other files: resolv.conf, sockets.
    File,
    /// What is told to the holder, or to who asked.
    Local,
    /// What is told to other hosts.
    Peers,
}

/// A call that changes something.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// What.
    pub kind: Kind,
    /// In words: `RTM_NEWLINK`, `fsync of the store`.
    pub name: String,
}

/// What is needed to look into a process.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) pidfd: OwnedFd,
    pub(super) memory: File,
}

impl Process {
    /// What a call changes; `None` for one that changes nothing, or nothing that matters here.
    pub(super) fn classify(&self, number: i64, arguments: [u64; 6]) -> Option<Call> {
        match number {
            libc::SYS_sendto | libc::SYS_write => self.send(number, arguments[0], Some(arguments[1])),
            libc::SYS_sendmsg => self.send(number, arguments[0], self.first_buffer(arguments[1])),
            libc::SYS_sendmmsg => self.send(number, arguments[0], self.first_buffer(arguments[1])),
            libc::SYS_writev => self.send(number, arguments[0], self.word(arguments[1])),
            libc::SYS_pwrite64 => self.store("write", arguments[0]),
            libc::SYS_fsync | libc::SYS_fdatasync => self.store("sync", arguments[0]),
            libc::SYS_ftruncate | libc::SYS_fallocate => self.store("resize", arguments[0]),
            libc::SYS_unshare if arguments[0] & 0x4000_0000 != 0 => kernel("a new namespace"),
            libc::SYS_openat if arguments[2] & 0o100 != 0 => self.file("create", arguments[1]),
            libc::SYS_renameat | libc::SYS_renameat2 => self.file("rename", arguments[1]),
            libc::SYS_unlinkat => self.file("remove", arguments[1]),
            libc::SYS_mkdirat => self.file("make directory", arguments[1]),
            _ => self.classify_older(number, arguments),
        }
    }

    /// Calls that newer architectures have no more.
    #[cfg(target_arch = "x86_64")]
    fn classify_older(&self, number: i64, arguments: [u64; 6]) -> Option<Call> {
        match number {
            libc::SYS_open if arguments[1] & 0o100 != 0 => self.file("create", arguments[0]),
            libc::SYS_rename => self.file("rename", arguments[0]),
            libc::SYS_unlink | libc::SYS_rmdir => self.file("remove", arguments[0]),
            libc::SYS_mkdir => self.file("make directory", arguments[0]),
            _ => None,
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    #[allow(clippy::unused_self)]
    fn classify_older(&self, _: i64, _: [u64; 6]) -> Option<Call> {
        None
    }

    fn send(&self, number: i64, descriptor: u64, buffer: Option<u64>) -> Option<Call> {
        let raw = i32::try_from(descriptor).ok()?;
        let file = pidfd_getfd(&self.pidfd, raw, PidfdGetfdFlags::empty()).ok()?;
        let Ok(domain) = rustix::net::sockopt::socket_domain(&file) else {
            let path = self.path_of(descriptor)?;
            let key = path.strip_prefix("/proc/sys/")?;
            return kernel(&format!("sysctl {key}"));
        };
        let call = |kind, name: &str| Some(Call { kind, name: name.to_owned() });
        match domain {
            AddressFamily::NETLINK => {
                let protocol = rustix::net::sockopt::socket_protocol(&file).ok()?;
                netlink(protocol.map_or(ROUTE, |it| it.as_raw().get()), &self.bytes(buffer?)?)
            }
            AddressFamily::UNIX if number == libc::SYS_sendmsg => {
                call(Kind::Local, "a message to the holder")
            }
            AddressFamily::UNIX => call(Kind::Local, "an answer"),
            AddressFamily::INET | AddressFamily::INET6 => call(Kind::Peers, "a message to another host"),
            _ => None,
        }
    }

    fn store(&self, what: &str, descriptor: u64) -> Option<Call> {
        let path = self.path_of(descriptor)?;
        path.ends_with(".redb").then(|| Call { kind: Kind::Store, name: format!("{what} of the store") })
    }

    fn file(&self, what: &str, path: u64) -> Option<Call> {
        let mut bytes = [0; PATH_BYTES_MAX];
        let count = self.memory.read_at(&mut bytes, path).ok()?;
        let path = bytes[..count].split(|byte| *byte == 0).next()?;
        // Opened here, changed by what is written.
        if path.starts_with(b"/proc/") {
            return None;
        }
        Some(Call { kind: Kind::File, name: format!("{what} {}", String::from_utf8_lossy(path)) })
    }

    fn path_of(&self, descriptor: u64) -> Option<String> {
        let link = std::fs::read_link(format!("/proc/{}/fd/{descriptor}", self.pid)).ok()?;
        Some(link.to_string_lossy().into_owned())
    }

    fn word(&self, address: u64) -> Option<u64> {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, address).ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// Of a `struct msghdr`: name, its length, then the vector of buffers.
    fn first_buffer(&self, message: u64) -> Option<u64> {
        self.word(self.word(message + 16)?)
    }

    fn bytes(&self, address: u64) -> Option<[u8; 16]> {
        let mut bytes = [0; 16];
        self.memory.read_exact_at(&mut bytes, address).ok()?;
        Some(bytes)
    }
}

fn kernel(name: &str) -> Option<Call> {
    Some(Call { kind: Kind::Kernel, name: name.to_owned() })
}

/// By the header of the first message.
fn netlink(protocol: u32, header: &[u8; 16]) -> Option<Call> {
    let short = |at: usize| u16::from_ne_bytes([header[at], header[at + 1]]);
    let (number, flags) = (short(4), short(6));
    match protocol {
        // Every fourth request of a kind reads.
        ROUTE if number % 4 != 2 => kernel(&route_name(number)),
        NETFILTER if number == BATCH_BEGIN => kernel("a batch of nf_tables"),
        // Conntrack: 1 reads, alone or all.
        NETFILTER if number >> 8 == 1 && number & 0xff != 1 && flags & DUMP != DUMP => {
            kernel("a change of tracked flows")
        }
        _ => None,
    }
}

fn route_name(number: u16) -> String {
    let object = match number / 4 {
        4 => "link",
        5 => "address",
        6 => "route",
        7 => "neighbour",
        8 => "rule",
        _ => return format!("rtnetlink request {number}"),
    };
    let verb = match number % 4 {
        0 => "new",
        1 => "delete",
        _ => "set",
    };
    format!("{verb} {object}")
}
