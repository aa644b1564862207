//! On the real kernel: processes that end, and paths that are unmounted, deleted and replaced.
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;
use crate::netns::tests::{end, pin, process_in, wait_on_current, with_private_mounts};
use crate::netns::{Namespace, Target, of_peer, resolve};

const SOON: Duration = Duration::from_secs(1);

async fn death(deaths: &mut mpsc::Receiver<Death>) -> Death {
    tokio::time::timeout(SOON, deaths.recv()).await.expect("a death within a second").unwrap()
}

#[tokio::test]
async fn processes_are_followed_until_none_is_left() {
    let (sender, mut deaths) = mpsc::channel(8);
    let watcher = Watcher::start(sender).unwrap();
    let namespace = Namespace::create().unwrap();
    let (first, second) = (process_in(&namespace), process_in(&namespace));
    let found = resolve(&Target::Pid(first.id()), None).unwrap();
    assert_eq!(found.namespace, namespace);
    let by_path = resolve(&Target::Path(format!("/proc/{}/ns/net", first.id()).into()), None).unwrap();
    assert!(
        matches!(by_path.place, Place::Process { .. }),
        "an engine's path means the namespace, not the process"
    );
    watcher.watch(1, namespace.inode(), found.place).unwrap();
    watcher.watch(2, namespace.inode(), by_path.place).unwrap();
    watcher.watch(3, namespace.inode(), of_peer(second.id()).unwrap().place).unwrap();
    watcher.unwatch(3).unwrap();
    let second_pid = second.id();
    end(first);
    let early = tokio::time::timeout(Duration::from_millis(200), deaths.recv()).await;
    assert!(early.is_err(), "the second process is still there: {early:?}");
    end(second);
    let mut ids = [death(&mut deaths).await, death(&mut deaths).await];
    ids.sort_by_key(|death| death.id);
    assert_eq!(ids[0], Death { id: 1, cause: Cause::Empty { pid: second_pid } });
    assert_eq!(ids[1].id, 2);
}

#[tokio::test]
async fn a_process_that_has_ended_before_the_watch_is_told_at_once() {
    let (sender, mut deaths) = mpsc::channel(8);
    let watcher = Watcher::start(sender).unwrap();
    let namespace = Namespace::create().unwrap();
    let process = process_in(&namespace);
    let found = resolve(&Target::Pid(process.id()), None).unwrap();
    end(process);
    watcher.watch(7, namespace.inode(), found.place).unwrap();
    assert_eq!(death(&mut deaths).await.id, 7);
}

#[test]
fn a_path_that_is_unmounted_deleted_or_replaced_is_dead() {
    with_private_mounts(|directory| {
        let (sender, mut deaths) = mpsc::channel(8);
        let watcher = Watcher::start(sender).unwrap();
        let namespace = Namespace::create().unwrap();
        let watch = |id, name: &str| {
            let path = directory.join(name);
            pin(&namespace, &path);
            let found = resolve(&Target::Path(path.clone()), Some(std::process::id())).unwrap();
            assert_eq!(found.namespace, namespace);
            watcher.watch(id, namespace.inode(), found.place).unwrap();
            path
        };
        let detach = |path: &Path| rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH).unwrap();

        let deleted = watch(1, "deleted");
        let unmounted = watch(2, "unmounted");
        let replaced = watch(3, "replaced");
        let _stays = watch(4, "stays");
        wait_on_current(async {
            let started = Instant::now();
            detach(&deleted);
            std::fs::remove_file(&deleted).unwrap();
            assert_eq!(
                death(&mut deaths).await,
                Death { id: 1, cause: Cause::Gone { path: deleted.clone() } }
            );
            println!("deleted: {:?}", started.elapsed());
            let started = Instant::now();
            detach(&unmounted);
            assert_eq!(
                death(&mut deaths).await,
                Death { id: 2, cause: Cause::Gone { path: unmounted.clone() } }
            );
            println!("unmounted: {:?}", started.elapsed());
            let started = Instant::now();
            pin(&Namespace::create().unwrap(), &replaced);
            assert_eq!(
                death(&mut deaths).await,
                Death { id: 3, cause: Cause::Replaced { path: replaced.clone() } }
            );
            println!("replaced: {:?}", started.elapsed());
            assert!(tokio::time::timeout(Duration::from_millis(300), deaths.recv()).await.is_err());
        });
    });
}

#[test]
fn a_path_means_what_the_peer_sees_and_stays_in_sight_after_it() {
    let namespace = Namespace::create().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let (finish, finished) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let namespace = &namespace;
        scope.spawn(move || {
            with_private_mounts(move |directory| {
                let path = directory.join("c1");
                pin(namespace, &path);
                let peer = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
                tell.send((path.clone(), peer)).unwrap();
                finished.recv().unwrap();
                rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH).unwrap();
                std::fs::remove_file(path).unwrap();
                finished.recv().unwrap();
            });
        });
        let (path, peer) = told.recv().unwrap();
        assert!(Namespace::open(&path).is_err(), "not in our view");
        let found = resolve(&Target::Path(path.clone()), Some(peer.id())).unwrap();
        assert_eq!(found.namespace, *namespace);
        assert!(matches!(found.place, Place::Path { root: Some(_), .. }));
        end(peer);
        let (sender, mut deaths) = mpsc::channel(8);
        let watcher = Watcher::start(sender).unwrap();
        watcher.watch(1, namespace.inode(), found.place).unwrap();
        wait_on_current(async {
            let early = tokio::time::timeout(Duration::from_millis(400), deaths.recv()).await;
            assert!(early.is_err(), "the mount is still there: {early:?}");
            finish.send(()).unwrap();
            assert_eq!(death(&mut deaths).await, Death { id: 1, cause: Cause::Gone { path } });
        });
        finish.send(()).unwrap();
    });
}

/// Prints what a thousand watched paths cost; the bound is generous, since the machine is shared.
#[test]
fn a_thousand_watched_paths_cost_little() {
    with_private_mounts(|directory| {
        let (sender, _deaths) = mpsc::channel(8);
        let watcher = Watcher::start(sender).unwrap();
        let namespace = Namespace::create().unwrap();
        for id in 0..1000 {
            let path = directory.join(format!("c{id}"));
            pin(&namespace, &path);
            watcher.watch(id, namespace.inode(), Place::Path { root: None, path }).unwrap();
        }
        let ticks = || {
            std::fs::read_to_string(watch_thread())
                .unwrap()
                .split(' ')
                .next()
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let before = ticks();
        wait_on_current(async { tokio::time::sleep(Duration::from_secs(2)).await });
        let share = Duration::from_nanos(ticks() - before).as_secs_f64() / 2.0;
        println!("1,000 paths: {:.2} % of a core", share * 100.0);
        assert!(share < 0.1, "{share}");
    });
}

/// The scheduler's account of the watcher that the calling test has started.
fn watch_thread() -> PathBuf {
    let view = |task: &Path| std::fs::read_link(task.join("ns/mnt")).ok();
    let own = view(Path::new("/proc/thread-self"));
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let named =
        |task: &PathBuf| std::fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "netns-watch\n");
    tasks.filter(named).find(|task| view(task) == own).unwrap().join("schedstat")
}
