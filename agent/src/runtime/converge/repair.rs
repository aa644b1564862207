//! The overlay's part of a round, and what brings back what somebody else has changed.
//!
//! Each namespace is listened to; when something changes in one, it is read again at its pace and repaired. What no event
//! tells (most sysctls, legacy iptables) the slow check finds.
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use overlay::{Look, Phase, Report, Space};

use super::{Converger, OVERLAY_CHECK, OVERLAY_PARTS};
use crate::runtime::local::list_of;
use crate::runtime::metrics::raise;
use crate::runtime::port_holder;

/// What stands in the error of a port that somebody else has.
pub(super) const TAKEN: &str = "has the port";

impl Converger {
    /// Has the overlay read again what was touched and whose turn it is; those namespaces.
    pub(super) fn look_again(&mut self, desired: &overlay::Desired) -> BTreeMap<Space, Look> {
        let looks = self.agent.touched.take_due(&self.pace, Instant::now());
        if !looks.is_empty() {
            self.overlay.look_again(desired, looks.iter().map(|(space, look)| (space, *look)));
        }
        looks
    }

    /// The looks of a round that began at `began` are over.
    pub(super) fn note_looks(&mut self, looks: BTreeMap<Space, Look>, began: Instant) {
        if looks.is_empty() {
            return;
        }
        let now = Instant::now();
        for space in looks.into_keys() {
            self.pace.note(space, now, now.duration_since(began));
        }
        let open: BTreeSet<Space> = overlay::Kernel::spaces(self.overlay.kernel()).into_iter().collect();
        self.pace.keep(|space| open.contains(space));
        self.count_drops();
    }

    pub(super) async fn overlay_phase(
        &mut self,
        desired: &overlay::Desired,
        phase: Phase,
        problems: &mut Vec<(String, String)>,
    ) {
        let report = self.overlay.reconcile(desired, phase).await;
        self.agent
            .metrics
            .kernel_operations
            .with_label_values(&["overlay"])
            .inc_by(u64::try_from(report.operations).unwrap_or(0));
        self.note_repairs(&report);
        problems.extend(report.problems.iter().map(|it| self.overlay_problem(it)));
    }

    /// Says what was brought back, and counts it.
    fn note_repairs(&mut self, report: &Report) {
        let drift = self.overlay.drift();
        let repaired = drift.saturating_sub(self.drift_seen);
        self.drift_seen = drift;
        if repaired == 0 {
            return;
        }
        self.agent.metrics.drift_repaired.with_label_values(&["overlay"]).inc_by(repaired);
        let total = usize::try_from(repaired).unwrap_or(usize::MAX);
        let line = format!(
            "somebody changed what is ours; brought back ({repaired}): {}",
            list_of(&report.repaired, total)
        );
        self.agent.events.record("repair", line, "agent");
    }

    /// Reads a part of the overlay, in the end all of it, and repairs what differs.
    pub(super) async fn slow_check(
        &mut self,
        desired: &overlay::Desired,
        problems: &mut Vec<(String, String)>,
    ) {
        let spaces = overlay::Kernel::spaces(self.overlay.kernel()).len();
        let parts = u32::try_from(spaces).unwrap_or(u32::MAX).clamp(1, OVERLAY_PARTS);
        if self.overlay_checked.elapsed() < OVERLAY_CHECK / parts {
            return;
        }
        self.overlay_checked = Instant::now();
        let report = self.overlay.verify_part(desired, parts as usize).await;
        self.note_repairs(&report);
        problems.extend(report.problems.iter().map(|it| self.overlay_problem(it)));
        self.count_drops();
    }

    /// What the fences have dropped, as last read. A table that was made anew counts from 0 again; the metric waits
    /// for it to catch up rather than fall.
    fn count_drops(&self) {
        let (mut tunnel, mut source) = (0_u64, 0_u64);
        for (space, _, packets) in self.overlay.drops() {
            let sum = if *space == Space::Host { &mut tunnel } else { &mut source };
            *sum = sum.saturating_add(packets);
        }
        let drops = &self.agent.metrics.fence_drops;
        raise(&drops.with_label_values(&["tunnel"]), tunnel);
        raise(&drops.with_label_values(&["source"]), source);
    }

    fn overlay_problem(&mut self, problem: &overlay::Problem) -> (String, String) {
        let object = match &problem.object {
            overlay::Object::Host => "host".to_owned(),
            overlay::Object::Network(network) => format!("network/{network}"),
            overlay::Object::Attachment(network, name) => format!("network/{network}/attachment/{name}"),
            overlay::Object::Remote(network, mac) => format!("network/{network}/remote/{mac}"),
            overlay::Object::Paths => "paths".to_owned(),
            overlay::Object::Leftover(name) => format!("leftover/{name}"),
        };
        let mut error = format!("{}: {}", problem.operation, problem.error);
        // The only thing of ours that takes a port in the host's namespace.
        if problem.errno == Some(libc::EADDRINUSE) {
            let port = self.agent.settings.load().vxlan_port;
            let find = |port| tokio::task::block_in_place(|| port_holder::of(port));
            let holder = self.port_holder.of(port, Instant::now(), find);
            error = format!("the tunnel needs UDP port {port} of this host, and {holder} {TAKEN} ({error})");
        }
        (object, error)
    }
}
