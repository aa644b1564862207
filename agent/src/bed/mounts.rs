//! Mounts of a sandbox, and names of namespaces.
use std::fs::{DirEntry, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    unmount,
};

use super::{DIRECTORY, Error, NAMED};
use crate::netns::Namespace;

/// Directories that a sandbox must be able to write to, what of each it does not share with the machine, and what it
/// finds there instead.
const SHADOWED: [(&str, &[&str], &[&str]); 2] = [
    ("/run", &["netns", "svc-agent", "svc-agent-bed"], &[NAMED, "/run/svc-agent", DIRECTORY]),
    ("/etc", &["netns"], &["/etc/netns"]),
];
/// Entries of a shadowed directory.
const ENTRIES_MAX: usize = 4096;

/// Gives the sandbox its mounts; once.
pub(super) fn prepare() -> Result<(), Error> {
    let failed = |what: String| |source: io::Error| Error::Sandbox { what, source };
    let flags = MountPropagationFlags::REC;
    // Away from the machine first; then shared among ourselves, so that a name made later shows in every host.
    mount_change("/", flags | MountPropagationFlags::PRIVATE)
        .and_then(|()| mount_change("/", flags | MountPropagationFlags::SHARED))
        .map_err(|errno| failed("separate the mounts".to_owned())(errno.into()))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None)
        .map_err(|errno| failed("mount /proc".to_owned())(errno.into()))?;
    for (directory, hidden, made) in SHADOWED {
        shadow(Path::new(directory), hidden).map_err(failed(format!("cover {directory}")))?;
        for path in made {
            std::fs::create_dir_all(path).map_err(failed(format!("make {path}")))?;
        }
    }
    Ok(())
}

/// Binds a namespace to a name, as ip-netns(8) does.
pub(super) fn pin(namespace: &Namespace, path: &Path) -> io::Result<()> {
    OpenOptions::new().create_new(true).write(true).open(path)?;
    let bind = namespace.run(|| mount_bind("/proc/thread-self/ns/net", path)).map_err(io::Error::other);
    let bound = bind.and_then(|result| Ok(result?));
    if bound.is_err() {
        std::fs::remove_file(path)?;
    }
    bound
}

/// Removes a name as `ip netns del` does.
pub(super) fn unpin(path: &Path) -> io::Result<()> {
    unmount(path, UnmountFlags::DETACH)?;
    std::fs::remove_file(path)
}

/// Covers a directory with an empty one that shows the same entries, but for those to hide: what is created in it
/// from here on is the sandbox's alone, without so much as an empty directory left on the machine.
fn shadow(directory: &Path, hidden: &[&str]) -> io::Result<()> {
    let below =
        rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    mount("tmpfs", directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))?;
    for entry in std::fs::read_dir(format!("/proc/thread-self/fd/{}", below.as_raw_fd()))?.take(ENTRIES_MAX) {
        let entry = entry?;
        if !hidden.iter().any(|name| *name == entry.file_name()) {
            show(&entry, &directory.join(entry.file_name()))?;
        }
    }
    Ok(())
}

fn show(entry: &DirEntry, at: &Path) -> io::Result<()> {
    let kind = entry.file_type()?;
    if kind.is_symlink() {
        return std::os::unix::fs::symlink(std::fs::read_link(entry.path())?, at);
    }
    if kind.is_dir() { std::fs::create_dir(at) } else { File::create(at).map(drop) }?;
    Ok(mount_bind_recursive(entry.path(), at)?)
}
