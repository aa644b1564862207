//! What goes wrong while operators work: cuts of one direction, partitions, loss, crashes, stops, full disks.
use std::rc::Rc;

use super::cluster::Cluster;

/// Faults come this long after each other, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 100..1_200;
/// From when to when a host is away whose attachments are to be taken over, in milliseconds.
const AWAY_FROM_MS: u64 = 4_000;
const AWAY_MS: u64 = 8_000;
/// The host of tasks that are no host's.
pub(super) const NOBODY: usize = usize::MAX;

impl Cluster {
    /// Inflicts faults until a time.
    pub(super) async fn suffer(self: Rc<Self>, until_ms: u64) {
        loop {
            let pause_ms = self.random.borrow_mut().between(PAUSE_MS);
            // With a fault a second hardly anything has a majority while a host is away.
            let times = if self.long_away.get() { 4 } else { 1 };
            self.clock.sleep(pause_ms * times).await;
            if self.clock.now_ms() >= until_ms {
                return;
            }
            let choice = self.random.borrow_mut().below(100);
            match choice {
                0..20 => self.cut_one_way(),
                20..32 => self.partition(),
                32..45 => self.lose(),
                45..62 => self.crash_for_a_while(false),
                62..78 => self.crash_for_a_while(true),
                78..92 => self.stop_for_a_while(),
                _ => self.fill_a_disk(),
            }
        }
    }

    fn some_host(&self) -> usize {
        self.random.borrow_mut().below(self.hosts.len())
    }

    fn time_ms(&self, longest_ms: u64) -> u64 {
        self.random.borrow_mut().between(50..longest_ms)
    }

    /// Some host is cut off, or down, so early and for so long that others hold it to be suspended while operators go on; its
    /// own operators go on as well while it is cut off.
    pub(super) fn take_somebody_away(self: &Rc<Self>) {
        let (away, down) = (self.some_host(), self.random.borrow_mut().chance(40));
        let cluster = Rc::clone(self);
        self.clock.after(AWAY_FROM_MS, move || {
            cluster.long_away.set(true);
            if down {
                cluster.crash(away, true);
                let again = Rc::clone(&cluster);
                return cluster.clock.after(AWAY_MS, move || again.start_again(away));
            }
            cluster.note(|| format!("host {away} is cut off for {AWAY_MS} ms"));
            let others = (0..cluster.hosts.len()).filter(|at| *at != away);
            let cuts: Vec<(usize, usize)> = others.flat_map(|at| [(at, away), (away, at)]).collect();
            cluster.network.borrow_mut().cut.extend(&cuts);
            let healed = Rc::clone(&cluster);
            cluster.clock.after(AWAY_MS, move || {
                healed.network.borrow_mut().cut.retain(|pair| !cuts.contains(pair));
            });
        });
    }

    fn cut_one_way(self: &Rc<Self>) {
        let (from, to, time_ms) = (self.some_host(), self.some_host(), self.time_ms(6_000));
        self.note(|| format!("nothing passes from host {from} to host {to} for {time_ms} ms"));
        self.network.borrow_mut().cut.insert((from, to));
        let cluster = Rc::clone(self);
        self.clock.after(time_ms, move || {
            cluster.network.borrow_mut().cut.remove(&(from, to));
        });
    }

    fn partition(self: &Rc<Self>) {
        let side: Vec<bool> = self.hosts.iter().map(|_| self.random.borrow_mut().chance(50)).collect();
        let time_ms = self.time_ms(7_000);
        self.note(|| format!("the cluster is cut in two for {time_ms} ms: {side:?}"));
        let all = (0..side.len()).flat_map(|from| (0..side.len()).map(move |to| (from, to)));
        let across: Vec<(usize, usize)> = all.filter(|(from, to)| side[*from] != side[*to]).collect();
        self.network.borrow_mut().cut.extend(&across);
        let cluster = Rc::clone(self);
        self.clock
            .after(time_ms, move || cluster.network.borrow_mut().cut.retain(|pair| !across.contains(pair)));
    }

    fn lose(self: &Rc<Self>) {
        let time_ms = self.time_ms(3_000);
        let (loss, duplicates, jitter) = {
            let mut random = self.random.borrow_mut();
            (random.between(0..40), random.between(0..10), random.between(0..150))
        };
        self.note(|| {
            format!("{loss} % are lost and {duplicates} % doubled for {time_ms} ms, up to {jitter} ms late")
        });
        let mut network = self.network.borrow_mut();
        (network.loss_percent, network.duplicate_percent, network.jitter_ms) = (loss, duplicates, jitter);
        let cluster = Rc::clone(self);
        self.clock.after(time_ms, move || {
            let mut network = cluster.network.borrow_mut();
            (network.loss_percent, network.duplicate_percent, network.jitter_ms) = (0, 0, 2);
        });
    }

    fn crash_for_a_while(self: &Rc<Self>, machine: bool) {
        let (at, time_ms) = (self.some_host(), self.time_ms(if machine { 9_000 } else { 2_000 }));
        if self.hosts[at].borrow().running.is_none() {
            return;
        }
        self.counts.borrow_mut().crashed += 1;
        self.crash(at, machine);
        let cluster = Rc::clone(self);
        self.clock.after(time_ms, move || cluster.start_again(at));
    }

    /// Unless it runs, or is not to come back.
    pub(super) fn start_again(self: &Rc<Self>, at: usize) {
        let wanted = {
            let host = self.hosts[at].borrow();
            host.running.is_none() && !host.ended && host.incarnation > 0
        };
        if wanted {
            self.start(at);
        }
    }

    fn stop_for_a_while(self: &Rc<Self>) {
        let (at, time_ms) = (self.some_host(), self.time_ms(3_400));
        self.note(|| format!("host {at} is stopped for {time_ms} ms"));
        self.clock.stop(at);
        let cluster = Rc::clone(self);
        self.clock.after(time_ms, move || cluster.clock.go_on(at));
    }

    fn fill_a_disk(self: &Rc<Self>) {
        let (at, time_ms) = (self.some_host(), self.time_ms(1_500));
        self.note(|| format!("the disk of host {at} is full for {time_ms} ms"));
        self.hosts[at].borrow_mut().disk.full = true;
        let cluster = Rc::clone(self);
        self.clock.after(time_ms, move || cluster.hosts[at].borrow_mut().disk.full = false);
    }

    /// Ends all faults: everything passes, and who is to come back is there.
    pub(super) fn heal(self: &Rc<Self>) {
        self.note(|| "all faults end".to_owned());
        self.network.borrow_mut().heal();
        for at in 0..self.hosts.len() {
            self.clock.go_on(at);
            self.hosts[at].borrow_mut().disk.full = false;
        }
        self.start_all_again();
    }

    /// Starts all that are down and are to come back.
    pub(super) fn start_all_again(self: &Rc<Self>) {
        (0..self.hosts.len()).for_each(|at| self.start_again(at));
    }
}
