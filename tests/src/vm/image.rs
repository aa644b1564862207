//! What a machine boots from: a kernel of Debian's, and a first file system that finds this machine's files.
use std::path::{Path, PathBuf};
use std::process::Command;

use super::archive::Archive;

/// Where `deps.sh` unpacks the kernel. It is not installed: that would change what this machine boots.
const KERNEL: &str = "/var/cache/svc-agent-tests/kernel";
/// Without these it would see neither its files nor write any.
const MODULES: [&str; 4] = ["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// The name under which this machine's files are offered.
pub(super) const FILES: &str = "files";
/// What is mounted or written to before this machine's files are there.
const DIRECTORIES: [&str; 8] = ["bin", "modules", "proc", "sys", "dev", "below", "above", "root"];

/// What is needed for a machine, found.
#[derive(Debug)]
pub struct Image {
    /// The kernel.
    pub(super) kernel: PathBuf,
    /// Those of its modules without which it would see no files, in the order of loading.
    modules: Vec<PathBuf>,
    busybox: PathBuf,
    libraries: Vec<PathBuf>,
}

impl Image {
    /// Looks for qemu, the kernel and what its first programs need.
    ///
    /// # Errors
    /// What is missing, and how it is to be had.
    pub fn find() -> Result<Self, String> {
        if cfg!(not(target_arch = "x86_64")) {
            return Err("virtual machines are tried on x86-64 alone".to_owned());
        }
        for (program, package) in
            [("qemu-system-x86_64", "qemu-system-x86"), ("modprobe", "kmod"), ("busybox", "busybox")]
        {
            in_path(program).ok_or_else(|| format!("{program} is missing (Debian's package {package})"))?;
        }
        let boot = Path::new(KERNEL).join("boot");
        let entries = std::fs::read_dir(&boot).into_iter().flatten().flatten().map(|entry| entry.path());
        let kernel = entries.filter(|path| release(path).is_some()).max();
        let kernel = kernel.ok_or_else(|| format!("no kernel below {KERNEL}: deps.sh unpacks one"))?;
        let modules = modules(release(&kernel).unwrap_or_default())?;
        let busybox = in_path("busybox").unwrap_or_default();
        let libraries = libraries(&busybox)?;
        Ok(Self { kernel, modules, busybox, libraries })
    }

    /// The first file system, whose last program is `script`.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub(super) fn first_files(&self, script: &str) -> std::io::Result<Vec<u8>> {
        let mut archive = Archive::default();
        DIRECTORIES.iter().for_each(|path| archive.directory(path));
        archive.file("init", init().as_bytes());
        archive.file("script", script.as_bytes());
        archive.file("bin/busybox", &std::fs::read(&self.busybox)?);
        for library in &self.libraries {
            let path = library.to_string_lossy();
            let path = path.trim_start_matches('/');
            for (at, _) in path.match_indices('/') {
                archive.directory(&path[..at]);
            }
            archive.file(path, &std::fs::read(library)?);
        }
        for (order, module) in self.modules.iter().enumerate() {
            archive.file(&format!("modules/{order:02}"), &std::fs::read(module)?);
        }
        Ok(archive.finish())
    }
}

/// The release of a kernel by its file's name.
fn release(kernel: &Path) -> Option<&str> {
    kernel.file_name()?.to_str()?.strip_prefix("vmlinuz-")
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let directories = path.split(':').chain(["/usr/sbin", "/sbin"]);
    directories.map(|directory| Path::new(directory).join(program)).find(|path| path.exists())
}

/// Modules, each after those that it needs.
fn modules(release: &str) -> Result<Vec<PathBuf>, String> {
    let mut all: Vec<PathBuf> = Vec::new();
    for module in MODULES {
        let mut command = Command::new(in_path("modprobe").unwrap_or_default());
        command.args(["-S", release, "-d", KERNEL, "--show-depends", module]);
        let output = command.output().map_err(|error| format!("modprobe: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "the kernel has no {module}: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        let text = String::from_utf8_lossy(&output.stdout);
        // What is built in needs no loading, and is told by another word.
        let needed = text.lines().filter_map(|line| line.strip_prefix("insmod "));
        for path in needed.map(|path| PathBuf::from(path.trim())) {
            if !all.contains(&path) {
                all.push(path);
            }
        }
    }
    Ok(all)
}

/// The libraries of a program, and its loader.
fn libraries(program: &Path) -> Result<Vec<PathBuf>, String> {
    let output = Command::new("ldd").arg(program).output().map_err(|error| format!("ldd: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(PathBuf::from).collect())
}

/// The first program: this machine's files, read only, below what is written to memory; then the script.
fn init() -> String {
    format!(
        r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
for module in /modules/*; do $b insmod $module; done
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=524288,cache=loose,ro {FILES} /below
$b mount -t tmpfs -o size=75% above /above
$b mkdir /above/files /above/work
$b mount -t overlay -o lowerdir=/below,upperdir=/above/files,workdir=/above/work files /root
$b mkdir -p /root/lib/modules
$b mount --bind /below{KERNEL}/lib/modules /root/lib/modules
for directory in proc sys dev; do $b mount --move /$directory /root/$directory; done
$b mount -t tmpfs run /root/run
$b mount -t tmpfs tmp /root/tmp
$b mkdir -p /root/dev/pts /root/dev/shm
$b mount -t devpts devpts /root/dev/pts
$b mount -t tmpfs shm /root/dev/shm
$b cp /script /root/run/script
exec $b switch_root /root /bin/sh /run/script
"#
    )
}
