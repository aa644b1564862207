//! Containers of real Docker engines, on two Debian hosts that are booted with systemd, beside Docker's own bridge.
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use agent::bed::Sandbox;
use agent::netns::Namespace;
use anyhow::{Context, Result, ensure};
use tests::booted::{self, Booted, Root};
use tests::cluster::Cluster;

use super::Options;
use super::throughput::{ratios, rounds};
use crate::handmade::{Handmade, Kind};
use crate::report::{Goal, Row};
use crate::stream::Stream;

const PORT: u16 = 5_010;
const LIMIT: Duration = Duration::from_secs(60);
/// A small server, and a container to ask from.
const SERVE: &str = "python:3-slim busybox httpd -f -p 80 -h /etc";
const IDLE: &str = "python:3-slim sleep 100000";
/// Times of one kernel's clock, whichever host reads it.
const NOW: &str = "date +%s%N";

/// Nothing, told on standard error, where such hosts cannot be booted.
pub(crate) fn measure(sandbox: &Sandbox, options: &Options) -> Result<Vec<Row>> {
    if let Some(missing) = booted::missing() {
        eprintln!("figures of Docker are left out: {missing}");
        return Ok(Vec::new());
    }
    let mut cluster = Cluster::empty(sandbox);
    let _denier = Denier::start(&cluster.add_host(9))?;
    let hosts = [1, 2].map(|number| host(&mut cluster, number, options));
    let [first, second] = &hosts;
    first.shell("svc-agent network create payment; docker network create plain");
    for host in &hosts {
        host.wait("Docker has the network", LIMIT, "docker network inspect payment");
        host.shell(&format!("docker run -d --name client --network payment {IDLE}"));
    }
    first.shell(&format!("docker run -d --name neighbour --network plain {IDLE}"));
    let mut rows = streams(&mut cluster, [first, second], options)?;
    rows.extend(first_answers(first, second, options)?);
    rows.extend(at_once(first, options)?);
    Ok(rows)
}

/// A name server that knows no name and says so at once: what clients ask before there is an answer waits for nobody.
struct Denier {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Denier {
    fn start(namespace: &Namespace) -> Result<Self> {
        let socket =
            namespace.open_socket("a name server", || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 53)))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serve = move || {
            let mut bytes = [0; 512];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes)
                    && length >= 12
                {
                    // A response to a recursive query, NXDOMAIN (RFC 1035, section 4.1.1).
                    bytes[2..4].copy_from_slice(&[0x81, 0x83]);
                    let _gone = socket.send_to(&bytes[..length], from);
                }
            }
        };
        Ok(Self { stop, thread: Some(std::thread::spawn(serve)) })
    }
}

