//! The loop in a thread, and the real process: this test program started again as a holder.
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::ensure_with;
use super::message::{Reply, Request, decode_list, encode_list};
use super::server::Server;
use super::*;

/// Set for a test program that is to be a holder.
const HOLD_AT: &str = "SVC_AGENT_TEST_HOLD_AT";

fn start(path: &Path) -> (JoinHandle<Result<(), Error>>, Client) {
    let server = Server::bind(path, 100).unwrap();
    (std::thread::spawn(|| server.serve()), Client::connect(path).unwrap())
}

fn pipe_with(text: &str) -> OwnedFd {
    let (reader, mut writer) = io::pipe().unwrap();
    writer.write_all(text.as_bytes()).unwrap();
    reader.into()
}

fn read(file: OwnedFd) -> String {
    let mut text = String::new();
    std::fs::File::from(file).read_to_string(&mut text).unwrap();
    text
}

#[test]
fn descriptors_are_kept_handed_out_in_order_and_dropped() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holder.sock");
    let (thread, client) = start(&path);
    assert_eq!(
        client.ping().unwrap(),
        Pong { pid: std::process::id(), version: env!("CARGO_PKG_VERSION").into() }
    );
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(client.get("network/web").unwrap().map(|files| files.len()), None);
    {
        let (one, two) = (pipe_with("one"), pipe_with("two"));
        client.put("network/web", &[one.as_fd(), two.as_fd()]).unwrap();
        client.put("network/db", &[one.as_fd()]).unwrap();
    }
    let entries = client.list().unwrap();
    let expected = [("network/db", 1), ("network/web", 2)];
    assert_eq!(entries.iter().map(|entry| (entry.name.as_str(), entry.files)).collect::<Vec<_>>(), expected);
    assert!(client.drop_name("network/db").unwrap());
    assert!(!client.drop_name("network/db").unwrap());
    let texts: Vec<_> = client.get("network/web").unwrap().unwrap().into_iter().map(read).collect();
    assert_eq!(texts, ["one", "two"]);
    client.end().unwrap();
    thread.join().unwrap().unwrap();
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0, "socket and lock are gone");
}

#[test]
fn limits_are_refused_and_change_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (thread, client) = start(&directory.path().join("s"));
    let null = std::fs::File::open("/dev/null").unwrap();
    let refused = |name: &str, count: usize| client.put(name, &vec![null.as_fd(); count]).unwrap_err();
    assert!(matches!(refused("n", 0), Error::Refused { .. }));
    assert!(matches!(refused("n", 9), Error::Call { .. } | Error::Refused { .. }));
    assert!(matches!(refused("", 1), Error::Refused { .. }));
    assert!(matches!(refused(&"n".repeat(256), 1), Error::Refused { .. }));
    assert!(client.list().unwrap().is_empty());
    client.put(&"n".repeat(255), &[null.as_fd(); 8]).unwrap();
    for number in 0..11 {
        client.put(&number.to_string(), &[null.as_fd(); 8]).unwrap();
    }
    assert!(matches!(refused("above the hundred files", 8), Error::Refused { .. }));
    client.put("1", &[null.as_fd(); 8]).unwrap();
    assert_eq!(client.list().unwrap().len(), 12);
    client.end().unwrap();
    thread.join().unwrap().unwrap();
}

#[test]
fn a_full_table_refuses_new_names_only() {
    let mut table = table::Table::new(NAMES_MAX);
    let file = || vec![OwnedFd::from(std::fs::File::open("/dev/null").unwrap())];
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    if limit < 10_000 {
        println!("skipped: this process may open {limit} files only");
        return;
    }
    for number in 0..NAMES_MAX {
        table.put(&number.to_string(), file()).unwrap();
    }
    assert!(table.put("another", file()).is_err());
    table.put("0", file()).unwrap();
    let mut listed = 0;
    let mut after = String::new();
    loop {
        let page = decode_list(&encode_list(table.after(&after))).unwrap();
        let Some((last, _)) = page.last() else { break };
        (after, listed) = (last.clone(), listed + page.len());
    }
    assert_eq!(listed, NAMES_MAX, "over several packets");
}

#[test]
fn foreign_bytes_are_refused_and_never_a_panic() {
    for bytes in [&b""[..], b"\x01", b"\x02", b"\x04", b"\x07", b"\xff", b"\x01\xff\xfe"] {
        assert!(Request::decode(bytes).is_err(), "{bytes:?}");
    }
    assert!(Request::decode(&[1; 400]).is_err());
    for request in [
        Request::Put("a"),
        Request::Get("b"),
        Request::List(""),
        Request::Drop("c"),
        Request::Ping,
        Request::End,
    ] {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    for bytes in [&b""[..], b"\x03", b"\x02\xff"] {
        assert_eq!(Reply::decode(bytes), None);
    }
    for bytes in [&b"\x01"[..], b"\x05\x01abc", b"\x00\x01", b"\x01\x09a", b"\x01\x01\xff"] {
        assert_eq!(decode_list(bytes), None, "{bytes:?}");
    }
}

#[test]
fn one_place_has_one_holder_and_a_stale_socket_is_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    assert!(matches!(Client::connect(&path), Err(Error::Connect { .. })));
    let (thread, client) = start(&path);
    assert!(matches!(Server::bind(&path, 100), Err(Error::Occupied { .. })));
    client.end().unwrap();
    thread.join().unwrap().unwrap();

    drop(Server::bind(&path, 100).unwrap());
    assert!(path.exists(), "as a killed holder leaves it");
    assert!(matches!(Client::connect(&path), Err(Error::Connect { .. })));
    let (thread, second) = start(&path);
    assert!(client.ping().is_ok(), "the first client finds the new holder");
    second.end().unwrap();
    thread.join().unwrap().unwrap();
}

