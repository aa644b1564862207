//! On the real kernel, in namespaces that end with the test. They need CAP_SYS_ADMIN.
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rtnetlink::{LinkUnspec, LinkVeth};

use super::*;

const SOON: Duration = Duration::from_secs(1);

#[test]
fn a_namespace_is_known_by_its_cookie_by_every_way_to_it() {
    let namespace = Namespace::create().unwrap();
    let ours = Namespace::current().unwrap();
    assert_ne!(namespace, ours);
    assert_ne!(namespace.inode(), ours.inode());
    assert_eq!(Namespace::of_pid(std::process::id()).unwrap(), ours);
    assert_eq!(Namespace::open(Path::new("/proc/self/ns/net")).unwrap(), ours);
    let socket = namespace.bind_resolver().unwrap().udp;
    let again = Namespace::of_socket(socket.as_fd()).unwrap();
    assert_eq!((again.cookie(), again.inode()), (namespace.cookie(), namespace.inode()));
    assert_eq!(namespace.run(Namespace::current).unwrap().unwrap(), namespace);
    assert_eq!(Namespace::current().unwrap(), ours, "the caller stays where it was");
    assert_eq!(boot_id().unwrap().len(), 36);
}

#[test]
fn what_is_no_network_namespace_is_refused() {
    let refused = |path: &str| Namespace::open(Path::new(path)).unwrap_err();
    assert!(matches!(refused("/dev/null"), Error::NotANamespace { .. }));
    assert!(matches!(refused("/proc/self/ns/mnt"), Error::NotANamespace { .. }));
    assert!(matches!(refused("/nonexistent"), Error::Open { .. }));
    assert!(matches!(Namespace::of_pid(u32::MAX), Err(Error::NoProcess { .. })));
    assert!(matches!(Namespace::of_pid(0), Err(Error::NoProcess { .. })));
    let pipe = tempfile::tempdir().unwrap();
    let pipe = pipe.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::RUSR).unwrap();
    assert!(
        matches!(Namespace::open(&pipe), Err(Error::NotANamespace { .. })),
        "an open would wait for a writer"
    );
}

#[test]
fn arguments_are_read_as_the_command_line_says() {
    assert_eq!(Target::from_argument("host").unwrap(), Target::Host);
    assert_eq!(Target::from_argument("c1").unwrap(), Target::Name("c1".into()));
    assert_eq!(Target::from_argument("/run/x").unwrap(), Target::Path("/run/x".into()));
    assert!(matches!(Target::from_argument("./x"), Err(Error::RelativePath { .. })));
    for bad in ["", ".", "..", "a\0b"] {
        assert!(matches!(Target::from_argument(bad), Err(Error::BadName { .. })), "{bad:?}");
    }
    let missing = resolve(&Target::Name("no-such-namespace".into()), None).unwrap_err();
    assert_eq!(missing.to_string(), "cannot open the network namespace at /run/netns/no-such-namespace");
}

#[test]
fn our_own_namespace_is_the_host_however_it_is_named() {
    let own = [Target::Host, Target::Pid(std::process::id()), Target::Path("/proc/self/ns/net".into())];
    for target in own {
        assert!(
            matches!(resolve(&target, Some(std::process::id())).unwrap().place, Place::Host),
            "{target:?}"
        );
    }
}

/// As `ip netns add` leaves it: `lo` is down, and 127.0.0.11 nobody's address.
#[test]
fn the_resolver_answers_from_where_it_was_asked_in_a_fresh_namespace() {
    let namespace = Namespace::create().unwrap();
    let sockets = namespace.bind_resolver().unwrap();
    let client = namespace.run(|| std::net::UdpSocket::bind("0.0.0.0:0")).unwrap().unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    // Connected: only what comes from there is taken.
    client.connect(("127.0.0.11", sockets.port)).unwrap();
    client.send(b"question").unwrap();
    let mut bytes = [0; 16];
    sockets.udp.set_nonblocking(false).unwrap();
    let (_, from) = sockets.udp.recv_from(&mut bytes).unwrap();
    sockets.udp.send_to(b"answer", from).unwrap();
    assert_eq!(client.recv(&mut bytes).unwrap(), 6);
}

#[tokio::test]
async fn the_resolver_has_one_port_for_both_protocols_and_its_second_another() {
    let namespace = Namespace::create().unwrap();
    let first = namespace.bind_resolver().unwrap();
    let second = namespace.bind_resolver().unwrap();
    assert_eq!(first.udp.local_addr().unwrap(), first.tcp.local_addr().unwrap());
    assert_eq!(first.port, 61_053);
    assert_eq!(second.port, 61_153, "the next one where the first is taken");
    tokio::net::UdpSocket::from_std(first.udp).unwrap();
    tokio::net::TcpListener::from_std(first.tcp).unwrap();
}

#[tokio::test]
async fn a_connect_tells_refused_from_silent() {
    let namespace = Namespace::create().unwrap();
    lo_up(&namespace).await;
    let listener = namespace.open_socket("a listener", || TcpListener::bind("127.0.0.1:0")).unwrap();
    let open = listener.local_addr().unwrap();
    let mut stream = connect_in(&namespace, open, SOON).await.unwrap();
    let peer = listener.accept().unwrap().0;
    assert_eq!(stream.local_addr().unwrap(), peer.peer_addr().unwrap());
    tokio::io::AsyncWriteExt::shutdown(&mut stream).await.unwrap();

    let closed: SocketAddr = "127.0.0.1:9".parse().unwrap();
    assert_eq!(
        connect_in(&namespace, closed, SOON).await.unwrap_err().kind(),
        io::ErrorKind::ConnectionRefused
    );
    let elsewhere: SocketAddr = "192.0.2.1:9".parse().unwrap();
    assert_eq!(
        connect_in(&namespace, elsewhere, SOON).await.unwrap_err().kind(),
        io::ErrorKind::NetworkUnreachable
    );
    // A listener whose queue is full answers no SYN.
    let full = namespace
        .open_socket("a full listener", || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            socket.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into())?;
            socket.listen(0)?;
            Ok(socket)
        })
        .unwrap();
    let full = (full.local_addr().unwrap().as_socket().unwrap(), full);
    let _first = connect_in(&namespace, full.0, SOON).await.unwrap();
    let silent = connect_in(&namespace, full.0, Duration::from_millis(100)).await;
    assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

