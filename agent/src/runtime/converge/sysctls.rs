//! The host's sysctls as they were before we changed them: kept over restarts, put back by `leave`.
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::runtime::agent::Agent;
use crate::store::{Store, StoreError, Writes};

/// Where in the store.
pub(super) const KEY: &str = "sysctls";

/// For the overlay, which asks before it changes any.
pub(super) fn journal(
    agent: Arc<Agent>,
) -> impl FnMut(&BTreeMap<String, String>) -> io::Result<()> + Send + Sync + 'static {
    move |now| keep(&agent.store, now).map_err(io::Error::other)
}

/// What an earlier agent has found stays: what is there now it may have written.
fn keep(store: &Store, now: &BTreeMap<String, String>) -> Result<(), StoreError> {
    let mut kept: BTreeMap<String, String> = store.meta(KEY)?.unwrap_or_default();
    let known = kept.len();
    for (key, value) in now {
        kept.entry(key.clone()).or_insert_with(|| value.clone());
    }
    if kept.len() == known {
        return Ok(());
    }
    let mut writes = Writes::default();
    writes.put_meta(KEY, &kept)?;
    store.commit(&writes, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_first_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let of = |value: &str, keys: &[&str]| -> BTreeMap<String, String> {
            keys.iter().map(|key| ((*key).to_owned(), value.to_owned())).collect()
        };
        keep(&store, &of("0", &["a"])).unwrap();
        keep(&store, &of("1", &["a", "b"])).unwrap();
        let kept: BTreeMap<String, String> = store.meta(KEY).unwrap().unwrap();
        assert_eq!((kept["a"].as_str(), kept["b"].as_str()), ("0", "1"));
    }
}
