//! Times of load, replacement, addition, removal and reweighting at 1, 1,000 and 10,000 services of 10 replicas, in
//! a network namespace of its own. Prints the median and the 95 % interval of the median, in microseconds.
//!
//! `cargo run --release -p lb --example scale [rounds [services]]`
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use lb::{Balancer, Desired, Real, Replica, ReplicaState, Service, VipRange};

const REPLICAS: u32 = 10;

fn main() {
    let rounds = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(60);
    #[allow(unsafe_code)] // unshare of this process's only thread, before anything else.
    let unshared = unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) };
    if let Err(errno) = unshared {
        eprintln!("no network namespace of our own: {errno}");
        std::process::exit(1);
    }
    println!("{:>9} {:>10} {:>9} {:>21}   (microseconds)", "services", "what", "median", "95 % interval");
    let only: Option<u32> = std::env::args().nth(2).and_then(|text| text.parse().ok());
    for services in only.map_or(vec![1, 1_000, 10_000], |only| vec![only]) {
        if let Err(error) = measure(services, rounds) {
            eprintln!("{services} services: {error}: {:?}", std::error::Error::source(&error));
            std::process::exit(1);
        }
    }
}

fn service(number: u32, replicas: &[(u32, u16)]) -> Arc<Service> {
    let replica = |(place, weight): &(u32, u16)| Replica {
        addresses: [IpAddr::V4(Ipv4Addr::from_bits(0x0a80_0000 + number * 16 + place))].into(),
        weight: *weight,
        state: ReplicaState::Serving,
    };
    Arc::new(Service {
        name: format!("bench/service-{number:05}"),
        vips: vec![IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0000 + number + 1))],
        ports: Vec::new(),
        replicas: replicas.iter().map(replica).collect(),
    })
}

fn plain(number: u32) -> Arc<Service> {
    service(number, &(0..REPLICAS).map(|place| (place, 1)).collect::<Vec<_>>())
}

fn desired(count: u32) -> Desired {
    let range = VipRange {
        first: [10, 96, 0, 0].into(),
        last: [10, 111, 255, 255].into(),
        own: [10, 80, 0, 2].into(),
    };
    Desired { redirects: Vec::new(), ranges: vec![range], services: (0..count).map(plain).collect() }
}

/// Seconds of one call, and whatever it defers is done afterwards, untimed.
fn timed(balancer: &mut Balancer, desired: &Desired) -> Result<f64, lb::Error> {
    let begin = Instant::now();
    let mut report = balancer.reconcile(desired)?;
    let seconds = begin.elapsed().as_secs_f64();
    while report.pending {
        report = balancer.reconcile(desired)?;
    }
    Ok(seconds)
}

fn measure(count: u32, rounds: u32) -> Result<(), lb::Error> {
    let mut loads = Vec::new();
    for _ in 0..rounds.min(15) {
        let desired = desired(count);
        let mut balancer = open();
        loads.push(timed(&mut balancer, &desired)?);
        balancer.remove()?;
    }
    report(count, "load", loads);
    let mut state = desired(count);
    let mut balancer = open();
    timed(&mut balancer, &state)?;
    let [mut replaced, mut added, mut removed, mut reweighted, mut shrunk, mut idle, mut check] =
        [const { Vec::new() }; 7];
    let ten: Vec<(u32, u16)> = (0..REPLICAS).map(|place| (place, 1)).collect();
    for round in 0..rounds {
        let number = (round * 7919) % count;
        let place = number as usize;
        let mut other = ten.clone();
        other[(round % REPLICAS) as usize].0 = 15;
        state.services[place] = service(number, &other);
        replaced.push(timed(&mut balancer, &state)?);
        state.services[place] = service(number, &ten[..9]);
        shrunk.push(timed(&mut balancer, &state)?);
        state.services[place] = plain(number);
        timed(&mut balancer, &state)?;
        let mut heavy = ten.clone();
        heavy[0].1 = 3;
        state.services[place] = service(number, &heavy);
        reweighted.push(timed(&mut balancer, &state)?);
        state.services[place] = plain(number);
        timed(&mut balancer, &state)?;
        state.services.push(plain(count));
        added.push(timed(&mut balancer, &state)?);
        state.services.pop();
        removed.push(timed(&mut balancer, &state)?);
        idle.push(timed(&mut balancer, &state)?);
        let begin = Instant::now();
        balancer.check()?;
        check.push(begin.elapsed().as_secs_f64());
    }
    for (what, samples) in [
        ("replaced", replaced),
        ("shrunk", shrunk),
        ("reweighted", reweighted),
        ("added", added),
        ("removed", removed),
        ("unchanged", idle),
        ("check", check),
    ] {
        report(count, what, samples);
    }
    balancer.remove()
}

fn open() -> Balancer {
    match netfilter::Socket::open() {
        Ok(socket) => Balancer::new(Real::new(socket)),
        Err(error) => {
            eprintln!("{error}");
            std::process::exit(1);
        }
    }
}

/// The interval of the median by order statistics: ranks n/2 ± 0.98·√n (binomial, normal approximation).
fn report(count: u32, what: &str, mut seconds: Vec<f64>) {
    seconds.sort_by(f64::total_cmp);
    let last = seconds.len() - 1;
    let half = (0..=last).find(|half| (half * half) as f64 >= 0.96 * seconds.len() as f64).unwrap_or(last);
    let rank = |rank: usize| seconds[rank.min(last)] * 1e6;
    let middle = seconds.len() / 2;
    let (low, high) = (rank(middle.saturating_sub(half)), rank(middle + half));
    println!("{count:>9} {what:>10} {:>9.1} {low:>10.1} {high:>10.1}", rank(middle));
}
