//! Which objects fail on this host, since when, and why. Errors end here, not in a log alone.
use std::collections::BTreeMap;
use std::time::Instant;

use crate::api::types::Problem;

/// Problems named at once; more are counted in one line.
const NAMED: usize = 256;

/// Failing objects by name.
#[derive(Debug, Default)]
pub struct Problems {
    open: BTreeMap<String, Open>,
}

#[derive(Debug)]
struct Open {
    error: String,
    since: Instant,
    attempts: u64,
}

/// What a round of attempts changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Objects that began to fail, or fail in another way: (object, error).
    pub began: Vec<(String, String)>,
    /// Objects that work again.
    pub ended: Vec<String>,
}

impl Problems {
    /// Replaces what is known of the objects below `scope` (a prefix of object names) by what the last round found.
    pub fn replace(&mut self, scope: &str, found: Vec<(String, String)>, now: Instant) -> Difference {
        let mut difference = Difference::default();
        let found: BTreeMap<String, String> = found.into_iter().collect();
        self.open.retain(|object, _| {
            let stays = !object.starts_with(scope) || found.contains_key(object);
            if !stays {
                difference.ended.push(object.clone());
            }
            stays
        });
        for (object, error) in found {
            match self.open.get_mut(&object) {
                Some(open) => {
                    open.attempts += 1;
                    if open.error != error {
                        open.error.clone_from(&error);
                        difference.began.push((object, error));
                    }
                }
                None => {
                    self.open.insert(object.clone(), Open { error: error.clone(), since: now, attempts: 1 });
                    difference.began.push((object, error));
                }
            }
        }
        difference
    }

    /// What is known of one object that nobody tries again and again; `None` ends it.
    pub fn set(&mut self, object: String, error: Option<String>, now: Instant) {
        match error {
            None => drop(self.open.remove(&object)),
            Some(error) => {
                let fresh = Open { error: String::new(), since: now, attempts: 0 };
                self.open.entry(object).or_insert(fresh).error = error;
            }
        }
    }

    /// How many objects fail.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether nothing fails.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// The failing objects that `concerns` picks.
    pub fn list(&self, concerns: impl Fn(&str) -> bool, now: Instant) -> Vec<Problem> {
        let picked = || self.open.iter().filter(|(object, _)| concerns(object));
        let mut listed: Vec<Problem> = picked()
            .take(NAMED)
            .map(|(object, open)| Problem {
                object: object.clone(),
                error: open.error.clone(),
                seconds: now.saturating_duration_since(open.since).as_secs(),
                attempts: open.attempts,
            })
            .collect();
        if let Some(more) = picked().count().checked_sub(NAMED).filter(|more| *more > 0) {
            let error = format!("{more} more objects fail");
            listed.push(Problem { object: "…".to_owned(), error, seconds: 0, attempts: 0 });
        }
        listed
    }
}

/// Whether a failing object keeps a network's facts from being in force on a host: the network itself, somebody to be
/// reached through it, or a service of it. A broken container of that host is that host's own affair.
pub fn hinders(network: &str, object: &str) -> bool {
    let Some(rest) = object.strip_prefix("network/").and_then(|rest| rest.strip_prefix(network)) else {
        return false;
    };
    rest.is_empty() || rest.starts_with("/remote/") || rest.starts_with("/service/")
}

/// Whether an object is `base` or a part of it.
pub fn is_within(base: &str, object: &str) -> bool {
    object.strip_prefix(base).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(object, error)| ((*object).to_owned(), (*error).to_owned())).collect()
    }

    #[test]
    fn a_problem_begins_once_keeps_its_age_and_ends() {
        let start = Instant::now();
        let later = start + std::time::Duration::from_secs(9);
        let mut problems = Problems::default();
        let first = problems.replace("overlay/", found(&[("overlay/a", "EBUSY")]), start);
        assert_eq!(first.began.len(), 1);
        assert_eq!(
            problems.replace("overlay/", found(&[("overlay/a", "EBUSY")]), later),
            Difference::default()
        );
        assert_eq!(problems.list(|_| true, later)[0].seconds, 9);
        assert_eq!(problems.list(|_| true, later)[0].attempts, 2);
        assert_eq!(problems.replace("overlay/", vec![], later).ended, ["overlay/a"]);
        assert!(problems.is_empty());
    }

    #[test]
    fn a_name_that_begins_alike_is_another_object() {
        assert!(is_within("network/n/attachment/web", "network/n/attachment/web/balancer"));
        assert!(!is_within("network/n/attachment/web", "network/n/attachment/web-1"));
        assert!(hinders("n", "network/n") && hinders("n", "network/n/remote/02:42"));
        assert!(!hinders("n", "network/n2") && !hinders("n", "network/n/attachment/web/balancer"));
    }

    #[test]
    fn what_is_set_keeps_its_age_under_another_error_and_hinders_nobody() {
        let (start, object) = (Instant::now(), "replica/n/web/c1".to_owned());
        let later = start + std::time::Duration::from_secs(9);
        let mut problems = Problems::default();
        problems.set(object.clone(), Some("refused".to_owned()), start);
        problems.set(object.clone(), Some("it answered 503".to_owned()), later);
        problems.replace("network/", Vec::new(), later);
        let listed = problems.list(|_| true, later);
        assert_eq!((listed[0].seconds, listed[0].error.as_str()), (9, "it answered 503"));
        assert!(!hinders("n", &object));
        problems.set(object, None, later);
        assert!(problems.is_empty());
    }

    #[test]
    fn one_scope_does_not_end_anothers_problems() {
        let mut problems = Problems::default();
        problems.replace("overlay/", found(&[("overlay/a", "x")]), Instant::now());
        problems.replace("balancer/", found(&[]), Instant::now());
        assert_eq!(problems.len(), 1);
    }
}
