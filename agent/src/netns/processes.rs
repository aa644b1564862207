//! Which processes are in which namespace, by a look through `/proc`.
use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;

use super::Inode;

/// Processes looked at in one scan; far above what a host runs, and about half a second's work.
const PROCESSES_MAX: usize = 262_144;

/// Every process whose main thread is in one of the namespaces, as (process, namespace).
///
/// Zombies have left theirs. A process that may not be inspected is left out.
pub fn members(namespaces: &HashSet<Inode>) -> Vec<(u32, Inode)> {
    processes()
        .filter_map(|pid| Some((pid, inode_of(pid)?)))
        .filter(|(_, inode)| namespaces.contains(inode))
        .collect()
}

/// One process for each of the namespaces that has any.
pub fn occupied(namespaces: &HashSet<Inode>) -> HashMap<Inode, u32> {
    let mut found = HashMap::new();
    for pid in processes() {
        if found.len() == namespaces.len() {
            break;
        }
        if let Some(inode) = inode_of(pid).filter(|inode| namespaces.contains(inode)) {
            found.entry(inode).or_insert(pid);
        }
    }
    found
}

/// The namespace of a process; `None` when it has ended or may not be inspected.
pub fn inode_of(pid: u32) -> Option<Inode> {
    let stat = std::fs::metadata(format!("/proc/{pid}/ns/net")).ok()?;
    Some(Inode { device: stat.dev(), number: stat.ino() })
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).take(PROCESSES_MAX)
}
