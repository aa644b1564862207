//! A cluster of more hosts than one process may have files for: each process has a part of them.
//!
//! Each host has a connection to and from each other one, so 300 of them need 180,000 files, and a process may often have no
//! more than 20,000. The parts are started by the bench, told what to do by lines of JSON, and end with it.
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use agent::model::{Head, NodeId};
use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use tests::simulated::{Nature, Simulated};

use crate::machine;

/// Hosts of one part that join at one time: they claim their node numbers from each other.
const JOINING_AT_ONCE: u32 = 3;

/// What a part is told.
#[derive(Debug, Serialize, Deserialize)]
enum Order {
    /// So many hosts more; answered with nothing.
    Join(u32),
    /// Its hosts say what they have; answered with nothing.
    Fill,
    /// How far its hosts' own facts have come.
    Heads,
    /// Until its hosts know as much of all these; answered with nothing.
    Agree(BTreeMap<NodeId, Head>),
    /// What it uses in so many milliseconds.
    Use(u64),
}

/// What a part answers.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Done,
    Heads(BTreeMap<NodeId, Head>),
    Used(Used),
    Failed(String),
}

/// What the hosts of a part used in some time, and the memory that they have.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Used {
    /// Bytes.
    pub sent: u64,
    pub processor: Duration,
    /// Bytes.
    pub memory: u64,
}

/// Is a part: obeys until its input ends. The first one founds the cluster.
pub(crate) fn serve(before: u32, nature: Nature) -> Result<()> {
    let resident = machine::resident_bytes(None);
    let mut part = if before == 0 { Simulated::found(nature)? } else { Simulated::part(nature, before)? };
    for line in std::io::stdin().lines() {
        let order = serde_json::from_str(&line?)?;
        let answer =
            obey(&mut part, order, resident).unwrap_or_else(|error| Answer::Failed(format!("{error:#}")));
        println!("{}", serde_json::to_string(&answer)?);
    }
    Ok(())
}

fn obey(part: &mut Simulated, order: Order, resident: u64) -> Result<Answer> {
    match order {
        Order::Join(count) => part.join_at_once(count)?,
        Order::Fill => part.fill(0..part.len())?,
        Order::Heads => return Ok(Answer::Heads(part.heads())),
        Order::Agree(heads) => part.agree_on(&heads)?,
        Order::Use(milliseconds) => {
            let (sent, processor) = (part.bytes_sent(), machine::processor_time());
            // A parked thread may be woken early.
            part.runtime().block_on(async { tokio::time::sleep(Duration::from_millis(milliseconds)).await });
            return Ok(Answer::Used(Used {
                sent: part.bytes_sent() - sent,
                processor: machine::processor_time() - processor,
                memory: machine::resident_bytes(None).saturating_sub(resident),
            }));
        }
    }
    Ok(Answer::Done)
}

/// All parts of a cluster. Dropped, they are gone.
pub(crate) struct Crews(Vec<Crew>);

struct Crew {
    process: Child,
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Drop for Crew {
    fn drop(&mut self) {
        // It may have ended.
        let _ended = self.process.kill();
        let _reaped = self.process.wait();
    }
}

impl Crews {
    /// Starts a cluster of `parts` times `each` hosts, and returns when all have joined and said what they have.
    pub(crate) fn start(
        nature: Nature,
        parts: u32,
        each: u32,
        mut progress: impl FnMut(u32),
    ) -> Result<Self> {
        let mut crews = Self(Vec::new());
        for before in (0..parts).map(|part| part * each) {
            let mut crew = Crew::start(nature, before)?;
            let mut there = u32::from(before == 0);
            while there < each {
                let count = JOINING_AT_ONCE.min(each - there);
                crew.ask(&Order::Join(count)).and_then(done)?;
                there += count;
                progress(before + there);
            }
            // Who comes later takes it with everything else.
            crew.ask(&Order::Fill).and_then(done)?;
            crews.0.push(crew);
        }
        crews.agree()?;
        Ok(crews)
    }

    fn agree(&mut self) -> Result<()> {
        let mut heads = BTreeMap::new();
        for answer in self.all(&Order::Heads)? {
            let Answer::Heads(part) = answer else { anyhow::bail!("not heads: {answer:?}") };
            heads.extend(part);
        }
        self.all(&Order::Agree(heads))?.into_iter().try_for_each(done)
    }

    /// What all of them use in this time.
    pub(crate) fn used(&mut self, time: Duration) -> Result<Used> {
        let mut sum = Used::default();
        for answer in self.all(&Order::Use(u64::try_from(time.as_millis())?))? {
            let Answer::Used(used) = answer else { anyhow::bail!("not what was used: {answer:?}") };
            sum.sent += used.sent;
            sum.processor += used.processor;
            sum.memory += used.memory;
        }
        Ok(sum)
    }

    /// Tells all of them, and then hears all of them.
    fn all(&mut self, order: &Order) -> Result<Vec<Answer>> {
        for crew in &mut self.0 {
            crew.tell(order)?;
        }
        self.0.iter_mut().map(Crew::hear).collect()
    }
}

impl Crew {
    fn start(nature: Nature, before: u32) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--crew").arg(format!("{before},{},{}", nature.services, nature.slowed));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().context("cannot start a part of the cluster")?;
        let orders = process.stdin.take().context("no way to tell it")?;
        let answers = BufReader::new(process.stdout.take().context("no way to hear it")?);
        Ok(Self { process, orders, answers })
    }

    fn ask(&mut self, order: &Order) -> Result<Answer> {
        self.tell(order)?;
        self.hear()
    }

    fn tell(&mut self, order: &Order) -> Result<()> {
        let mut line = serde_json::to_string(order)?;
        line.push('\n');
        self.orders.write_all(line.as_bytes()).context("a part of the cluster has ended")
    }

    fn hear(&mut self) -> Result<Answer> {
        let mut line = String::new();
        ensure!(self.answers.read_line(&mut line)? > 0, "a part of the cluster has ended");
        match serde_json::from_str(&line).with_context(|| format!("not understood: {line}"))? {
            Answer::Failed(why) => anyhow::bail!("a part of the cluster: {why}"),
            answer => Ok(answer),
        }
    }
}

fn done(answer: Answer) -> Result<()> {
    ensure!(matches!(answer, Answer::Done), "not an answer to that: {answer:?}");
    Ok(())
}

/// The parts' only argument: how many hosts come before it, services of each host, how slowed they are.
pub(crate) fn nature(argument: &[u32]) -> Result<(u32, Nature)> {
    let &[before, services, slowed] = argument else { anyhow::bail!("three numbers are needed") };
    Ok((before, Nature { services, slowed }))
}
