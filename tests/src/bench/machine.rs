//! The machine, and how a thread or process under test is kept from being disturbed by others.
use std::time::Duration;

use rustix::thread::CpuSet;
use tests::precedence;

/// Kernel, processor and cores in one line.
pub(crate) fn describe() -> String {
    let uname = rustix::system::uname();
    let information = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = information.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    format!(
        "{} {}, {} cores, {}",
        uname.sysname().to_string_lossy(),
        uname.release().to_string_lossy(),
        cores(),
        model.map_or("unknown processor", |(_, model)| model.trim()),
    )
}

/// Cores this process may run on.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Gives the calling thread precedence, and a core of its own where there are two; says whether the system let it.
pub(crate) fn under_test(core: usize) -> bool {
    if let Ok(allowed) = rustix::thread::sched_getaffinity(None) {
        let cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
        if let Some(core) = cores.get(core % cores.len().max(1)) {
            let mut one = CpuSet::new();
            one.set(*core);
            let _where_it_is = rustix::thread::sched_setaffinity(None, &one);
        }
    }
    precedence::take()
}

/// Gives every thread of a process precedence, or takes it again; threads started later inherit it.
pub(crate) fn prioritise(pid: u32, ahead: bool) {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return };
    let numbers = threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok());
    for number in numbers {
        let _ended_or_forbidden = precedence::set(number, ahead);
    }
}

/// Resident memory of a process in bytes, of this one without a number.
pub(crate) fn resident_bytes(pid: Option<u32>) -> u64 {
    let process = pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kilobytes.unwrap_or_default() * 1024
}

/// Leaves the processor to others.
pub(crate) fn pause(duration: Duration) {
    std::thread::park_timeout(duration);
}

/// Time on processors that this process has used, in steps of the kernel's ticks.
pub(crate) fn processor_time() -> Duration {
    let status = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is a name in parentheses; the 14th and 15th are the time in user space and in the kernel.
    let fields = status.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second().max(1))
}
