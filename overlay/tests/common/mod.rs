//! What the tests that run on the fake and on the real kernel alike share.
#![allow(dead_code)] // Each test binary uses its part.
pub(crate) mod namespace;
pub(crate) mod seen;

use std::path::Path;
use std::sync::Arc;

use overlay::{Desired, FakeKernel, Kernel, LinuxKernel, Phase, Reconciler, Report, Space};

use namespace::Namespace;

/// A kernel that can be given namespaces, each as [`FakeKernel::insert`] describes it.
pub(crate) trait Machine: Kernel {
    fn new() -> Self;
    fn make(&self, space: Space);
}

impl Machine for FakeKernel {
    fn new() -> Self {
        Self::new()
    }

    fn make(&self, space: Space) {
        self.insert(space);
    }
}

impl Machine for LinuxKernel {
    fn new() -> Self {
        Self::new()
    }

    /// A new namespace, which goes with this kernel. Some of its sysctls are the machine's own, so they are set.
    fn make(&self, space: Space) {
        let namespace = Namespace::new();
        for key in
            ["all/rp_filter", "all/arp_ignore", "all/promote_secondaries", "default/promote_secondaries"]
        {
            namespace.set_sysctl(&format!("net/ipv4/conf/{key}"), "0");
        }
        for key in ["all/send_redirects", "default/send_redirects"] {
            namespace.set_sysctl(&format!("net/ipv4/conf/{key}"), "1");
        }
        println!("{space}: {}", namespace.look());
        self.insert(space, namespace.handles());
    }
}

/// Whether the real kernel can be tried here. If not, the test is skipped by name, and fails in CI.
pub(crate) fn has_kernel(test: &str) -> bool {
    let missing = if let Err(error) = Namespace::try_new() {
        format!("a network namespace of its own: {error}")
    } else if !Path::new("/proc/sys/net/bridge").exists() {
        "the module br_netfilter".to_owned()
    } else {
        return true;
    };
    assert!(
        std::env::var_os("CI").is_none_or(|ci| ci != "true"),
        "{test}: in CI it must run, but lacks {missing}"
    );
    eprintln!("skipped {test}: it lacks {missing}");
    false
}

/// One call of each phase.
pub(crate) async fn both_phases<K: Kernel>(reconciler: &mut Reconciler<K>, desired: &Desired) -> Report {
    let mut report = reconciler.reconcile(desired, Phase::Additions).await;
    let removals = reconciler.reconcile(desired, Phase::Removals).await;
    report.problems.extend(removals.problems);
    report.operations += removals.operations;
    report
}

/// Runs a test that waits for netlink answers.
pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

pub(crate) fn machine<M: Machine>(spaces: impl IntoIterator<Item = Space>) -> Arc<M> {
    let machine = Arc::new(M::new());
    spaces.into_iter().for_each(|space| machine.make(space));
    machine
}
