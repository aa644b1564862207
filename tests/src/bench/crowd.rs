//! Made-up hosts that join the real ones and tell them of many services. They speak as agents do; nothing runs on them.
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use agent::bed::Bed;
use agent::catalog::facts::{Key, Value};
use agent::catalog::{Entry, Full, Update};
use agent::cluster::{self, Handler, KeyRing, Peer};
use agent::model::NodeId;
use agent::netns::Namespace;
use agent::runtime::messages::{Answer, Request};
use agent::view::scale::{self, Size};
use anyhow::{Context, Result, bail, ensure};

/// The bed's host that all of them are on.
const HOST: &str = "crowd";
/// How many, and the last byte of the first one's address.
const COUNT: u32 = 10;
const FIRST: u32 = 101;
/// Their node numbers begin after it.
const NUMBER_BASE: u32 = 100;
/// Pushing and loading 10,000 services of 10 replicas.
const LIMIT: Duration = Duration::from_secs(90);

/// The made-up hosts. Dropped, they are silent.
pub(crate) struct Crowd {
    jobs: tokio::sync::mpsc::UnboundedSender<Job>,
    told: u64,
}

type Job = (Vec<Full>, mpsc::SyncSender<Result<()>>);

impl Crowd {
    /// They join at the real hosts.
    pub(crate) fn start(bed: &mut Bed, key: &str) -> Result<Self> {
        let namespace = bed.host(HOST, format!("192.168.77.{FIRST}/24").parse()?)?;
        for last in FIRST + 1..FIRST + COUNT {
            let mut command = Command::new("ip");
            command.args(["addr", "add", &format!("192.168.77.{last}/24"), "dev", "eth0"]);
            ensure!(bed.output(HOST, command, LIMIT)?.status.success(), "the crowd has no addresses");
        }
        let keys = KeyRing::parse(key)?;
        let (jobs, inbox) = tokio::sync::mpsc::unbounded_channel();
        std::thread::Builder::new()
            .name("bench-crowd".to_owned())
            .spawn(move || live(&namespace, &keys, inbox))?;
        Ok(Self { jobs, told: 0 })
    }

    /// Tells the real hosts of so many services of 10 replicas in all, and waits until their kernels hold them.
    pub(crate) fn tell(&mut self, services: u32) -> Result<()> {
        self.tell_of(services, Size::LARGE.attachments)
    }

    /// The same with another number of attachments in all.
    pub(crate) fn tell_of(&mut self, services: u32, attachments: u32) -> Result<()> {
        self.told += 1;
        let (reply, answer) = mpsc::sync_channel(1);
        self.jobs
            .send((facts(services, attachments, self.told), reply))
            .ok()
            .context("the crowd has ended")?;
        answer.recv().context("the crowd has ended")?
    }
}

/// The thread of the crowd: its sockets, and those that it opens later, are in its namespace.
fn live(namespace: &Namespace, keys: &KeyRing, mut inbox: tokio::sync::mpsc::UnboundedReceiver<Job>) {
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let mut members = Vec::new();
            for index in 0..COUNT {
                members.push(cluster::Cluster::start(config(index, keys), Arc::new(Silent)).await?);
            }
            while let Some((facts, reply)) = inbox.recv().await {
                let _unheard = reply.send(push(&members, facts).await);
            }
            anyhow::Ok(())
        })
    };
    if let Err(error) = namespace.run(work).map_err(anyhow::Error::from).and_then(|result| result) {
        eprintln!("the made-up hosts cannot speak: {error:#}");
    }
}

fn config(index: u32, keys: &KeyRing) -> cluster::Config {
    let address = SocketAddr::new(address(index), cluster::PORT);
    cluster::Config {
        node: NodeId(u64::from(index) + 1),
        incarnation: 1,
        name: format!("crowd-{index}"),
        listen: address,
        advertise: address,
        seeds: vec!["192.168.77.1".to_owned()],
        keys: keys.clone(),
        gossip_interval: cluster::GOSSIP_INTERVAL,
        slowed: 1,
        failure_after: cluster::FAILURE_AFTER,
        max_incarnations: Default::default(),
        founder: None,
    }
}

