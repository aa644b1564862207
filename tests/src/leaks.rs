//! What a scenario must not leave behind.
use std::time::Duration;

use crate::wait::wait_until;

/// How long the kernel may take to free what was let go of: namespaces are cleaned up by a work queue.
const FREE_LIMIT: Duration = Duration::from_secs(10);

/// Names of namespaces, links and mounts, and the number of processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traces {
    namespaces: Vec<String>,
    resolvers: Vec<String>,
    links: Vec<String>,
    mounts: Vec<String>,
    processes: Vec<String>,
}

impl Traces {
    /// What there is now, in this process's own namespaces.
    pub fn now() -> Self {
        let links = std::fs::read_to_string("/proc/self/net/dev").expect("links");
        let links = links.lines().skip(2).filter_map(|line| line.split(':').next());
        let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
        Self {
            namespaces: entries("/run/netns"),
            resolvers: entries("/etc/netns"),
            links: links.map(|link| link.trim().to_owned()).collect(),
            mounts: mounts.lines().map(str::to_owned).collect(),
            processes: processes(),
        }
    }

    /// Waits until everything is as it was, and panics with the difference when it does not become so.
    pub fn wait_for_return(&self) {
        wait_until("nothing is left behind", FREE_LIMIT, || {
            let now = Self::now();
            if now == *self { Ok(()) } else { Err(self.difference(&now)) }
        });
    }

    fn difference(&self, now: &Self) -> String {
        let lists = [
            ("namespace", &self.namespaces, &now.namespaces),
            ("resolver", &self.resolvers, &now.resolvers),
            ("link", &self.links, &now.links),
            ("mount", &self.mounts, &now.mounts),
            ("process", &self.processes, &now.processes),
        ];
        let mut words = Vec::new();
        for (kind, before, now) in lists {
            words
                .extend(now.iter().filter(|it| !before.contains(it)).map(|it| format!("{kind} {it} is new")));
            words.extend(
                before.iter().filter(|it| !now.contains(it)).map(|it| format!("{kind} {it} is gone")),
            );
        }
        words.join("; ")
    }
}

fn entries(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Command lines of what runs; those that have ended and were not waited for have none.
fn processes() -> Vec<String> {
    let numbers = entries("/proc").into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let line = |pid: String| {
        let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&bytes).replace('\0', " ");
        (!words.is_empty()).then(|| format!("{pid} {words}"))
    };
    numbers.filter_map(line).collect()
}
