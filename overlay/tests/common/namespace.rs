//! Network namespaces that live as long as a descriptor.
#![allow(unsafe_code, reason = "unshare and setns on threads of their own")]
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use overlay::{Enter, Handles};

/// A namespace; it goes with its last descriptor.
#[derive(Clone)]
pub(crate) struct Namespace(Arc<OwnedFd>);

impl Namespace {
    pub(crate) fn new() -> Self {
        Self::try_new().expect("these tests need CAP_SYS_ADMIN: run them as root")
    }

    pub(crate) fn try_new() -> io::Result<Self> {
        let file = std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                // SAFETY: changes this thread only, which ends here.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                File::open("/proc/thread-self/ns/net")
            });
            made.join().unwrap()
        })?;
        Ok(Self(Arc::new(file.into())))
    }

    /// Runs `work` on a thread inside.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                self.join().expect("setns");
                work()
            });
            inside.join().unwrap()
        })
    }

    /// The calling thread joins; for threads of their own only.
    pub(crate) fn join(&self) -> io::Result<()> {
        // SAFETY: a valid descriptor; changes this thread only.
        match unsafe { libc::setns(self.0.as_raw_fd(), libc::CLONE_NEWNET) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    pub(crate) fn handles(&self) -> Handles {
        let runtime = tokio::runtime::Handle::current();
        let (connection, route, netfilter) = self.run(|| {
            let _guard = runtime.enter();
            let (connection, route, _) = rtnetlink::new_connection().unwrap();
            (connection, route, netfilter::Socket::open().unwrap())
        });
        tokio::spawn(connection);
        Handles { route, netfilter, namespace: Arc::clone(&self.0), enter: Arc::new(self.clone()) }
    }

    /// How to look around in here while a test waits.
    pub(crate) fn look(&self) -> String {
        format!("nsenter --net=/proc/{}/fd/{}", std::process::id(), self.0.as_fd().as_raw_fd())
    }

    pub(crate) fn sysctl(&self, key: &str) -> String {
        self.run(|| std::fs::read_to_string(format!("/proc/sys/{key}")).unwrap().trim().to_owned())
    }

    pub(crate) fn set_sysctl(&self, key: &str, value: &str) {
        self.run(|| std::fs::write(format!("/proc/sys/{key}"), value).unwrap());
    }
}

impl Enter for Namespace {
    fn enter(&self, work: Box<dyn FnOnce() -> io::Result<()> + Send>) -> io::Result<()> {
        self.run(work)
    }
}
