//! A client whose C library is musl: another resolver than glibc's, with rules of its own.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::cluster::{Cluster, Output};
use crate::runner::skip;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/names/lookup.c");

/// The client, compiled here. Dropped, it is gone.
#[derive(Debug)]
pub struct Musl {
    directory: tempfile::TempDir,
}

/// What it said of names, and how long that took.
#[derive(Clone, Debug)]
pub struct Said {
    /// By name and family (`any`, `inet`, `inet6`): the addresses, sorted, or the error without its `EAI_`.
    pub by_name: BTreeMap<(String, String), String>,
    /// The run of the program.
    pub output: Output,
}

impl Musl {
    /// Compiles it; the scenario is skipped where there is no `musl-gcc`.
    pub fn compile() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let program = directory.path().join("lookup");
        let compile = Command::new("musl-gcc").args(["-static", "-o"]).arg(&program).arg(SOURCE).output();
        match compile {
            Ok(output) => assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => skip(format!("musl-gcc (Debian: musl-tools): {error}")),
        }
        Self { directory }
    }

    /// The program, which needs no library.
    pub fn program(&self) -> PathBuf {
        self.directory.path().join("lookup")
    }

    /// Looks names up in a container, with its resolv.conf or with another.
    pub fn look_up(&self, cluster: &Cluster, container: &str, conf: Option<&str>, names: &[&str]) -> Said {
        let program = self.program();
        // What runs in a container has mounts of its own: nobody else sees this one.
        let mount =
            conf.map(|conf| format!("mount --bind {} /etc/resolv.conf && ", self.written(conf).display()));
        let script = format!("{}{} {}", mount.unwrap_or_default(), program.display(), names.join(" "));
        let output = cluster.try_shell(container, &script);
        assert_eq!(output.exit, 0, "{script}: {output:?}");
        Said::of_lines(output)
    }

    fn written(&self, conf: &str) -> PathBuf {
        let path = self.directory.path().join("resolv.conf");
        std::fs::write(&path, conf).expect("a resolv.conf");
        path
    }
}

fn understood(line: &str) -> ((String, String), String) {
    let mut words = line.split(' ').map(str::to_owned);
    let mut next = || words.next().unwrap_or_else(|| panic!("no line of the client: {line}"));
    let key = (next(), next());
    let mut addresses: Vec<String> = words.collect();
    addresses.sort();
    (key, addresses.join(" "))
}

impl Said {
    /// Of the program's lines, or of another's that speaks so.
    pub fn of_lines(output: Output) -> Self {
        Self { by_name: output.stdout.lines().map(understood).collect(), output }
    }

    /// What it said of a name in a family.
    pub fn of(&self, name: &str, family: &str) -> &str {
        let found = self.by_name.get(&(name.to_owned(), family.to_owned()));
        found.unwrap_or_else(|| panic!("nothing of {name} in {family}: {self:?}"))
    }
}
