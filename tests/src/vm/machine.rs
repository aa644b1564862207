//! One machine that runs.
use std::io::{self, BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Instant;

use tempfile::TempDir;

use super::image::{FILES, Image};

/// What the script's last line begins with; its exit code follows.
pub(super) const ENDED: &str = "the machine is done";
/// Lines that wait to be read; more of them make the machine wait.
const LINES_MAX: usize = 1024;
/// Of the console, when something went wrong.
const CONSOLE_LINES: usize = 40;
/// It goes first where others use the machine, too: inside, seconds would become minutes, and what is bounded by the
/// product's own time-outs would fail. A session of its own has a share of the processors of its own (autogroup), so that
/// it is this which is to be larger. Where it is not permitted all takes longer.
const PREFERRED: &str = r#"{ echo "$0" >/proc/self/autogroup; } 2>/dev/null
exec nice -n "$0" qemu-system-x86_64 "$@" 2>&1"#;
const NICE: &str = "-15";
const MEMORY: &str = "2G";
const PROCESSORS: &str = "2";

/// A machine. Dropped, its qemu is killed; it dies with this program also when that is killed, since it is a process
/// of the sandbox.
#[derive(Debug)]
pub(super) struct Machine {
    qemu: Child,
    lines: Receiver<String>,
    directory: TempDir,
}

impl Machine {
    /// Boots, and runs a shell's script as its first program, whose output is [`Self::line`]'s.
    pub(super) fn boot(image: &Image, script: &str) -> io::Result<Self> {
        let directory = TempDir::new()?;
        let first = directory.path().join("initramfs");
        std::fs::write(&first, image.first_files(&framed(script))?)?;
        let mut command = Command::new("setsid");
        command.args(["sh", "-c", PREFERRED, NICE]);
        // A plain processor: of more features the emulation of some (five levels of pages) makes all slower.
        command.args(["-accel", "tcg,thread=multi", "-cpu", "qemu64", "-m", MEMORY, "-smp", PROCESSORS]);
        command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
        command.arg("-kernel").arg(&image.kernel).arg("-initrd").arg(&first);
        command.args([
            "-append",
            "console=ttyS0 quiet loglevel=4 panic=-1 mitigations=off nowatchdog rcupdate.rcu_expedited=1",
        ]);
        command.arg("-serial").arg(format!("file:{}", directory.path().join("console").display()));
        command.args(["-chardev", "stdio,id=out,signal=off", "-device", "isa-serial,chardev=out,index=1"]);
        // Its files may lie on several devices, whose inode numbers must not be confused.
        let files = format!("local,id={FILES},path=/,security_model=none,readonly=on,multidevs=remap");
        command.args([
            "-fsdev",
            &files,
            "-device",
            &format!("virtio-9p-pci,fsdev={FILES},mount_tag={FILES}"),
        ]);
        let mut qemu = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let output = qemu.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
        let (sender, lines) = sync_channel(LINES_MAX);
        std::thread::Builder::new().name("machine".to_owned()).spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { qemu, lines, directory })
    }

    /// The next line of its output; `None` when it has ended, and at the deadline.
    pub(super) fn line(&mut self, deadline: Instant) -> Option<String> {
        self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok()
    }

    /// The end of what its kernel has said.
    pub(super) fn console(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\r', "");
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // It fails when it has ended by itself.
        let _ended = self.qemu.kill();
        let _ended = self.qemu.wait();
    }
}

/// The script with what every one needs before and after.
fn framed(script: &str) -> String {
    format!(
        "exec </dev/null >/dev/ttyS1 2>&1
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
ip link set lo up
{script}
echo \"{ENDED}: $?\"
echo o >/proc/sysrq-trigger
while :; do sleep 1; done
"
    )
}
