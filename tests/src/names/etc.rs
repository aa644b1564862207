//! An /etc of the hosts' own, whose resolv.conf a scenario replaces as hosts do.
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const ETC: &str = "/etc";
/// What the C library reads to look names up.
const KEPT: [&str; 4] = ["nsswitch.conf", "hosts", "passwd", "group"];

/// It covers the sandbox's /etc for what is started from here on. Dropped, that one shows again.
#[derive(Debug)]
pub struct Etc(());

impl Etc {
    /// One with little more than a resolv.conf.
    pub fn cover(resolv_conf: &str) -> Self {
        let kept: Vec<(&str, Vec<u8>)> =
            KEPT.iter().filter_map(|name| Some((*name, fs::read(Path::new(ETC).join(name)).ok()?))).collect();
        mount("tmpfs", ETC, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755"))
            .expect("a tmpfs over /etc");
        let etc = Self(());
        fs::create_dir(Path::new(ETC).join("netns")).expect("/etc/netns");
        for (name, bytes) in kept {
            fs::write(Path::new(ETC).join(name), bytes).expect("a file in /etc");
        }
        etc.write(resolv_conf);
        etc
    }

    /// Writes resolv.conf in place, through a link where it is one.
    pub fn write(&self, text: impl AsRef<[u8]>) {
        fs::write(resolv_conf(), text).expect("resolv.conf");
    }

    /// A new file renamed over a path below /etc, as most programs do that write a resolv.conf.
    pub fn rename_over(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = Path::new(ETC).join(name);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        let new = path.with_extension("new");
        fs::write(&new, text).expect("a new file");
        fs::rename(new, path).expect("to rename it");
    }

    /// A link in place of resolv.conf.
    pub fn link(&self, target: &str) {
        let new = Path::new(ETC).join("resolv.link");
        symlink(target, &new).expect("a link");
        fs::rename(new, resolv_conf()).expect("to rename it");
    }

    /// Removes resolv.conf.
    pub fn remove(&self) {
        fs::remove_file(resolv_conf()).expect("resolv.conf to be there");
    }
}

impl Drop for Etc {
    fn drop(&mut self) {
        // Whatever is still in it: what is left of it goes with the last that uses it.
        let _not_mounted = unmount(ETC, UnmountFlags::DETACH);
    }
}

fn resolv_conf() -> PathBuf {
    Path::new(ETC).join("resolv.conf")
}
