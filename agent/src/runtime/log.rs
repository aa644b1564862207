//! The log: which lines are written, and how many.
//!
//! Levels: `error` is what somebody must look at, since it does not heal by itself or something is lost; `warn` is what fails
//! and is tried again, or is not as it was asked for; `info` is what changed, once each; `debug` is why, for one who looks for
//! a fault. What fails is told once when it begins and once when it ends, not at each try: `status` says how it stands.
//!
//! All the same a fault that nobody thought of may repeat a line without end. So a line is written [`SAME_BURST`] times at
//! once and then each [`SAME_EVERY`], and lines of one place in the program as `PLACE_…` say, whatever is in them. What was
//! left out is counted and told. `debug` and `trace` are asked for by somebody who wants them all.
use std::collections::HashMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::{LogFormat, Settings};
use crate::runtime::events::lock;

#[cfg(test)]
mod tests;

/// Lines that say the same of the same object, at once.
const SAME_BURST: u32 = 5;
/// And one more each.
const SAME_EVERY: Duration = Duration::from_secs(10);
/// Lines of one place in the program, at once.
const PLACE_BURST: u32 = 200;
/// And one more each.
const PLACE_EVERY: Duration = Duration::from_millis(100);
/// Lines that are told apart; while there are more, new ones count by their place alone.
const KINDS_MAX: usize = 1_024;
/// What was left out is said this often at most.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Kinds of lines that are named then.
const TOLD_MAX: usize = 20;
/// Characters of a line that are shown for those that were left out.
const EXCERPT: usize = 200;

/// Begins to log to standard error as the settings say. A second call in one process (tests) changes nothing.
pub fn begin(settings: &Settings) -> Limiter {
    // The DNS library logs every look-up at the level at which we log changes.
    let quiet = if settings.log.contains("hickory") { "" } else { ",hickory_server=warn" };
    let wanted = EnvFilter::new(format!("{}{quiet}", settings.log));
    let limiter = Limiter::default();
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines: Box<dyn Layer<Registry> + Send + Sync> = match settings.log_format {
        LogFormat::Json => lines.json().with_filter(limiter.clone()).boxed(),
        LogFormat::Text => {
            let coloured = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with_ansi(coloured).with_filter(limiter.clone()).boxed()
        }
    };
    drop(tracing_subscriber::registry().with(lines).with(wanted).try_init());
    limiter
}

/// Lets lines pass as long as they are not too many.
#[derive(Clone, Debug, Default)]
pub struct Limiter(Arc<Mutex<Kinds>>);

impl Limiter {
    /// Says of which lines some were left out since the last time. To be called about once a second.
    pub fn tell(&self, now: Instant) {
        let left_out = lock(&self.0).take_left_out(now);
        for (count, line) in left_out {
            tracing::warn!(target: TARGET, count, "lines like this one were left out of the log: {line}");
        }
    }
}

/// Of the limiter's own lines, which are few by themselves.
const TARGET: &str = "agent::log";

impl<S: Subscriber> Filter<S> for Limiter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || metadata.target() == TARGET {
            return true;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let place = hash(&metadata.callsite());
        lock(&self.0).admit(Instant::now(), place, text.0)
    }
}

/// A line's fields.
#[derive(Default)]
struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let separator = if self.0.is_empty() { "" } else { " " };
        // A String takes everything.
        let _ = match field.name() {
            "message" => write!(self.0, "{separator}{value:?}"),
            name => write!(self.0, "{separator}{name}={value:?}"),
        };
    }
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Kinds of lines: each place in the program, and each line that it writes.
#[derive(Debug, Default)]
struct Kinds {
    places: HashMap<u64, Kind>,
    lines: HashMap<u64, Kind>,
    /// When it was last said what was left out.
    told: Option<Instant>,
}

#[derive(Debug)]
struct Kind {
    /// Lines that may still pass.
    tokens: u32,
    /// When the last token came.
    filled: Instant,
    left_out: u64,
    excerpt: String,
}

impl Kind {
    fn take(&mut self, now: Instant, burst: u32, every: Duration) -> bool {
        let missing = burst - self.tokens;
        let waited = now.saturating_duration_since(self.filled);
        let come = u32::try_from(waited.as_millis() / every.as_millis().max(1)).unwrap_or(u32::MAX);
        if come >= missing {
            (self.tokens, self.filled) = (burst, now);
        } else {
            self.tokens += come;
            self.filled += every * come;
        }
        let passes = self.tokens > 0;
        self.tokens = self.tokens.saturating_sub(1);
        passes
    }
}

impl Kinds {
    /// Whether one more such line is written; it is counted if not.
    fn admit(&mut self, now: Instant, place: u64, text: String) -> bool {
        let line = hash(&(place, &text));
        if self.lines.len() >= KINDS_MAX && !self.lines.contains_key(&line) {
            self.lines.retain(|_, kind| {
                // Else it may be written as often as a new one.
                kind.left_out > 0 || now.saturating_duration_since(kind.filled) < SAME_EVERY * SAME_BURST
            });
        }
        let new = |tokens| Kind { tokens, filled: now, left_out: 0, excerpt: String::new() };
        // Places are as many as the program has.
        let of_place = self.places.entry(place).or_insert_with(|| new(PLACE_BURST));
        let room = self.lines.len() < KINDS_MAX || self.lines.contains_key(&line);
        let of_line = room.then(|| self.lines.entry(line).or_insert_with(|| new(SAME_BURST)));
        let repeats = |kind: &mut Kind| !kind.take(now, SAME_BURST, SAME_EVERY);
        // The line first: one that repeats itself takes no room of others of its place.
        let (passes, counted) = match of_line.map(|kind| (repeats(kind), kind)) {
            Some((true, of_line)) => (false, of_line),
            _ => (of_place.take(now, PLACE_BURST, PLACE_EVERY), of_place),
        };
        if !passes {
            counted.left_out += 1;
            counted.excerpt = text.chars().take(EXCERPT).collect();
        }
        passes
    }

    /// Of which lines how many were left out, if it is time to say so: those most often, and the others in one line.
    fn take_left_out(&mut self, now: Instant) -> Vec<(u64, String)> {
        if self.told.is_some_and(|told| now.saturating_duration_since(told) < TELL_EVERY) {
            return Vec::new();
        }
        let all = self.places.values_mut().chain(self.lines.values_mut()).filter(|kind| kind.left_out > 0);
        let mut left_out: Vec<(u64, String)> =
            all.map(|kind| (std::mem::take(&mut kind.left_out), std::mem::take(&mut kind.excerpt))).collect();
        if !left_out.is_empty() {
            self.told = Some(now);
        }
        left_out.sort_by(|one, other| other.cmp(one));
        let others = left_out.split_off(left_out.len().min(TOLD_MAX));
        if !others.is_empty() {
            let kinds = others.len();
            left_out.push((others.into_iter().map(|it| it.0).sum(), format!("(of {kinds} further kinds)")));
        }
        left_out
    }
}
