//! Token buckets: how often strangers are answered.
use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Instant;

/// Sources that are told apart; above it, sources that have been quiet are dropped, then new ones refused.
const SOURCES_MAX: usize = 1_024;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    filled: Instant,
}

impl Bucket {
    fn full(now: Instant, rate: f64) -> Self {
        Self { tokens: rate.max(1.0), filled: now }
    }

    fn refill(&mut self, now: Instant, rate: f64) {
        let seconds = now.saturating_duration_since(self.filled).as_secs_f64();
        self.tokens = (self.tokens + seconds * rate).min(rate.max(1.0));
        self.filled = now;
    }
}

/// At most `all` events a second over all sources, and `each` of one source; a burst is one second's worth.
#[derive(Debug)]
pub(super) struct Limiter {
    all: f64,
    each: f64,
    global: Bucket,
    sources: HashMap<IpAddr, Bucket>,
}

impl Limiter {
    pub(super) fn new(now: Instant, all: f64, each: f64) -> Self {
        Self { all, each, global: Bucket::full(now, all), sources: HashMap::new() }
    }

    /// Whether one more event of this source is within both rates; counts it if so.
    pub(super) fn allow(&mut self, now: Instant, source: IpAddr) -> bool {
        self.global.refill(now, self.all);
        if self.global.tokens < 1.0 {
            return false;
        }
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            let each = self.each;
            self.sources.retain(|_, bucket| {
                bucket.refill(now, each);
                bucket.tokens < each.max(1.0)
            });
            if self.sources.len() >= SOURCES_MAX {
                return false;
            }
        }
        let bucket = self.sources.entry(source).or_insert_with(|| Bucket::full(now, self.each));
        bucket.refill(now, self.each);
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        self.global.tokens -= 1.0;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_rates_hold() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start, 10.0, 1.0);
        let source = |n: u32| IpAddr::V4(Ipv4Addr::from(n));
        assert!(limiter.allow(start, source(1)));
        assert!(!limiter.allow(start, source(1)));
        let allowed = (2..100).filter(|n| limiter.allow(start, source(*n))).count();
        assert_eq!(allowed, 9);
        assert!(limiter.allow(start + Duration::from_secs(1), source(1)));
    }

    #[test]
    fn sources_are_bounded() {
        let start = Instant::now();
        let mut limiter = Limiter::new(start, 1e9, 1.0);
        for n in 0..10_000 {
            limiter.allow(start, IpAddr::V4(Ipv4Addr::from(n)));
        }
        assert_eq!(limiter.sources.len(), SOURCES_MAX);
        assert!(limiter.allow(start + Duration::from_secs(2), IpAddr::V4(Ipv4Addr::from(20_000))));
    }
}
