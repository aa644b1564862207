//! The end of a cluster, and what is printed when a scenario has failed.
use super::Cluster;

/// Lines of each agent's log.
const LOG_LINES: usize = 40;
/// The sandbox's own: files that a killed host's agent wrote, which nobody else removes.
const RESOLVERS: &str = "/etc/netns";

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.report();
        }
        let entries = std::fs::read_dir(RESOLVERS).into_iter().flatten().flatten();
        for entry in entries {
            // What stays is told by the look for leaks.
            let _left = std::fs::remove_dir_all(entry.path());
        }
    }
}

impl Cluster {
    fn report(&self) {
        for host in self.hosts() {
            let log = self.log(&host);
            let lines: Vec<&str> = log.lines().collect();
            println!("--- the end of {host}'s log");
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                println!("{line}");
            }
        }
        println!("--- to look around, run this scenario with HOLD=1, and while it is held:");
        println!("nsenter -a -t $(pgrep -nf 'scenarios-') ip netns exec h1 bash");
        if std::env::var_os("HOLD").is_some() {
            println!("--- held for an hour");
            crate::wait::pause(std::time::Duration::from_secs(3_600));
        }
    }
}
