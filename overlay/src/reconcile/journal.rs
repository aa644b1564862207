//! What the host's sysctls were before we change them, kept before it happens.
use std::collections::BTreeMap;
use std::fmt;
use std::io;

use super::Reconciler;
use crate::op::Step;
use crate::{Kernel, Op, Problem, Space};

/// Makes durable what sysctls were; an error keeps them from being changed.
type Keep = Box<dyn FnMut(&BTreeMap<String, String>) -> io::Result<()> + Send + Sync>;

/// Where it is kept over restarts; nowhere unless somebody says.
#[derive(Default)]
pub(super) struct Journal(Option<Keep>);

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Journal" } else { "no Journal" })
    }
}

impl<K> Reconciler<K> {
    /// Has `keep` make durable what host's sysctls are, all that are to be changed at once, before any of them is. A
    /// later process sees our values, and would take them for what it found. After an error they stay as they are,
    /// which is a problem of the host, and it is tried again.
    #[must_use]
    pub fn journal(
        mut self,
        keep: impl FnMut(&BTreeMap<String, String>) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        self.journal = Journal(Some(Box::new(keep)));
        self
    }
}

impl<K: Kernel> Reconciler<K> {
    /// Keeps what the host's sysctls are that these steps change for the first time.
    pub(super) fn keep_before(&mut self, steps: &[Step]) -> io::Result<()> {
        let Some(host) = self.world.spaces.get(&Space::Host) else { return Ok(()) };
        let keys = steps.iter().filter_map(host_sysctl).filter(|key| !self.before.contains_key(*key));
        let now = keys.filter_map(|key| Some((key.to_owned(), host.sysctls.get(key)?.clone())));
        let new: BTreeMap<String, String> = now.collect();
        if new.is_empty() {
            return Ok(());
        }
        if let Journal(Some(keep)) = &mut self.journal {
            keep(&new)?;
        }
        self.before.extend(new);
        Ok(())
    }

    /// Why a step must not be done, if what it changes could not be kept.
    pub(super) fn unkept(&self, step: &Step, kept: &io::Result<()>) -> Option<Problem> {
        let (Err(error), Some(key)) = (kept, host_sysctl(step)) else { return None };
        (!self.before.contains_key(key)).then(|| Problem {
            object: step.object.clone(),
            operation: step.op.to_string(),
            errno: error.raw_os_error(),
            error: format!("it stays as it is, because that cannot be kept: {error}"),
        })
    }
}

fn host_sysctl(step: &Step) -> Option<&str> {
    match &step.op {
        Op::SetSysctl { key, .. } if step.space == Space::Host => Some(key),
        _ => None,
    }
}
