use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::chart::{bars, columns, percentile, time};
use super::figures::Times;
use super::flows::Record;
use super::gap::{Attempt, Gap, gap, is_over, timeline};
use super::measure::{echo_request, is_reply};
use super::printer::Printer;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn attempt(at: u64, answer: Option<&str>) -> Attempt {
    Attempt { at: ms(at), answer: answer.map(str::to_owned) }
}

#[test]
fn bars_are_aligned_and_to_scale() {
    let counts = BTreeMap::from([("a".to_owned(), 500), ("long".to_owned(), 1), ("none".to_owned(), 0)]);
    let expected = "\
a     ##########    500  99.8 %
long  #               1   0.2 %
none                  0   0.0 %
";
    assert_eq!(bars(&counts, 10), expected);
    assert_eq!(bars(&BTreeMap::new(), 10), "");
}

#[test]
fn percentiles_are_by_nearest_rank() {
    let times: Vec<Duration> = (1..=200).map(ms).collect();
    assert_eq!((percentile(&times, 50), percentile(&times, 99)), (ms(100), ms(198)));
    assert_eq!((percentile(&times, 0), percentile(&times, 100)), (ms(1), ms(200)));
    assert_eq!(percentile(&[], 50), Duration::ZERO);
    let times = Times::of(vec![ms(3), ms(1), ms(2)]);
    assert_eq!((times.samples, times.median_us, times.p99_us), (3, 2_000, 3_000));
}

#[test]
fn times_have_three_digits() {
    let shown = [87, 999, 1_000, 1_615, 123_456, 999_999, 3_840_000]
        .map(|micros| time(Duration::from_micros(micros)));
    assert_eq!(shown, ["87 us", "999 us", "1 ms", "1.62 ms", "123 ms", "1000 ms", "3.84 s"]);
}

#[test]
fn columns_are_as_wide_as_their_widest_cell() {
    let rows = [["A", "B"], ["long", "x"]].map(|row| row.map(str::to_owned).to_vec());
    assert_eq!(columns(&rows), "A     B\nlong  x\n");
}

#[test]
fn a_gap_is_what_failed_after_the_failure_and_nothing_before() {
    let attempts = [
        attempt(0, None),
        attempt(900, Some("a")),
        attempt(1_000, None),
        attempt(1_600, Some("a")),
        attempt(1_270, None),
        attempt(1_800, Some("b")),
    ];
    let found = gap(&attempts, ms(1_000));
    let expected = Gap {
        gap_ms: 270,
        connections: 4,
        failed: 2,
        failed_by_slice: vec![1, 1, 0, 0],
        begun_by_slice: vec![1, 1, 1, 1],
    };
    assert_eq!(found, expected);
    assert_eq!(timeline(&found), [(ms(0), 1, 1), (ms(250), 1, 1), (ms(500), 0, 1)]);
    assert_eq!(gap(&attempts, ms(1_500)).gap_ms, 0);
    assert!(timeline(&gap(&attempts, ms(1_500))).is_empty());
}

#[test]
fn a_failure_is_over_after_a_time_of_answered_connections() {
    let over = |attempts: &[Attempt], settled| is_over(attempts, ms(1_000), ms(settled), ms(500), 2);
    let attempts = [attempt(1_200, None), attempt(1_500, Some("a")), attempt(1_650, Some("a"))];
    assert!(!over(&attempts, 1_699));
    assert!(over(&attempts, 1_700));
    assert!(!over(&attempts[..2], 1_700), "too few connections to say so");
    // Without one failed, the time counts from the failure.
    assert!(!over(&attempts[1..], 1_400));
    assert!(over(&attempts[1..], 1_500));
    assert!(!over(&[], 1_500));
    let before = [attempt(800, None), attempt(900, Some("a")), attempt(950, Some("a"))];
    assert!(!over(&before, 1_500), "answered before the failure");
}

#[test]
fn a_record_is_complete_up_to_the_oldest_connection_under_way() {
    let mut record = Record::default();
    for at in [10, 20, 30] {
        record.begun(ms(at));
    }
    assert_eq!(record.settled(), ms(10));
    record.ended(attempt(20, Some("a")));
    assert_eq!(record.settled(), ms(10));
    record.ended(attempt(10, None));
    assert_eq!(record.settled(), ms(30));
    record.ended(attempt(30, Some("a")));
    record.begun(ms(2_000));
    assert_eq!((record.settled(), record.attempts.len()), (ms(2_000), 3));
}

#[test]
fn echo_requests_add_up_and_only_their_reply_is_taken() {
    let request = echo_request(0xbeef);
    let sum: u32 = request.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
    let from = Ipv4Addr::new(10, 0, 0, 1);
    let mut reply = vec![0x45; 20];
    reply[12..16].copy_from_slice(&from.octets());
    reply.extend(request);
    assert!(!is_reply(&reply, from, 0xbeef), "our own request");
    reply[20] = 0;
    assert!(is_reply(&reply, from, 0xbeef));
    assert!(!is_reply(&reply, from, 0xbeee));
    assert!(!is_reply(&reply, Ipv4Addr::new(10, 0, 0, 2), 0xbeef));
    for length in 0..26 {
        assert!(!is_reply(&reply[..length], from, 0xbeef));
    }
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_story_has_numbered_steps_and_colour_only_where_asked() {
    let print = |colour| {
        let page = Page::default();
        let mut printer = Printer::new(Box::new(page.clone()), colour);
        printer.step("First");
        printer.command("h1", "svc-agent node ls");
        printer.output("one\ntwo\n");
        String::from_utf8(page.0.lock().unwrap().clone()).unwrap()
    };
    assert_eq!(print(false), "\n1. First\n--------\n  h1$ svc-agent node ls\n      one\n      two\n");
    assert!(print(true).contains("\x1b[1m  h1$ svc-agent node ls\x1b[0m\n"));
}
