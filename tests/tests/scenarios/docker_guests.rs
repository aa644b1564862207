//! What programs in Docker's containers see: the contract's rows, by clients that others use.
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use agent::bed::Sandbox;
use tests::names::{Manner, Musl, Said, Upstream};
use tests::runner::Scenario;
use tests::wait::wait_until;

use crate::engines::{Engines, START_LIMIT, wait_state, wait_state_late};

/// For all look-ups of a client together; a single retry of one takes longer.
const NAMES_LIMIT: Duration = Duration::from_secs(4);
/// Contract: a replica's end stops new flows to it within a second; beside other work.
const DEATH_LIMIT: f64 = 1.5;
/// A name server outside.
pub(crate) const OUTSIDE: &str = "192.168.77.253";
/// The server in the image.
pub(crate) const GUEST: &str = "python3 -I -S /guest.py";

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![
        every_row_of_the_contract_holds_inside_dockers_containers once,
        a_drain_before_docker_stop_loses_no_request once,
        a_container_out_of_memory_is_out_of_the_service once,
    ]
}

/// An image "guest" of this machine's programs: busybox, curl, getent, python and `guest.py`; and a client with musl.
pub(crate) fn import_guest(it: &Engines, musl: Option<&Musl>) {
    let directory = it.cluster.bed().log_directory();
    let program = directory.join("guest.py");
    std::fs::write(&program, include_str!("guest.py")).expect("a file");
    // Python is asked which files it has loaded, and the loader which libraries.
    let make = "set -e; root=$(mktemp -d); cd $root; mkdir bin etc tmp; cp PROGRAM guest.py; [ -z 'MUSL' ] || cp MUSL bin/lookup
                echo 'hosts: files dns' >etc/nsswitch.conf; files=$(python3 -I -S guest.py files); python=$(echo \"$files\" | head -n1)
                nss=$(find /lib /usr/lib -name 'libnss_dns.so.2' -o -name 'libnss_files.so.2')
                for file in $files $nss $(for it in busybox curl getent; do command -v $it; done); do
                    for file in $file $(ldd $file 2>/dev/null | grep -o '/[^ ]*'); do
                        [ -e .$file ] || { mkdir -p .$(dirname $file); cp -L $file .$file; }
                    done
                done
                [ -e bin/busybox ] || ln -s $(command -v busybox) bin/busybox; ln -s busybox bin/sh; ln -sf $python bin/python3
                tar -cf TAR .; rm -rf $root";
    let (tar, client) = (directory.join("guest.tar"), musl.map(|musl| musl.program().display().to_string()));
    let make = make.replace("PROGRAM", &program.display().to_string());
    let make = make.replace("MUSL", &client.unwrap_or_default()).replace("TAR", &tar.display().to_string());
    it.cluster.shell("h1", &make);
    for host in it.cluster.hosts() {
        it.docker(&host, &format!("import {} guest", tar.display()));
    }
}

/// A container that runs the server, waited for.
pub(crate) fn serve(it: &Engines, host: &str, name: &str, options: &str) -> String {
    let run = "run -d --stop-timeout 1 --network payment";
    it.docker(host, &format!("{run} --name {name} --hostname {name} {options} guest {GUEST} serve"));
    it.address(host, name, "payment")
}

/// Two replicas on two hosts, and a client beside one of them.
struct Row {
    it: Engines,
    upstream: Upstream,
    api: String,
    pay: String,
    shop: String,
    vip: String,
}

fn every_row_of_the_contract_holds_inside_dockers_containers(sandbox: &Sandbox) {
    let musl = Musl::compile();
    let it = Engines::with_flags(sandbox, 2, &["--upstream", OUTSIDE], &[]);
    it.cluster.switch_address(&format!("{OUTSIDE}/24"));
    let at = SocketAddr::new(OUTSIDE.parse().expect("an address"), 53);
    let upstream = Upstream::start(it.cluster.bed().switch(), at, Manner::Deny);
    import_guest(&it, Some(&musl));
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    let labels = "--label svc-agent.service=payment-api --label svc-agent.alias=checkout";
    let api = serve(&it, "h1", "api", &format!("{labels} --network-alias till"));
    let pay = serve(&it, "h2", "pay", labels);
    let shop = serve(&it, "h2", "shop", "");
    for name in ["api", "pay"] {
        wait_state(&it, "payment-api", name, Some("serving"));
    }
    let vip = it.cluster.vip("h2", "payment-api").to_string();
    let row = Row { it, upstream, api, pay, shop, vip };
    for (host, from, to) in [("h1", "api", &row.shop), ("h2", "shop", &row.api), ("h2", "shop", &row.vip)] {
        wait_until(&format!("{from} reaches {to}"), START_LIMIT, || {
            let asked = row.it.try_docker(host, &format!("exec {from} {GUEST} ask {to} 1"));
            if asked.exit == 0 { Ok(()) } else { Err(format!("{asked:?}")) }
        });
    }
    reach(&row);
    names(&row);
    vips(&row);
    deaths(&row);
    row.it.docker("h1", "rm -f api");
    row.it.docker("h2", "rm -f pay shop");
    row.it.cluster.wait_well(START_LIMIT);
}

/// Both ways, by address and by name, and much at once.
fn reach(row: &Row) {
    let it = &row.it;
    let whole = it.docker("h1", &format!("exec api sh -c '{GUEST} large | busybox sha256sum'"));
    for (host, from, name, address) in [
        ("h1", "api", "shop", &row.shop),
        ("h2", "shop", "api", &row.api),
        ("h2", "shop", "payment-api", &row.vip),
    ] {
        let seen_as = it.address(host, from, "payment");
        for to in [name, address] {
            let get = format!("busybox ping -c 1 -W 2 {to} >/dev/null && curl -sS -m 5 http://{to}/");
            // Busybox's own wget ends by SIGSEGV on some machines, whatever it is asked.
            let get = format!(r#"{get} && printf "GET / HTTP/1.0\r\n\r\n" | busybox nc -w 5 {to} 80"#);
            let said = it.docker(host, &format!("exec {from} sh -c '{get}'"));
            let seen = said.lines().filter(|line| line.ends_with(&format!(" {seen_as}"))).count();
            assert_eq!(seen, 2, "{from} asks {to}: {said}");
        }
        let sum = format!("exec {from} sh -c 'curl -sS -m 20 http://{name}/large | busybox sha256sum'");
        assert_eq!(it.docker(host, &sum), whole, "{from} gets all of {name}'s large answer");
    }
}

/// Every name in each of its forms, to four resolvers.
fn names(row: &Row) {
    let it = &row.it;
    let id = it.docker("h1", "inspect --format '{{slice .Id 0 12}}' api");
    let both = [row.api.as_str(), row.pay.as_str()];
    let owned: [(&str, &[&str]); 8] = [
        ("payment-api", &[&row.vip]),
        ("checkout", &[&row.vip]),
        ("tasks.payment-api", &both),
        ("api", &[&row.api]),
        ("pay", &[&row.pay]),
        ("till", &[&row.api]),
        (&id, &[&row.api]),
        ("Payment-API", &[&row.vip]),
    ];
    let spelled = |name: &str| ["", ".payment", ".payment.svc.internal"].map(|end| format!("{name}{end}"));
    let wanted: BTreeMap<String, BTreeSet<String>> = owned
        .iter()
        .flat_map(|(name, addresses)| spelled(name).map(|name| (name, *addresses)))
        .map(|(name, addresses)| (name, addresses.iter().map(|&it| it.to_owned()).collect()))
        .collect();
    // What was registered on one host is known on the other in a moment.
    it.wait_name("h2", "shop", &id, &row.api);
    let asked: Vec<&str> = wanted.keys().map(String::as_str).collect();
    let asked = asked.join(" ");
    for program in ["lookup", &format!("{GUEST} names")] {
        let said = Said::of_lines(it.try_docker("h2", &format!("exec shop {program} {asked}")));
        assert!(said.output.exit == 0 && said.output.took < NAMES_LIMIT, "{program}: {said:?}");
        for (name, addresses) in &wanted {
            for family in ["any", "inet"] {
                let seen: BTreeSet<String> = said.of(name, family).split(' ').map(str::to_owned).collect();
                assert_eq!(&seen, addresses, "{program}: {name} {family}");
            }
            // No address of IPv6, which is no error of the server's.
            let six = said.of(name, "inet6");
            assert!(["NODATA", "NONAME"].contains(&six), "{program}: {name} inet6 is {six}");
        }
        let unknown = "unknown tasks.unknown unknown.payment.svc.internal tasks.unknown.payment.svc.internal";
        let said = Said::of_lines(it.try_docker("h2", &format!("exec shop {program} {unknown}")));
        assert!(said.by_name.values().all(|word| word == "NONAME"), "{program}: {said:?}");
        assert!(said.output.took < NAMES_LIMIT, "{program}: {said:?}");
    }
    for program in ["getent ahostsv4", "busybox nslookup -type=a"] {
        let each = format!("for name in {asked}; do echo \"= $name\"; {program} $name; done");
        let said = it.docker("h2", &format!("exec shop sh -c '{each}'"));
        for part in said.split("= ").skip(1) {
            let (name, told) = part.split_once('\n').unwrap_or((part, ""));
            let told: BTreeSet<&str> = told.split_whitespace().collect();
            let all = wanted[name].iter().all(|address| told.contains(address.as_str()));
            assert!(all, "{program} {name}: {part}, not {:?}", wanted[name]);
        }
        assert_eq!(said.matches("= ").count(), wanted.len(), "{said}");
    }
    for (address, name) in [(&row.api, "api"), (&row.pay, "pay"), (&row.vip, "payment-api")] {
        let full = format!("{name}.payment.svc.internal");
        for program in ["getent hosts", "busybox nslookup"] {
            let said = it.docker("h2", &format!("exec shop {program} {address}"));
            assert!(said.contains(&full), "{program} {address}: {said}");
        }
    }
    let outside = row.upstream.asked();
    let ours = outside.iter().find(|name| wanted.contains_key(*name));
    assert!(ours.is_none() && outside.iter().any(|name| name == "unknown"), "asked outside: {outside:?}");
}

/// Who answers, and whom they see.
fn vips(row: &Row) {
    for (host, from, address) in [("h2", "shop", &row.shop), ("h1", "api", &row.api), ("h2", "pay", &row.pay)]
    {
        let said = row.it.docker(host, &format!("exec {from} {GUEST} ask payment-api 40"));
        let lines: Vec<&str> = said.lines().collect();
        let seen: BTreeSet<&str> = lines.iter().copied().collect();
        let wanted = [format!("api {address}"), format!("pay {address}")];
        assert_eq!(lines.len(), 40, "{from}: {said}");
        assert_eq!(seen, wanted.iter().map(String::as_str).collect(), "{from}");
    }
}

/// A client that asks all the time sees a replica's end no longer than it may.
fn deaths(row: &Row) {
    let watch = Watch::begin(&row.it, "h2", "shop", "payment-api", "anew");
    watch.wait(&row.it, "both answer", |lines| {
        ["api", "pay"].iter().all(|name| lines.iter().any(|line| line.said.starts_with(name)))
    });
    let killed = now();
    row.it.docker("h1", "kill api");
    watch.wait(&row.it, "time goes by", |lines| lines.last().is_some_and(|line| line.at > killed + 3.0));
    for line in watch.end(&row.it).iter().filter(|line| line.at > killed + DEATH_LIMIT) {
        assert!(line.said.starts_with("pay "), "{:.1} s after its end: {}", line.at - killed, line.said);
    }
}

/// Two replicas, `api` on h1 with further options, and a client that has heard both.
fn two_replicas(sandbox: &Sandbox, options: &str) -> (Engines, Watch) {
    let it = Engines::start(sandbox, 2);
    import_guest(&it, None);
    it.docker("h1", "network create -d svc-agent payment");
    it.wait_networks("payment");
    let labels = "--label svc-agent.service=payment-api --label svc-agent.check=http://:80/";
    serve(&it, "h1", "api", &format!("{labels} {options}"));
    serve(&it, "h2", "pay", labels);
    serve(&it, "h2", "shop", "");
    for name in ["api", "pay"] {
        wait_state_late(&it, "payment-api", name, Some("serving"));
    }
    let watch = Watch::begin(&it, "h2", "shop", "payment-api", "anew");
    watch.wait(&it, "both answer", |heard| {
        ["api ", "pay "].iter().all(|name| heard.iter().any(|line| line.said.starts_with(name)))
    });
    (it, watch)
}

/// What the README says to do where no request may be lost.
fn a_drain_before_docker_stop_loses_no_request(sandbox: &Sandbox) {
    let (it, watch) = two_replicas(sandbox, "");
    it.cluster.ok("h1", "drain payment-api --on api --wait 2s");
    let drained = now();
    it.docker("h1", "stop api");
    watch.wait(&it, "the client goes on", |heard| {
        heard.last().is_some_and(|line| line.at > drained + DEATH_LIMIT)
    });
    // Started again it gets requests once it answers its check.
    it.docker("h1", "start api");
    wait_state_late(&it, "payment-api", "api", Some("serving"));
    let back = now();
    watch.wait(&it, "it answers again", |heard| {
        heard.iter().any(|line| line.at > back && line.said.starts_with("api "))
    });
    let heard = watch.end(&it);
    let lost: Vec<&Heard> = heard.iter().filter(|line| line.said.starts_with("failed")).collect();
    assert!(lost.is_empty(), "of {} requests: {lost:?}", heard.len());
    it.docker("h1", "rm -f api");
    it.docker("h2", "rm -f pay shop");
    it.cluster.wait_well(START_LIMIT);
}

/// Killed by the kernel, without a word before, it is missed within the time that the contract gives; started again by Docker
/// it is a replica again.
fn a_container_out_of_memory_is_out_of_the_service(sandbox: &Sandbox) {
    let limit = "--restart always -m 64m --memory-swap 64m";
    let (it, watch) = two_replicas(sandbox, limit);
    let first = it.docker("h1", "inspect --format '{{.State.StartedAt}}' api");
    if it.docker("h1", "info --format '{{.MemoryLimit}}'") == "true" {
        let address = it.address("h1", "api", "payment");
        let eat = format!("exec shop curl -sS -m 20 -o /dev/null http://{address}/eat");
        assert_ne!(it.try_docker("h2", &eat).exit, 0, "what it may not have it gets");
    } else {
        println!("  killed: there are no limits of memory here");
        it.shell("h1", "kill -9 $(docker inspect --format '{{.State.Pid}}' api)");
    }
    let killed = now();
    wait_state(&it, "payment-api", "api", None);
    wait_state_late(&it, "payment-api", "api", Some("serving"));
    assert_ne!(it.docker("h1", "inspect --format '{{.State.StartedAt}}' api"), first);
    assert_eq!(it.docker("h1", "inspect --format '{{.RestartCount}}' api"), "1");
    let back = now();
    watch.wait(&it, "it answers again", |heard| {
        heard.iter().any(|line| line.at > back && line.said.starts_with("api "))
    });
    let heard = watch.end(&it);
    let lost: Vec<&Heard> = heard.iter().filter(|line| line.said.starts_with("failed")).collect();
    let late = lost.iter().find(|line| line.at > killed + DEATH_LIMIT);
    assert!(late.is_none(), "killed at {killed}, of {} requests: {lost:?}", heard.len());
    it.docker("h1", "rm -f api");
    it.docker("h2", "rm -f pay shop");
    it.cluster.wait_well(START_LIMIT);
}

/// Seconds since the machine began, as containers count them, too.
pub(crate) fn now() -> f64 {
    let uptime = std::fs::read_to_string("/proc/uptime").expect("the machine's time");
    uptime.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{uptime}"))
}

/// A client in a container that asks a server all the time.
pub(crate) struct Watch {
    host: String,
    container: String,
}

/// What it heard.
#[derive(Debug)]
pub(crate) struct Heard {
    /// When it asked, by [`now`].
    pub(crate) at: f64,
    pub(crate) said: String,
}

impl Watch {
    /// `how` is `anew`, with a connection for each request, or `standing`, with one for all.
    pub(crate) fn begin(it: &Engines, host: &str, container: &str, server: &str, how: &str) -> Self {
        let run = format!("rm -f /stop; exec {GUEST} watch {server} {how} >/heard 2>&1");
        it.docker(host, &format!("exec -d {container} sh -c 'busybox {run}'"));
        Self { host: host.to_owned(), container: container.to_owned() }
    }

    pub(crate) fn heard(&self, it: &Engines) -> Vec<Heard> {
        let text = it.try_docker(&self.host, &format!("exec {} busybox cat /heard", self.container)).stdout;
        // The last line may be half written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let line = |line: &str| {
            let (at, said) = line.split_once(' ').unwrap_or_default();
            let at = at.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
            Heard { at, said: said.to_owned() }
        };
        whole.lines().map(line).collect()
    }

    pub(crate) fn wait(&self, it: &Engines, what: &str, is_so: impl Fn(&[Heard]) -> bool) {
        wait_until(what, START_LIMIT, || {
            let heard = self.heard(it);
            if is_so(&heard) { Ok(()) } else { Err(format!("{:?}", heard.last())) }
        });
    }

    pub(crate) fn end(self, it: &Engines) -> Vec<Heard> {
        it.docker(&self.host, &format!("exec {} busybox touch /stop", self.container));
        self.heard(it)
    }
}