/// Not a test by itself: the holder process of the test below.
#[test]
fn hold() {
    if let Some(path) = std::env::var_os(HOLD_AT) {
        run(Path::new(&path), None).unwrap();
    }
}

fn holder_command(path: &Path) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", &format!("{}::hold", module_path!().split_once("::").unwrap().1)])
        .env(HOLD_AT, path);
    command
}

/// The session of a process, 0 if its leader is outside our process namespace (proc(5), stat, field 6).
fn session_of(pid: u32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, after_name) = stat.rsplit_once(')').unwrap();
    after_name.split_whitespace().nth(3).unwrap().parse().unwrap()
}

#[test]
fn a_holder_process_is_started_once_keeps_a_namespace_and_ends() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let client = ensure_with(&path, holder_command(&path)).unwrap();
    let pong = client.ping().unwrap();
    assert_ne!(pong.pid, std::process::id());
    assert_ne!(session_of(pong.pid), session_of(std::process::id()));
    let again = ensure_with(&path, Command::new("/nonexistent")).unwrap();
    assert_eq!(again.ping().unwrap(), pong, "it is there, so none is started");

    let cookie = {
        let namespace = crate::netns::Namespace::create().unwrap();
        client.put("network/web", &[namespace.as_fd()]).unwrap();
        namespace.cookie()
    };
    drop((client, again));
    let client = Client::connect(&path).unwrap();
    let file = client.get("network/web").unwrap().unwrap().remove(0);
    assert_eq!(crate::netns::Namespace::from_fd(file).unwrap().cookie(), cookie);
    client.end().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while Client::connect(&path).is_ok() {
        assert!(Instant::now() < deadline, "the holder is still there");
    }
    let failed = ensure_with(&path, Command::new("/nonexistent")).err().unwrap();
    assert_eq!(failed.to_string(), "cannot start /nonexistent as the holder");
}

#[test]
fn a_start_that_fails_ends_the_holder_that_it_started_unless_it_keeps_something() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("s");
    let starter = ensure_with(&path, holder_command(&path)).unwrap();
    let later = ensure_with(&path, Command::new("/nonexistent")).unwrap();
    later.end_unused();
    assert!(later.ping().is_ok(), "it was there before");

    let file = pipe_with("");
    for name in [PATHS_NAME, "network/web"] {
        starter.put(name, &[file.as_fd()]).unwrap();
    }
    starter.end_unused();
    assert!(later.ping().is_ok(), "it keeps a network");
    starter.drop_name("network/web").unwrap();
    starter.end_unused();
    assert!(matches!(later.ping(), Err(Error::Connect { .. })), "nothing of it is left");

    let (thread, successor) = start(&path);
    starter.end_unused();
    assert!(successor.ping().is_ok(), "it is another one");
    successor.end().unwrap();
    thread.join().unwrap().unwrap();
}

/// Calls wait while an agent may be on its way, and are answered when none comes; the next agent is left alone.
#[test]
fn docker_is_answered_while_no_agent_runs() {
    use std::os::unix::net::{UnixListener, UnixStream};
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("holder.sock");
    let server = Server::bind(&path, 100).unwrap().standing_in_after(Duration::from_millis(300));
    let thread = std::thread::spawn(|| server.serve());
    let client = Client::connect(&path).unwrap();
    let plugin = directory.path().join("plugin.sock");
    let listener = UnixListener::bind(&plugin).unwrap();
    let leave_it = || {
        let (reader, writer) = io::pipe().unwrap();
        client.put(DOCKER_NAME, &[listener.as_fd(), reader.as_fd()]).unwrap();
        writer
    };
    let call = |name: &str| {
        let mut stream = UnixStream::connect(&plugin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        write!(stream, "POST /{name} HTTP/1.1\r\nContent-Length: 2\r\n\r\n{{}}").unwrap();
        stream
    };
    let answer = |mut stream: UnixStream| {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let alive = leave_it();
    let waiting = call("NetworkDriver.Join");
    drop(alive);
    let began = Instant::now();
    assert!(answer(waiting).contains(REFUSAL));
    assert!(
        began.elapsed() >= Duration::from_millis(250),
        "an agent may be on its way: {:?}",
        began.elapsed()
    );
    assert!(answer(call("NetworkDriver.Leave")).ends_with("{}"));
    // The next agent's calls are its own.
    let _alive = leave_it();
    let _waiting = call("NetworkDriver.Join");
    let (mut taken, _) = listener.accept().unwrap();
    let mut request = [0; 16];
    taken.read_exact(&mut request).unwrap();
    assert_eq!(&request[..5], b"POST ");
    client.end().unwrap();
    thread.join().unwrap().unwrap();
}