fn address(index: u32) -> IpAddr {
    let last = u8::try_from(FIRST + index).unwrap_or(u8::MAX);
    Ipv4Addr::new(192, 168, 77, last).into()
}

async fn push(members: &[cluster::Cluster], facts: Vec<Full>) -> Result<()> {
    for (member, full) in members.iter().zip(facts) {
        let (owner, head) = (full.owner, full.head);
        let push = serde_json::to_vec(&Request::Push(Update::Full(full)))?;
        let milliseconds = u64::try_from(LIMIT.as_millis()).unwrap_or(u64::MAX);
        let wait = serde_json::to_vec(&Request::WaitApplied { owner, head, network: None, milliseconds })?;
        for last in 1..=3 {
            let to = SocketAddr::new(Ipv4Addr::new(192, 168, 77, last).into(), cluster::PORT);
            for request in [&push, &wait] {
                let reply = member.request(to, request.clone(), LIMIT).await?;
                match serde_json::from_slice(&reply.body)? {
                    Answer::Have(have) if have == head => {}
                    Answer::Applied { applied: true, .. } => {}
                    other => bail!("{to} answered {other:?}"),
                }
            }
        }
    }
    Ok(())
}

/// What the made-up hosts say: the synthetic cluster of the `derive` figure, moved to the addresses of this bed. The
/// network itself is defined by the real hosts.
fn facts(services: u32, attachments: u32, incarnation: u64) -> Vec<Full> {
    let size = Size { services, attachments, hosts: COUNT, ..Size::LARGE };
    let catalog = scale::catalog(size);
    let owners = catalog.owners().map(|(owner, state)| {
        let mut full = state.full(owner);
        full.head.incarnation = incarnation;
        full.entries = full.entries.into_iter().filter_map(moved).collect();
        full
    });
    owners.collect()
}

fn moved(mut entry: Entry) -> Option<Entry> {
    match (&entry.key, &mut entry.value) {
        (Key::Network { .. }, _) => return None,
        (_, Some(Value::Host(fact))) => {
            fact.address = address(fact.number - 1);
            fact.number += NUMBER_BASE;
        }
        (_, Some(Value::Service(definition))) => {
            // Behind the VIP blocks of the real hosts' node numbers.
            definition.vips.iter_mut().for_each(|vip| shift(vip, [10, 224, 0, 0], [10, 14, 64, 0]));
        }
        (_, Some(Value::Attachment(fact))) => {
            fact.addresses.iter_mut().for_each(|it| shift(it, [10, 0, 0, 0], [10, 1, 0, 0]));
        }
        (_, Some(Value::Replica(fact))) => {
            fact.addresses.iter_mut().for_each(|it| shift(it, [10, 0, 0, 0], [10, 1, 0, 0]));
        }
        _ => {}
    }
    Some(entry)
}

fn shift(address: &mut IpAddr, from: [u8; 4], to: [u8; 4]) {
    if let IpAddr::V4(four) = address {
        let offset = four.to_bits().saturating_sub(Ipv4Addr::from(from).to_bits());
        *address = Ipv4Addr::from_bits(Ipv4Addr::from(to).to_bits() + offset).into();
    }
}

/// Agrees to everything it understands and does nothing.
struct Silent;

#[async_trait::async_trait]
impl Handler for Silent {
    async fn handle(&self, _peer: Peer, request: Vec<u8>) -> Vec<u8> {
        let answer = match serde_json::from_slice::<Request>(&request) {
            Ok(Request::Push(Update::Full(full))) => Answer::Have(full.head),
            Ok(Request::Push(Update::Delta(delta))) => Answer::Have(delta.reaches()),
            Ok(Request::Sync { .. }) => Answer::Updates(Vec::new()),
            Ok(Request::WaitApplied { .. }) => Answer::Applied { applied: true, problems: Vec::new() },
            Ok(Request::Status) => Answer::Status { applied: Default::default(), problems: Vec::new() },
            Ok(_) => Answer::NotUnderstood("nothing runs here".to_owned()),
            Err(error) => Answer::NotUnderstood(error.to_string()),
        };
        serde_json::to_vec(&answer).unwrap_or_default()
    }
}
