//! The program as one of another version, as upgrades meet it.
use std::path::{Path, PathBuf};
use std::process::Command;

use agent::holder;

use crate::cluster::Cluster;

/// Of this version the program is made.
pub const MADE: &str = env!("CARGO_PKG_VERSION");
/// Versions to upgrade to in turn, and back: an older one, that which was made, and a newer one.
pub const IN_TURN: [&str; 3] = ["0.0.9", MADE, "0.9.0"];

/// A copy that says to be of another version, in every place where it says so; the version's text has to be as long.
fn copy(program: &Path, version: &str, to: &Path) {
    assert_eq!(version.len(), MADE.len(), "{version} takes another room than {MADE}");
    let pattern = format!("s/{}/{version}/g", MADE.replace('.', "\\."));
    let file = std::fs::File::create(to).expect("a copy");
    // Bytes, not characters.
    let made =
        Command::new("sed").env("LC_ALL", "C").args(["-e", &pattern]).arg(program).stdout(file).status();
    assert!(made.expect("sed").success());
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(to, mode).expect("its mode");
    let said = Command::new(to).arg("--version").output().expect("the copy to run");
    assert!(String::from_utf8_lossy(&said.stdout).contains(version), "{said:?}");
}

impl Cluster {
    /// Puts the program of a version in the place of a host's own, as a package does: what runs goes on with the old one.
    pub fn install(&mut self, host: &str, version: &str) {
        let logs = self.bed().log_directory();
        let made = logs.join(format!("svc-agent-{version}"));
        if !made.exists() {
            copy(self.program(), version, &made);
        }
        let directory = logs.join(format!("bin-{host}"));
        std::fs::create_dir_all(&directory).expect("a directory");
        let (new, place) = (directory.join("new"), directory.join("svc-agent"));
        std::fs::hard_link(made, &new).expect("a link");
        std::fs::rename(new, &place).expect("the program in its place");
        self.set_program(host, place);
    }

    /// The version that a host's holder says to be of, and its process.
    pub fn holder(&self, host: &str) -> Option<holder::Pong> {
        let path: PathBuf = self.bed().run_directory(host).join("hold.sock");
        holder::Client::connect(&path).ok()?.ping().ok()
    }
}