impl Drop for Denier {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// A host with the package, and the program that is measured in it.
fn host(cluster: &mut Cluster, number: usize, options: &Options) -> Booted {
    let host = Booted::with_package(cluster, number, Root::Docker);
    host.shell("apt-get install -y ./svc-agent.deb");
    // Without a line Docker asks servers of the Internet, and waits for them.
    host.shell("echo 'nameserver 192.168.77.9' > /etc/resolv.conf");
    host.copy(&options.program, "/usr/bin/svc-agent");
    host.import_images();
    host.shell(booted::JOIN);
    host
}

fn streams(cluster: &mut Cluster, hosts: [&Booted; 2], options: &Options) -> Result<Vec<Row>> {
    let by_hand = Handmade::build(cluster.bed_mut(), Kind::Plain)?;
    let translated = Handmade::build(cluster.bed_mut(), Kind::Translated)?;
    let [client, server] = hosts.map(|host| container(host, "client"));
    let ours = Stream::open(&client?, &server?, address(hosts[1], "client")?, PORT)?;
    let made = |by: &Handmade| Stream::open(&by.client, &by.server, by.server_address, PORT);
    let (by_hand, translated) = (made(&by_hand)?, made(&translated)?);
    let [ours, by_hand, translated] = rounds(options, [&ours, &by_hand, &translated])?;
    let rows = [
        Row::new(
            "stream: between Docker's containers of two hosts / made with ip(8)",
            "x",
            Goal::AtLeast(0.95),
            ratios(&ours, &by_hand),
        ),
        Row::new(
            "  the same / with an engine's egress and resolver",
            "x",
            Goal::None,
            ratios(&ours, &translated),
        ),
        Row::new("  between Docker's containers", "Gbit/s", Goal::None, ours),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// Seconds from `docker run` of a server to its first answer: by the name and VIP of a new service, to a container of the other
/// host; and by its name on Docker's bridge, to its neighbour.
fn first_answers(first: &Booted, second: &Booted, options: &Options) -> Result<Vec<Row>> {
    let (mut ours, mut bridge) = (Vec::new(), Vec::new());
    for turn in 0..options.rounds.min(30) {
        let (service, plain) = (format!("service-{turn}"), format!("plain-{turn}"));
        let labels = format!("--network payment --label svc-agent.service={service}");
        ours.push(first_answer(first, &labels, &service, (second, "client"))?);
        bridge.push(first_answer(first, "--network plain", &plain, (first, "neighbour"))?);
        first.shell(&format!("docker rm -f {service} {plain}; svc-agent deregister {service}"));
    }
    let more = ours.iter().zip(&bridge).map(|(ours, bridge)| ours - bridge).collect();
    let rows = [
        Row::new(
            "docker run to the first answer past a VIP - on Docker's bridge",
            "s",
            Goal::AtMost(0.5),
            more,
        ),
        Row::new("  past the VIP of a new service, from the other host", "s", Goal::None, ours),
        Row::new("  on Docker's bridge, by name, on the same host", "s", Goal::None, bridge),
    ];
    Ok(rows.into_iter().flatten().collect())
}

/// A try ends soon: a SYN to a container whose link is not up yet, whose name Docker has told already, is sent again after 1 s.
fn first_answer(host: &Booted, flags: &str, name: &str, (at, client): (&Booted, &str)) -> Result<f64> {
    let ask = format!(
        "docker exec {client} sh -c 'until curl -s -o /dev/null -m 0.2 http://{name}/passwd; do :; done'; {NOW}"
    );
    let (begun, answered) = std::thread::scope(|scope| {
        let asking = scope.spawn(move || at.shell(&ask));
        let begun = host.shell(&format!("{NOW}; docker run -d --name {name} {flags} {SERVE}"));
        (begun, asking.join())
    });
    let answered = answered.map_err(|_| anyhow::anyhow!("{name} did not answer"))?;
    Ok(seconds(&answered)? - seconds(&begun)?)
}

/// Seconds until two hundred `docker run` that were begun at once have returned: on a network of ours, and on a bridge.
fn at_once(host: &Booted, options: &Options) -> Result<Vec<Row>> {
    let count = if options.quick { 20 } else { 200 };
    let before = attached(host)?;
    let run = |network: &str| {
        let one = format!(
            "docker run -d --name {network}-$n --network {network} {IDLE} >/dev/null || echo refused"
        );
        let said = host.shell(&format!("{NOW}; for n in $(seq {count}); do {one} & done; wait; {NOW}"));
        ensure!(!said.contains("refused"), "{said}");
        let ended = said.lines().last().context("a time")?;
        Ok(seconds(ended)? - seconds(&said)?)
    };
    let attachments = |wanted: usize| {
        format!("[ $(svc-agent attachments -o json | grep -c '\"local\": true') = {wanted} ]")
    };
    let end = |network: &str| {
        drop(host.shell(&format!("docker rm -f $(seq -f '{network}-%g' {count}) >/dev/null")))
    };
    // Neither beside the other's.
    let bridge = run("plain")?;
    end("plain");
    let ours = run("payment")?;
    host.wait("all are attached", LIMIT, &attachments(before + count));
    end("payment");
    host.wait("nothing is left", LIMIT, &attachments(before));
    let rows = [
        Row::new(
            format!("{count} containers at once / on Docker's bridge"),
            "x",
            Goal::None,
            vec![ours / bridge],
        ),
        Row::new("  all run and are attached", "s", Goal::None, vec![ours]),
        Row::new("  on Docker's bridge", "s", Goal::None, vec![bridge]),
    ];
    Ok(rows.into_iter().flatten().collect())
}

fn attached(host: &Booted) -> Result<usize> {
    let said = host.shell("svc-agent attachments -o json | grep -c '\"local\": true'");
    said.trim().parse().with_context(|| said.clone())
}

fn container(host: &Booted, name: &str) -> Result<Namespace> {
    host.container(name).with_context(|| format!("the namespace of {name}"))
}

fn address(host: &Booted, container: &str) -> Result<Ipv4Addr> {
    let format = "{{(index .NetworkSettings.Networks \"payment\").IPAddress}}";
    let said = host.shell(&format!("docker inspect --format '{format}' {container}"));
    said.trim().parse().with_context(|| said.clone())
}

/// Of the first line, which is nanoseconds.
fn seconds(said: &str) -> Result<f64> {
    let line = said.lines().next().context("a time")?;
    let nanoseconds: u64 = line.trim().parse().with_context(|| said.to_owned())?;
    Ok(Duration::from_nanos(nanoseconds).as_secs_f64())
}
