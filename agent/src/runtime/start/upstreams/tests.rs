use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::file::ResolvConf;
use super::watch::Watch;

const PATIENCE: Duration = Duration::from_secs(5);

fn naming(address: &str) -> String {
    format!("nameserver {address}\n")
}

/// As systemd-resolved, dhclient and resolvconf(8) do.
fn rename_over(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

fn link_over(path: &Path, target: &str) {
    let new = path.with_extension("link");
    symlink(target, &new).unwrap();
    fs::rename(new, path).unwrap();
}

#[tokio::test]
async fn p35_every_way_to_replace_the_file_is_told() {
    type Step = (&'static str, fn(&Path));
    let steps: [Step; 10] = [
        ("made", |etc| fs::write(etc.join("resolv.conf"), "").unwrap()),
        ("written in place", |etc| fs::write(etc.join("resolv.conf"), naming("192.0.2.1")).unwrap()),
        ("renamed over", |etc| rename_over(&etc.join("resolv.conf"), &naming("192.0.2.2"))),
        ("a link in its place", |etc| link_over(&etc.join("resolv.conf"), "../run/stub.conf")),
        ("written where the link leads", |etc| fs::write(etc.join("../run/stub.conf"), "#").unwrap()),
        ("renamed where the link leads", |etc| rename_over(&etc.join("../run/stub.conf"), "#")),
        ("a link that leads elsewhere", |etc| link_over(&etc.join("resolv.conf"), "../run/resolv.conf")),
        ("the other file", |etc| fs::write(etc.join("../run/resolv.conf"), naming("192.0.2.3")).unwrap()),
        ("gone", |etc| fs::remove_file(etc.join("resolv.conf")).unwrap()),
        ("made again", |etc| fs::write(etc.join("resolv.conf"), naming("192.0.2.4")).unwrap()),
    ];
    let directory = tempfile::tempdir().unwrap();
    let etc = directory.path().join("etc");
    fs::create_dir_all(&etc).unwrap();
    fs::create_dir_all(directory.path().join("run")).unwrap();
    for (what, change) in steps {
        let mut watch = Watch::begin(&etc.join("resolv.conf")).unwrap();
        assert!(watch.is_whole(), "{what}");
        change(&etc);
        assert!(timeout(PATIENCE, watch.event()).await.is_ok(), "nothing told of {what}");
    }
    let mut watch = Watch::begin(&etc.join("resolv.conf")).unwrap();
    fs::write(etc.join("passwd"), "root").unwrap();
    assert!(timeout(Duration::from_millis(50), watch.event()).await.is_err(), "told of another file");
}

/// Until the file says these, by event or by look.
async fn says(file: &mut ResolvConf, servers: &[&str]) -> Duration {
    let begin = Instant::now();
    loop {
        let seen: Vec<String> = file.read().servers.iter().map(|server| server.ip().to_string()).collect();
        if seen == servers {
            return begin.elapsed();
        }
        assert!(begin.elapsed() < PATIENCE, "{seen:?} instead of {servers:?}");
        file.changed().await;
    }
}

#[tokio::test]
async fn p35_whatever_stands_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    let mut file = ResolvConf::new(&path);
    says(&mut file, &[]).await;
    let texts: [(&[u8], &[&str]); 6] = [
        (b"nameserver 192.0.2.1\n", &["192.0.2.1"]),
        (b"nameserver 192.0.2.2\r\nnameserver 192.0.2.3\r\n", &["192.0.2.2", "192.0.2.3"]),
        (b"\xff\xfe\0nameserver\nnameserver 192.0.2.4\nnameserver \xff\n", &["192.0.2.4"]),
        (b"nameserver fe80::1%lo\nnameserver fe80::1%none\nnameserver 192.0.2.5", &["fe80::1", "192.0.2.5"]),
        (b"nameserver 127.0.0.11\nnameserver 127.0.0.53\n", &["127.0.0.53"]),
        (b"no line of use", &[]),
    ];
    for (text, servers) in texts {
        fs::write(&path, text).unwrap();
        says(&mut file, servers).await;
        rename_over(&path, &naming("192.0.2.9"));
        says(&mut file, &["192.0.2.9"]).await;
    }
    // Never held up: neither by a pipe that nobody writes to nor by a file without end.
    fs::remove_file(&path).unwrap();
    let pipe =
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0);
    pipe.unwrap();
    says(&mut file, &[]).await;
    link_over(&path, "/dev/zero");
    says(&mut file, &[]).await;
    link_over(&path, "resolv.conf");
    says(&mut file, &[]).await;
}

/// Who writes in place leaves an empty file for a moment, in which nobody's query is to fail.
#[tokio::test]
async fn p35_a_file_that_is_being_written_means_the_one_before() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("resolv.conf");
    fs::write(&path, naming("192.0.2.1")).unwrap();
    let mut file = ResolvConf::new(&path);
    says(&mut file, &["192.0.2.1"]).await;
    for address in ["192.0.2.2", "192.0.2.3"] {
        let before = file.read().clone();
        fs::write(&path, "").unwrap();
        assert_eq!(*file.read(), before, "an empty file is believed at once");
        fs::write(&path, naming(address)).unwrap();
        says(&mut file, &[address]).await;
    }
    fs::write(&path, "").unwrap();
    says(&mut file, &[]).await;
}