async fn lo_up(namespace: &Namespace) {
    let netlink = namespace.rtnetlink().unwrap();
    netlink.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await.unwrap();
}

/// The kernel frees a namespace in a work queue, soon after its last handle; its veth's other end goes with it.
#[tokio::test]
async fn the_kernel_frees_a_namespace_once_every_handle_is_dropped() {
    let ours = Namespace::create().unwrap();
    let near = ours.rtnetlink().unwrap();
    let namespace = Namespace::create().unwrap();
    near.link().add(LinkVeth::new("near", "far").build()).execute().await.unwrap();
    let far =
        LinkUnspec::new_with_name("far").setns_by_fd(std::os::fd::AsRawFd::as_raw_fd(&namespace.as_fd()));
    near.link().set(far.build()).execute().await.unwrap();

    let resolver = namespace.bind_resolver().unwrap();
    let netlink = namespace.rtnetlink().unwrap();
    let monitor = namespace.monitor(Concern::Network, Vec::new(), |_| {}).unwrap();
    let handle = netlink.clone();
    let clone = namespace.clone();
    drop((namespace, resolver));
    assert!(
        !gone_within(&ours, "near", Duration::from_millis(100)).await,
        "a clone and a netlink socket hold it"
    );
    netlink.close().await;
    drop((clone, monitor));
    assert!(gone_within(&ours, "near", Duration::from_secs(5)).await);
    let dead = handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await;
    assert!(dead.is_err(), "a clone of the inner handle does not keep the socket");
}

async fn gone_within(namespace: &Namespace, link: &str, limit: Duration) -> bool {
    use futures::TryStreamExt;
    let netlink = namespace.rtnetlink().unwrap();
    let deadline = Instant::now() + limit;
    loop {
        let mut found = netlink.link().get().match_name(link.to_owned()).execute();
        if !matches!(found.try_next().await, Ok(Some(_))) {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A process in a namespace, which ends when its standard input closes.
pub(super) fn process_in(namespace: &Namespace) -> std::process::Child {
    let mut child = namespace
        .run(|| Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn())
        .unwrap()
        .unwrap();
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    child
}

pub(super) fn end(mut process: std::process::Child) {
    drop(process.stdin.take());
    process.wait().unwrap();
}

#[test]
fn a_namespace_is_taken_up_again_after_a_restart() {
    let namespace = Namespace::create().unwrap();
    let (first, second) = (process_in(&namespace), process_in(&namespace));
    let (first_pid, second_pid) = (first.id(), second.id());
    let again = |target: &Target| resume(&namespace, target, None);
    assert!(matches!(again(&Target::Pid(first_pid)), Some(Place::Process { pid, .. }) if pid == first_pid));
    end(first);
    let by_path = Target::Path(format!("/proc/{first_pid}/ns/net").into());
    for target in [Target::Pid(first_pid), by_path] {
        let place = again(&target);
        assert!(matches!(place, Some(Place::Process { pid, .. }) if pid == second_pid), "{place:?}");
    }
    let ours = Target::Pid(std::process::id());
    assert!(
        matches!(again(&ours), Some(Place::Process { pid, .. }) if pid == second_pid),
        "a number used again"
    );
    end(second);
    assert!(again(&Target::Pid(second_pid)).is_none());
    assert!(again(&Target::Host).is_none());
    assert!(matches!(resume(&Namespace::current().unwrap(), &Target::Host, None), Some(Place::Host)));
    with_private_mounts(|directory| {
        let path = directory.join("c1");
        pin(&namespace, &path);
        assert!(matches!(again(&Target::Path(path.clone())), Some(Place::Path { root: None, .. })));
        rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert!(again(&Target::Path(path)).is_none());
    });
}

/// Runs `work` on a thread with mounts of its own, below which nothing reaches the machine's, and with a tmpfs at
/// the directory it is given. Threads that it starts see the same mounts.
#[allow(unsafe_code)]
pub(super) fn with_private_mounts(work: impl FnOnce(&Path) + Send) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    let directory = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: FS and NEWNS share no file descriptor table away.
            unsafe {
                rustix::thread::unshare_unsafe(
                    rustix::thread::UnshareFlags::FS | rustix::thread::UnshareFlags::NEWNS,
                )
            }
            .unwrap();
            mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).unwrap();
            mount("tmpfs", directory.path(), "tmpfs", MountFlags::empty(), None).unwrap();
            work(directory.path());
        });
        thread.join().unwrap();
    });
}

fn allow_existing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

pub(super) fn pin(namespace: &Namespace, path: &Path) {
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .open(path)
        .map(drop)
        .or_else(allow_existing)
        .unwrap();
    namespace.run(|| rustix::mount::mount_bind("/proc/thread-self/ns/net", path)).unwrap().unwrap();
}

pub(super) fn wait_on_current<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}
