//! Each test runs in a sandbox of its own: this test program, started again with that one test. They need root.
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use super::*;

const LIMIT: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(300);

/// The sandbox inside, and `None` outside, where there is nothing more to do.
fn inside(test: &str) -> Option<Sandbox> {
    require_root_or_userns().unwrap();
    Sandbox::of_test(&format!("{}::{test}", module_path!().split_once("::").unwrap().1)).unwrap()
}

fn address(last: u8) -> IpNetwork {
    format!("10.9.0.{last}/24").parse().unwrap()
}

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::new(address(last).ip(), port)
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// Names, mounts, links and processes: all that a bed could leave.
fn traces() -> (Vec<String>, Vec<String>, Vec<String>, usize) {
    let list = |path: &str| -> Vec<String> {
        let entries =
            std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = entries.collect();
        names.sort();
        names
    };
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap().lines().map(str::to_owned).collect();
    let links = std::fs::read_to_string("/proc/net/dev").unwrap().lines().skip(2).count();
    let running = |pid: &&String| pid.parse::<u32>().is_ok_and(|pid| netns::inode_of(pid).is_some());
    let processes = list("/proc").iter().filter(running).count();
    (list(NAMED), mounts, list(DIRECTORY), links + processes * 100)
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(5);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        let pause = rustix::event::Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let _elapsed = rustix::event::poll(&mut [], Some(&pause));
    }
}

#[test]
fn hosts_talk_and_nothing_is_left_when_the_bed_is_dropped() {
    let Some(sandbox) = inside("hosts_talk_and_nothing_is_left_when_the_bed_is_dropped") else { return };
    assert_eq!(std::process::id(), 1);
    let before = traces();
    assert!(before.0.is_empty());
    let mut bed = Bed::new(&sandbox, "").unwrap();
    let mut other = Bed::new(&sandbox, "x-").unwrap();
    other.host("h1", address(1)).unwrap();
    let h1 = bed.host("h1", address(1)).unwrap();
    bed.host("h2", address(2)).unwrap();
    bed.host("h3", address(3)).unwrap();
    assert!(matches!(bed.host("h1", address(9)), Err(Error::Name { .. })));
    assert!(matches!(bed.container("h9", "c"), Err(Error::Unknown { .. })));

    let server = bed.name_server("h2", 80, "two").unwrap();
    let answer = ask_tcp(&h1, at(2, 80), LIMIT).unwrap();
    assert_eq!((answer.name.as_str(), answer.seen_as.ip()), ("two", address(1).ip()));
    assert_eq!(ask_udp(&h1, at(2, 80), LIMIT).unwrap().seen_as.ip(), address(1).ip());
    assert_eq!(server.answered(), 2);
    let counted = spread(&h1, at(2, 80), 20, LIMIT).unwrap();
    assert_eq!(counted.answers, BTreeMap::from([("two".to_owned(), 20)]));
    let refused = spread(&h1, at(3, 80), 2, LIMIT).unwrap();
    assert_eq!(refused.failures, BTreeMap::from([("connection refused".to_owned(), 2)]));

    let mut stream = connect(&h1, at(2, 80), LIMIT).unwrap();
    use std::io::{Read, Write};
    let mut bytes = [0; 64];
    let _line = stream.read(&mut bytes).unwrap();
    stream.write_all(b"again").unwrap();
    stream.read_exact(&mut bytes[..5]).unwrap();
    assert_eq!(&bytes[..5], b"again");
    drop(server);
    assert_eq!(stream.read(&mut bytes).unwrap_or(0), 0, "a stopped server closes its connections");
    drop((stream, h1, bed, other));
    assert_eq!(traces(), before);
}

#[allow(unsafe_code)] // rustix and socket2 have no name for this option.
fn set_option(socket: &socket2::Socket, level: i32, option: i32, value: i32) {
    use std::os::fd::AsRawFd;
    let length = u32::try_from(size_of_val(&value)).unwrap();
    // SAFETY: the kernel reads `length` bytes, the size of `value`.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    assert_eq!(result, 0);
}

