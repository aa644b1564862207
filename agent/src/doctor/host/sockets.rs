//! Whether somebody else holds a port that svc-agent needs.
use std::path::Path;

use super::super::check::{Check, Verdict};
use super::check;
use crate::config::Settings;

/// TCP_LISTEN of include/net/tcp_states.h, as /proc/net/tcp prints it.
const LISTENING: &str = "0A";
/// Processes looked through for the owner of a socket.
const PROCESSES_MAX: usize = 100_000;

/// Who holds a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A process.
    Process { pid: u32, name: String },
    /// No process has the socket among its files: the kernel's own, such as a VXLAN device's.
    Kernel,
}

pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    vec![
        gossip(settings.gossip_port, holder(&["udp", "udp6"], settings.gossip_port), "udp"),
        gossip(settings.gossip_port, holder(&["tcp", "tcp6"], settings.gossip_port), "tcp"),
        tunnel("vxlan-port", settings.vxlan_port, holder(&["udp", "udp6"], settings.vxlan_port)),
        tunnel(
            "encrypted-vxlan-port",
            settings.encrypted_vxlan_port,
            holder(&["udp", "udp6"], settings.encrypted_vxlan_port),
        ),
    ]
}

pub(super) fn gossip(port: u16, holder: Option<Holder>, protocol: &str) -> Check {
    let name = format!("gossip-port-{protocol}");
    let shown = protocol.to_ascii_uppercase();
    let Some(holder) = holder else { return check(&name, Verdict::Ok, format!("{shown} {port} is free")) };
    check(&name, Verdict::Missing, format!("{shown} {port} is held by {}", words(&holder)))
        .needed_for("talking to the other hosts")
        .hint("end it, or set --gossip-port, on this host alone if need be")
}

/// The kernel lets VXLAN devices share a port; a process that has it does not.
pub(super) fn tunnel(name: &str, port: u16, holder: Option<Holder>) -> Check {
    match holder {
        None => check(name, Verdict::Ok, format!("UDP {port} is free")),
        Some(Holder::Kernel) => check(
            name,
            Verdict::Info,
            format!("UDP {port} is held by the kernel: VXLAN devices, ours or another's; they can share it"),
        ),
        Some(holder) => check(name, Verdict::Missing, format!("UDP {port} is held by {}", words(&holder)))
            .needed_for("the tunnel between hosts")
            .hint(format!("end it, or set --{name} on every host")),
    }
}

fn words(holder: &Holder) -> String {
    match holder {
        Holder::Process { pid, name } => format!("process {pid} ({name})"),
        Holder::Kernel => "the kernel, or a process that this one may not look into".to_owned(),
    }
}

/// The holder of a port according to tables below /proc/thread-self/net.
fn holder(tables: &[&str], port: u16) -> Option<Holder> {
    let inode = tables.iter().find_map(|table| {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
        inode_at(&text, port, table.starts_with("tcp"))
    })?;
    Some(owner(inode).unwrap_or(Holder::Kernel))
}

/// The inode of the socket at a local port; of TCP, only one that listens.
pub(super) fn inode_at(table: &str, port: u16, only_listening: bool) -> Option<u64> {
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (_, local) = fields.get(1)?.rsplit_once(':')?;
        let here = u16::from_str_radix(local, 16).ok()? == port;
        let counts = !only_listening || fields.get(3) == Some(&LISTENING);
        if here && counts { fields.get(9)?.parse().ok() } else { None }
    })
}

/// The process that has the socket among its open files, as far as this one may look.
fn owner(inode: u64) -> Option<Holder> {
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX);
    processes.into_iter().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let files = std::fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        let has = files.into_iter().any(|file| {
            std::fs::read_link(file.path()).is_ok_and(|target| target.as_path() == Path::new(&wanted))
        });
        let name = || std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        has.then(|| Holder::Process { pid, name: name().trim().to_owned() })
    })
}
