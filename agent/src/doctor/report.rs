//! The checks as text, as JSON and as an exit code. No I/O.
use serde::Serialize;

use super::check::{Check, Group, Verdict};
use crate::cli::Exit;

/// All checks, in the order of their groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Nothing that svc-agent needs is missing.
    pub ok: bool,
    /// Line by line.
    pub checks: Vec<Check>,
}

impl Report {
    /// Sorts the checks by group and sums them up.
    pub fn new(mut checks: Vec<Check>) -> Self {
        checks.sort_by_key(|check| check.group);
        Self { ok: checks.iter().all(|check| check.verdict != Verdict::Missing), checks }
    }

    /// [`Exit::Done`], or [`Exit::Refused`] when something needed is missing.
    pub fn exit(&self) -> Exit {
        if self.ok { Exit::Done } else { Exit::Refused }
    }

    /// One line for each check below a title for each group, and a sum at the end.
    pub fn text(&self) -> String {
        let width = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        let mut group = None;
        for check in &self.checks {
            if group.replace(check.group) != Some(check.group) {
                let gap = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{gap}{}\n", title(check.group)));
            }
            text.push_str(&line(check, width));
        }
        text.push_str(&format!("\n{}\n", self.sum()));
        text
    }

    fn sum(&self) -> String {
        let names = |verdict| {
            let found = self.checks.iter().filter(|check| check.verdict == verdict);
            found.map(|check| check.name.as_str()).collect::<Vec<_>>()
        };
        let (missing, degraded) = (names(Verdict::Missing), names(Verdict::Degraded));
        match (missing.as_slice(), degraded.as_slice()) {
            ([], []) => "Nothing is missing.".to_owned(),
            ([], _) => format!("Nothing needed is missing; degraded: {}.", degraded.join(", ")),
            (_, []) => format!("Missing: {}.", missing.join(", ")),
            _ => format!("Missing: {}; degraded: {}.", missing.join(", "), degraded.join(", ")),
        }
    }
}

fn title(group: Group) -> &'static str {
    match group {
        Group::Kernel => "Kernel (tried in scratch namespaces)",
        Group::Host => "This host",
        Group::Agent => "Agent",
    }
}

fn line(check: &Check, width: usize) -> String {
    let verdict = match check.verdict {
        Verdict::Ok => "ok",
        Verdict::Info => "info",
        Verdict::Degraded => "degraded",
        Verdict::Missing => "missing",
    };
    let mut line = format!("  {verdict:<8}  {:<width$}  {}", check.name, clean(&check.detail));
    if !check.needed_for.is_empty() {
        line.push_str(&format!("; for {}", clean(&check.needed_for)));
    }
    if !check.hint.is_empty() {
        line.push_str(&format!("; do: {}", clean(&check.hint)));
    }
    format!("{}\n", line.trim_end())
}

/// Names of processes, chains and hosts come from others: one that holds a line break or an escape sequence must
/// not write a line of its own.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