#[test]
fn links_are_cut_and_healed() {
    let Some(sandbox) = inside("links_are_cut_and_healed") else { return };
    let mut bed = Bed::new(&sandbox, "").unwrap();
    let hosts: Vec<Namespace> =
        (1..=3).map(|number| bed.host(&format!("h{number}"), address(number)).unwrap()).collect();
    let _servers: Vec<Server> =
        (1..=3).map(|number| bed.name_server(&format!("h{number}"), 80, "s").unwrap()).collect();
    let reaches = |from: usize, to: u8| ask_udp(&hosts[from - 1], at(to, 80), SHORT).is_ok();
    assert!(reaches(1, 2) && reaches(3, 2) && reaches(2, 3));
    bed.cut("h2").unwrap();
    assert!(!reaches(1, 2) && !reaches(2, 3) && reaches(1, 3));
    bed.heal("h2").unwrap();
    wait_until("h2 is back", || reaches(1, 2) && reaches(2, 3));

    // An answer to 3 still comes over the other path; what 1 sends to 3 does not arrive.
    bed.cut_path("h1", "h3").unwrap();
    assert!(!reaches(1, 3) && !reaches(3, 1) && reaches(2, 3) && reaches(1, 2));
    let listener = bed.name_server("h1", 81, "one way").unwrap();
    assert!(ask_udp(&hosts[2], at(1, 81), SHORT).is_err());
    assert_eq!(listener.answered(), 1, "the other direction still works");
    bed.heal_path("h1", "h3").unwrap();
    wait_until("the path is back", || reaches(1, 3) && reaches(3, 1));

    bed.set_underlay_mtu(1400).unwrap();
    let send = |bytes: usize| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        // IP_PMTUDISC_PROBE: never fragmented, and refused above the interface's MTU alone.
        let (level, option) = (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER);
        set_option(&socket, level, option, libc::IP_PMTUDISC_PROBE);
        socket.send_to(&vec![0; bytes], &at(2, 9).into()).map_err(|error| error.raw_os_error())
    };
    assert_eq!(hosts[0].run(|| send(1400 - 28)).unwrap(), Ok(1372));
    assert_eq!(hosts[0].run(|| send(1400 - 27)).unwrap(), Err(Some(libc::EMSGSIZE)));
    bed.default_route("h1", address(2).ip()).unwrap();
    let routes = hosts[0].run(|| std::fs::read_to_string("/proc/thread-self/net/route").unwrap()).unwrap();
    assert!(routes.lines().any(|line| line.split('\t').nth(1) == Some("00000000")), "{routes}");
}

