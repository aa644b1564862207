//! What is held: file descriptors under names, bounded.
use std::collections::BTreeMap;
use std::ops::Bound;
use std::os::fd::OwnedFd;

use super::{FILES_MAX, NAMES_MAX};

pub(super) struct Table {
    names: BTreeMap<String, Vec<OwnedFd>>,
    files: usize,
    files_max: usize,
}

impl Table {
    /// Holds `files_max` descriptors at most, however many names are free.
    pub(super) fn new(files_max: usize) -> Self {
        Self { names: BTreeMap::new(), files: 0, files_max }
    }

    /// Takes the descriptors; those held under the name before are closed.
    pub(super) fn put(&mut self, name: &str, files: Vec<OwnedFd>) -> Result<(), &'static str> {
        if files.is_empty() || files.len() > FILES_MAX {
            return Err("a name holds 1 to 8 file descriptors");
        }
        if self.names.len() >= NAMES_MAX && !self.names.contains_key(name) {
            return Err("it holds 8192 names already, which is its limit");
        }
        let after = self.files - self.names.get(name).map_or(0, Vec::len) + files.len();
        if after > self.files_max {
            return Err("it holds as many file descriptors as its limit (RLIMIT_NOFILE) allows");
        }
        self.files = after;
        self.names.insert(name.to_owned(), files);
        Ok(())
    }

    pub(super) fn get(&self, name: &str) -> Option<&[OwnedFd]> {
        self.names.get(name).map(Vec::as_slice)
    }

    /// Whether there was such a name.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let removed = self.names.remove(name);
        self.files -= removed.as_ref().map_or(0, Vec::len);
        removed.is_some()
    }

    /// Names after this one, in order, with their counts of descriptors.
    pub(super) fn after(&self, name: &str) -> impl Iterator<Item = (&str, usize)> {
        let range = self.names.range::<str, _>((Bound::Excluded(name), Bound::Unbounded));
        range.map(|(name, files)| (name.as_str(), files.len()))
    }
}
