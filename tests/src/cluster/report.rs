//! What is printed when a scenario fails.
use super::Cluster;

/// Lines of each agent's log.
const LOG_LINES: usize = 40;

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for host in self.hosts() {
            let log = self.log(&host);
            let lines: Vec<&str> = log.lines().collect();
            println!("--- the end of {host}'s log");
            for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                println!("{line}");
            }
        }
        println!(
            "--- to look around, run the scenario again with HOLD=1, then: nsenter -t {} -a ip netns exec h1 bash",
            own_pid_outside()
        );
        if std::env::var_os("HOLD").is_some() {
            println!("--- held for an hour");
            crate::wait::pause(std::time::Duration::from_secs(3_600));
        }
    }
}

/// Our number as the machine counts; ours is 1. The parent's /proc is not ours, so it is asked for by name.
fn own_pid_outside() -> String {
    "$(pgrep -nf scenarios)".to_owned()
}
