use super::*;

/// What of so many lines passes, from `begin` on, one each `every`.
fn passed(
    kinds: &mut Kinds,
    begin: Instant,
    (count, every): (u32, Duration),
    line: impl Fn(u32) -> String,
) -> u32 {
    let admitted = (0..count).filter(|n| kinds.admit(begin + every * *n, 1, line(*n)));
    u32::try_from(admitted.count()).unwrap()
}

#[test]
fn a_line_that_repeats_is_written_a_few_times_and_then_now_and_then() {
    let (mut kinds, begin) = (Kinds::default(), Instant::now());
    let storm = (10_000, Duration::from_millis(1));
    let same = |_| "network/a fails: no space".to_owned();
    assert_eq!(passed(&mut kinds, begin, storm, same), SAME_BURST);
    assert!(kinds.admit(begin + SAME_EVERY, 1, same(0)), "one more has come by then");
    let told = kinds.take_left_out(begin + SAME_EVERY);
    assert_eq!(told, [(10_000 - u64::from(SAME_BURST), same(0))]);
    assert!(kinds.take_left_out(begin + SAME_EVERY * 2).is_empty(), "nothing more was left out");
}

#[test]
fn a_line_that_repeats_takes_no_room_of_others() {
    let (mut kinds, begin) = (Kinds::default(), Instant::now());
    passed(&mut kinds, begin, (10_000, Duration::ZERO), |_| "network/a fails".to_owned());
    let others = (100, Duration::from_millis(1));
    assert_eq!(passed(&mut kinds, begin, others, |n| format!("network/{n} fails")), 100);
}

#[test]
fn lines_of_one_place_and_kinds_of_lines_are_bounded() {
    let (mut kinds, begin) = (Kinds::default(), Instant::now());
    let different = |n| format!("frame from port {n}");
    let at_once = passed(&mut kinds, begin, (100_000, Duration::ZERO), different);
    assert_eq!(at_once, PLACE_BURST);
    assert!(kinds.lines.len() <= KINDS_MAX);
    let told = kinds.take_left_out(begin);
    assert_eq!(told.iter().map(|it| it.0).sum::<u64>(), 100_000 - u64::from(PLACE_BURST));
    assert!(told.len() <= TOLD_MAX + 1);
    let later = begin + SAME_EVERY * (SAME_BURST + 1);
    assert!(kinds.admit(later, 1, different(200_000)), "room comes back");
    assert!(kinds.lines.len() < KINDS_MAX);
}

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        lock(&self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_storm_leaves_few_lines_and_says_how_many_it_had() {
    let (kept, limiter) = (Kept::default(), Limiter::default());
    let (writer, filter) = (kept.clone(), limiter.clone());
    let lines =
        tracing_subscriber::fmt::layer().json().with_writer(move || writer.clone()).with_filter(filter);
    tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), || {
        for _ in 0..5_000 {
            tracing::warn!(object = "network/a", "no space");
            tracing::debug!(object = "network/a", "tried again");
        }
        tracing::warn!(object = "network/b", "no space");
        limiter.tell(Instant::now());
    });
    let text = String::from_utf8(lock(&kept.0).clone()).unwrap();
    let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    let written = text.lines().filter(|it| it.contains("\"WARN\"") && it.contains("\"network/a\"")).count();
    assert_eq!(written, 5, "of 5,000");
    assert!(count("network/b") == 1, "another object's line is there");
    assert_eq!(count("tried again"), 5_000, "who asks for debug has it all");
    let told: Vec<&str> = text.lines().filter(|line| line.contains("were left out")).collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("4995") && told[0].contains("no space"), "{told:?}");
}
