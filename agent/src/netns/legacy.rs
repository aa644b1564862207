//! Notices rules of the older iptables (`iptables-legacy`), of which netlink tells nothing.
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{Error, Namespace};

/// The names of the tables in use, of the namespace in which the file was opened; read anew at every look. There is
/// none where the kernel has not loaded the older iptables.
const FILES: [&str; 2] = ["/proc/thread-self/net/ip_tables_names", "/proc/thread-self/net/ip6_tables_names"];
/// The same of our own namespace: whether the kernel has loaded them meanwhile.
const LOADED: [&str; 2] = ["/proc/net/ip_tables_names", "/proc/net/ip6_tables_names"];

/// Whether a namespace has rules of the older iptables. Keeps the namespace alive.
#[derive(Debug)]
pub struct LegacyTables {
    namespace: Namespace,
    files: Mutex<[Option<File>; 2]>,
}

impl Namespace {
    /// What tells whether there are rules of the older iptables inside.
    ///
    /// # Errors
    /// [`Error::Socket`] when it cannot be told.
    pub fn legacy_tables(&self) -> Result<LegacyTables, Error> {
        Ok(LegacyTables { namespace: self.clone(), files: Mutex::new(open(self)?) })
    }
}

fn open(namespace: &Namespace) -> Result<[Option<File>; 2], Error> {
    let open = || {
        let [four, six] = FILES.map(|path| match File::open(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        });
        Ok([four?, six?])
    };
    namespace.open_socket("the list of iptables tables", open)
}

impl LegacyTables {
    /// Whether there are any, or that cannot be told. Costs two reads.
    pub fn present(&self) -> bool {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let late =
            files.iter().zip(LOADED).any(|(file, loaded)| file.is_none() && Path::new(loaded).exists());
        if late {
            // The kernel has loaded them since.
            match open(&self.namespace) {
                Ok(opened) => *files = opened,
                Err(_) => return true,
            }
        }
        // A read from the first byte on makes the list anew.
        files.iter().flatten().any(|file| !matches!(file.read_at(&mut [0; 1], 0), Ok(0)))
    }
}
