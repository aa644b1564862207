use super::*;

const NODE: NodeId = NodeId(2);
const TICK: Duration = Duration::from_millis(100);
const FAILURE: Duration = Duration::from_millis(3_500);

struct Bench {
    liveness: Liveness,
    now: Instant,
    beat: Beat,
}

impl Bench {
    fn new() -> Self {
        let liveness = Liveness::new(FAILURE, Duration::from_millis(200));
        Self { liveness, now: Instant::now(), beat: Beat { incarnation: 1, heartbeat: 1 } }
    }

    fn observe(&mut self) {
        self.liveness.observe(self.now, [(NODE, self.beat)]);
    }

    /// Runs for a time, the host's heartbeat growing with each look or standing still.
    fn run(&mut self, time: Duration, beating: bool) {
        let end = self.now + time;
        while self.now < end {
            self.now += TICK;
            self.beat.heartbeat += u64::from(beating);
            self.observe();
        }
    }

    fn live(&self) -> bool {
        self.liveness.state(NODE).is_some_and(|(live, _)| live)
    }

    fn beating() -> Self {
        let mut bench = Self::new();
        bench.run(Duration::from_secs(2), true);
        assert!(bench.live());
        bench
    }
}

#[test]
fn a_heartbeat_that_stands_still_was_never_live() {
    let mut bench = Bench::new();
    bench.run(Duration::from_secs(10), false);
    assert!(!bench.live());
}

#[test]
fn three_seconds_of_silence_change_nothing_and_death_is_noticed_within_five() {
    let mut bench = Bench::beating();
    bench.run(Duration::from_secs(3), false);
    assert!(bench.live());
    bench.run(Duration::from_secs(1), true);
    let dead = bench.now;
    while bench.live() {
        bench.run(TICK, false);
    }
    assert_eq!(bench.now - dead, FAILURE);
}

#[test]
fn a_restart_of_two_seconds_is_not_seen() {
    let mut bench = Bench::beating();
    let (_, since) = bench.liveness.state(NODE).unwrap();
    bench.run(Duration::from_secs(2), false);
    bench.beat = Beat { incarnation: 2, heartbeat: 1 };
    for _ in 0..40 {
        bench.run(TICK, true);
        assert_eq!(bench.liveness.state(NODE), Some((true, since)));
    }
}

#[test]
fn a_frame_of_its_own_revives_at_once() {
    let mut bench = Bench::beating();
    bench.run(Duration::from_secs(5), false);
    assert!(!bench.live());
    bench.liveness.heard(bench.now, NODE, 1);
    assert!(bench.live());
    bench.run(TICK, false);
    assert!(bench.live());
}

#[test]
fn old_news_of_a_dead_host_do_not_revive_it_and_new_ones_do_soon() {
    let mut bench = Bench::beating();
    bench.run(Duration::from_secs(5), false);
    // Two peers come back from the other side of a partition and know a later, also final heartbeat each.
    for _ in 0..2 {
        bench.run(TICK, true);
    }
    bench.run(Duration::from_secs(5), false);
    assert!(!bench.live());
    bench.run(Duration::from_millis(300), true);
    assert!(bench.live());
}

#[test]
fn peers_are_not_blamed_for_our_own_pause() {
    let mut bench = Bench::beating();
    bench.now += Duration::from_secs(60);
    bench.observe();
    assert!(bench.live());
    bench.run(Duration::from_secs(3), false);
    assert!(bench.live());
    bench.run(Duration::from_secs(1), false);
    assert!(!bench.live());
}

#[test]
fn a_goodbye_is_final_for_its_incarnation() {
    let mut bench = Bench::beating();
    bench.liveness.left(bench.now, NODE, 1);
    assert!(!bench.live());
    bench.liveness.heard(bench.now, NODE, 1);
    bench.run(Duration::from_secs(2), true);
    assert!(!bench.live());
    bench.liveness.heard(bench.now, NODE, 2);
    assert!(bench.live());
    bench.liveness.left(bench.now, NODE, 1);
    assert!(bench.live(), "a goodbye of an earlier incarnation");
}

#[test]
fn an_old_incarnation_is_no_news() {
    let mut bench = Bench::beating();
    bench.liveness.heard(bench.now, NODE, 3);
    bench.run(Duration::from_secs(5), true);
    assert!(!bench.live());
    bench.liveness.heard(bench.now, NODE, 2);
    assert!(!bench.live());
}