#[test]
fn processes_see_their_host_and_die_with_the_bed() {
    let Some(sandbox) = inside("processes_see_their_host_and_die_with_the_bed") else { return };
    let before = traces();
    let mut bed = Bed::new(&sandbox, "b-").unwrap();
    let h1 = bed.host("h1", address(1)).unwrap();
    bed.container("h1", "c1").unwrap();
    std::fs::create_dir_all("/etc/netns/b-c1").unwrap();
    std::fs::write("/etc/netns/b-c1/resolv.conf", "nameserver 127.0.0.11\n").unwrap();
    let run = |place: &str, script: &str| {
        let output = bed.output(place, shell(script), LIMIT).unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let own = format!("net:[{}]\n", h1.inode().number);
    assert_eq!(run("h1", "readlink /proc/self/ns/net"), (Some(0), own, String::new()));
    assert_eq!(
        run("c1", "cat /etc/resolv.conf; echo no >&2; exit 3"),
        (Some(3), "nameserver 127.0.0.11\n".into(), "no\n".into())
    );
    assert_eq!(run("h1", "grep -c 127.0.0.11 /etc/resolv.conf").1, "0\n");
    run("h1", "echo here > /run/svc-agent/file");
    assert_eq!(std::fs::read_to_string(bed.run_directory("h1").join("file")).unwrap(), "here\n");
    assert_eq!(
        run("c1", "cat /run/svc-agent/file").1,
        "here\n",
        "a container's commands meet their host's agent"
    );
    assert!(!Path::new("/run/svc-agent/file").exists());
    let slow = bed.output("h1", shell("exec sleep 60"), SHORT).unwrap_err();
    assert!(matches!(&slow, Error::Do { source, .. } if source.kind() == io::ErrorKind::TimedOut), "{slow}");

    let mut process = bed.spawn("h1", shell("echo started; read x < /dev/zero; exec sleep 60"), "p").unwrap();
    wait_until("its log", || process.log() == "started\n");
    assert_eq!(process.log_path(), bed.log_directory().join("h1-p.log"));
    assert!(process.wait(SHORT).unwrap().is_none());
    process.signal(rustix::process::Signal::TERM).unwrap();
    assert!(process.wait(LIMIT).unwrap().is_some());

    // Names made later are seen by processes that run already, and one that leaves its session is found too.
    let watcher = bed.spawn(
        "h1",
        shell("setsid sleep 60 & until [ -e /run/netns/b-c2 ]; do :; done; ls /run/netns"),
        "w",
    );
    let mut watcher = watcher.unwrap();
    bed.container("h1", "c2").unwrap();
    assert!(watcher.wait(LIMIT).unwrap().is_some());
    assert!(watcher.log().contains("b-c2"));
    let inodes = std::collections::HashSet::from([h1.inode()]);
    assert_eq!(netns::members(&inodes).len(), 1);
    drop((watcher, process));
    std::fs::remove_dir_all("/etc/netns/b-c1").unwrap();
    drop(bed);
    assert!(netns::members(&inodes).is_empty());
    assert_eq!(traces(), before);
}

#[test]
fn containers_and_hosts_end_and_their_namespaces_with_them() {
    let Some(sandbox) = inside("containers_and_hosts_end_and_their_namespaces_with_them") else { return };
    let mut bed = Bed::new(&sandbox, "").unwrap();
    bed.host("h1", address(1)).unwrap();
    let container = bed.container("h1", "c1").unwrap();
    underlay::loopback_up(&container, "c1").unwrap();
    let server = bed.http_server("c1", 8080).unwrap();
    let get = |namespace: &Namespace| -> io::Result<String> {
        use std::io::{Read, Write};
        let mut stream = connect(namespace, "127.0.0.1:8080".parse().unwrap(), SHORT)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer.lines().next().unwrap_or_default().to_owned())
    };
    assert_eq!(get(&container).unwrap(), "HTTP/1.1 200 as told");
    server.set_status(503);
    assert_eq!(get(&container).unwrap(), "HTTP/1.1 503 as told");
    server.set_status(0);
    assert!(get(&container).is_err());
    drop(server);
    wait_until("the server is gone", || {
        get(&container).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
    });

    let (sender, mut deaths) = tokio::sync::mpsc::channel(4);
    let watcher = netns::Watcher::start(sender).unwrap();
    for (id, name) in [(1, "c1"), (2, "c2")] {
        if id == 2 {
            bed.container("h1", name).unwrap();
        }
        let found = netns::resolve(&netns::Target::Name(name.to_owned()), Some(std::process::id())).unwrap();
        watcher.watch(id, found.namespace.inode(), found.place).unwrap();
    }
    bed.delete_container("c1").unwrap();
    assert_eq!(deaths.blocking_recv().unwrap().id, 1);
    assert!(matches!(bed.delete_container("c1"), Err(Error::Unknown { .. })));

    let mut process = bed.spawn("h1", shell("exec sleep 60"), "p").unwrap();
    let mut inside = bed.spawn("c2", shell("exec sleep 60"), "p").unwrap();
    bed.kill_host("h1").unwrap();
    assert!(process.wait(LIMIT).unwrap().is_some() && inside.wait(LIMIT).unwrap().is_some());
    assert_eq!(deaths.blocking_recv().unwrap().id, 2);
    assert!(matches!(bed.namespace("h1"), Err(Error::Unknown { .. })));
    bed.host("h1", address(1)).unwrap();
}

/// A process that has left its session (as a holder does) ends with the sandbox, even when nothing is dropped.
#[test]
fn the_end_of_a_sandbox_leaves_no_process() {
    const MARKED: &str = "60.4711";
    if let Some(sandbox) = inside("the_end_of_a_sandbox_leaves_no_process") {
        let mut bed = Bed::new(&sandbox, "").unwrap();
        let host = bed.host("h1", address(1)).unwrap();
        let process =
            bed.spawn("h1", shell(&format!("setsid sleep {MARKED} & exec sleep {MARKED}")), "p").unwrap();
        let inodes = std::collections::HashSet::from([host.inode()]);
        wait_until("both run", || netns::members(&inodes).len() == 2);
        std::mem::forget((process, bed));
        return;
    }
    let command =
        |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
    let runs = || {
        std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .map(command)
            .any(|line| line == format!("sleep\0{MARKED}\0"))
    };
    wait_until("none is left", || !runs());
}
