//! One namespace's table, through the balancer alone.
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Instant;

use agent::netns::Namespace;
use anyhow::Result;
use lb::{AddressRange, Balancer, Desired, Real, Replica, ReplicaState, Service, VipRange};

use super::Options;
use crate::machine;
use crate::report::{Goal, Row};

const REPLICAS: u32 = 10;
/// A change is repeated this often for every round of a load, which takes a thousand times as long.
const CHANGES_PER_LOAD: u32 = 5;

/// Milliseconds of each kind of change.
#[derive(Default)]
struct Times {
    load: Vec<f64>,
    replaced: Vec<f64>,
    added: Vec<f64>,
    removed: Vec<f64>,
    reweighted: Vec<f64>,
    fewer: Vec<f64>,
}

pub(crate) fn measure(options: &Options) -> Result<Vec<Row>> {
    let (services, rounds) = (options.services_max(), options.rounds);
    let times = Namespace::create()?.run(|| {
        machine::under_test(0);
        take(services, rounds)
    })??;
    let with = format!("{services} services of {REPLICAS}");
    let rows = [
        Row::new(format!("table: loaded, {with}"), "ms", Goal::AtMost(500.0), times.load),
        Row::new("table: a replica replaced", "ms", Goal::AtMost(0.1), times.replaced),
        Row::new("table: a service added", "ms", Goal::AtMost(2.0), times.added),
        Row::new("table: a service removed", "ms", Goal::AtMost(2.0), times.removed),
        Row::new("table: a replica reweighted (slots 10 to 12)", "ms", Goal::AtMost(2.0), times.reweighted),
        Row::new("table: a replica fewer", "ms", Goal::AtMost(2.0), times.fewer),
    ];
    Ok(rows.into_iter().flatten().collect())
}

fn take(count: u32, rounds: u32) -> Result<Times> {
    let mut times = Times::default();
    for _ in 0..rounds {
        let mut balancer = open()?;
        times.load.push(timed(&mut balancer, &desired(count))?);
        balancer.remove()?;
    }
    let (mut balancer, mut state) = (open()?, desired(count));
    timed(&mut balancer, &state)?;
    for round in 0..rounds * CHANGES_PER_LOAD {
        // A prime step, to spread the rounds over the services.
        let number = round.wrapping_mul(7_919) % count;
        let place = usize::try_from(number)?;
        let slot = usize::try_from(round % REPLICAS)?;
        let mut change = |times: &mut Vec<f64>, service: Arc<Service>| -> Result<()> {
            if let Some(at) = state.services.get_mut(place) {
                *at = service;
            }
            times.push(timed(&mut balancer, &state)?);
            Ok(())
        };
        let mut other = plain();
        other[slot].0 = 15;
        let mut heavy = plain();
        heavy[slot].1 = 3;
        let mut back = Vec::new();
        change(&mut times.replaced, service(number, &other))?;
        change(&mut back, service(number, &plain()))?;
        change(&mut times.reweighted, service(number, &heavy))?;
        change(&mut back, service(number, &plain()))?;
        change(&mut times.fewer, service(number, &plain()[1..]))?;
        change(&mut back, service(number, &plain()))?;
        state.services.push(service(count, &plain()));
        times.added.push(timed(&mut balancer, &state)?);
        state.services.pop();
        times.removed.push(timed(&mut balancer, &state)?);
    }
    balancer.remove()?;
    Ok(times)
}

fn open() -> Result<Balancer> {
    Ok(Balancer::new(Real::new(netfilter::Socket::open()?)))
}

/// Milliseconds until new flows go where they shall; what is put off is done afterwards, untimed.
fn timed(balancer: &mut Balancer, desired: &Desired) -> Result<f64> {
    let begin = Instant::now();
    let mut report = balancer.reconcile(desired)?;
    let elapsed = begin.elapsed();
    while report.pending {
        report = balancer.reconcile(desired)?;
    }
    Ok(elapsed.as_secs_f64() * 1e3)
}

/// (place of the replica's address, weight) of each replica.
fn plain() -> Vec<(u32, u16)> {
    (0..REPLICAS).map(|place| (place, 1)).collect()
}

fn service(number: u32, replicas: &[(u32, u16)]) -> Arc<Service> {
    let replica = |(place, weight): &(u32, u16)| Replica {
        addresses: [IpAddr::V4(Ipv4Addr::from_bits(0x0a80_0000 + number * 16 + place))].into(),
        weight: *weight,
        state: ReplicaState::Serving,
    };
    Arc::new(Service {
        name: format!("bench/service-{number:05}"),
        vips: vec![IpAddr::V4(Ipv4Addr::from_bits(0x0a60_0001 + number))],
        ports: Vec::new(),
        replicas: replicas.iter().map(replica).collect(),
    })
}

fn desired(count: u32) -> Desired {
    let (first, last) = ([10, 96, 0, 0].into(), [10, 111, 255, 255].into());
    let ranges = vec![VipRange { first, last, own: [10, 80, 0, 2].into() }];
    let services = (0..count).map(|number| service(number, &plain())).collect();
    let peers = vec![AddressRange { first: [10, 128, 0, 0].into(), last: [10, 255, 255, 255].into() }];
    Desired { redirects: Vec::new(), ranges, peers, services }
}
