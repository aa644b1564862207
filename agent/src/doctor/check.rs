//! What a check comes to: plain values, no I/O.
use std::error::Error;
use std::io;

use serde::Serialize;

/// How one check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It works.
    Ok,
    /// Worth knowing; nothing depends on it today.
    Info,
    /// svc-agent works without it, or with a fallback, but not as well.
    Degraded,
    /// svc-agent, or the named feature of it, does not work.
    Missing,
}

/// What a check is about; the order is that of the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Group {
    /// What the kernel can do, tried in scratch namespaces.
    Kernel,
    /// How this host is set up, read only.
    Host,
    /// The agent that runs here, if one does.
    Agent,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What it is about.
    pub group: Group,
    /// Stable and unique within the group.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found, exactly: the operation and the system's answer.
    pub detail: String,
    /// Which part of svc-agent needs it; empty where nothing does.
    pub needed_for: String,
    /// What to do; empty where nothing is to be done.
    pub hint: String,
}

impl Check {
    /// A line with nothing to do.
    pub fn new(group: Group, name: &str, verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            group,
            name: name.to_owned(),
            verdict,
            detail: detail.into(),
            needed_for: String::new(),
            hint: String::new(),
        }
    }

    /// Says what depends on it.
    pub fn needed_for(mut self, what: &str) -> Self {
        self.needed_for = what.to_owned();
        self
    }

    /// Says what to do.
    pub fn hint(mut self, what: impl Into<String>) -> Self {
        self.hint = what.into();
        self
    }
}

/// What a probe is, beside the trying.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    /// Stable name.
    pub(super) name: &'static str,
    /// What of svc-agent needs it.
    pub(super) needed_for: &'static str,
    /// What to do where the kernel lacks it: module, configuration option or version.
    pub(super) remedy: &'static str,
    /// The capability of this process that it takes.
    pub(super) capability: Option<&'static str>,
    /// What it is when it does not work.
    pub(super) without: Verdict,
}

/// Why a capability is not there: the operation that failed, and the system's number for the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lack {
    what: String,
    errno: Option<i32>,
    untried: bool,
}

impl Lack {
    /// An operation that the system refused.
    pub(super) fn of(what: impl Into<String>, source: &io::Error) -> Self {
        Self { what: format!("{}: {source}", what.into()), errno: source.raw_os_error(), untried: false }
    }

    /// As an error and its sources say it; the first system error among them gives the reason.
    pub(super) fn chain(error: &(dyn Error + 'static)) -> Self {
        let mut words = error.to_string();
        let mut errno = None;
        let mut next: Option<&(dyn Error + 'static)> = Some(error);
        while let Some(link) = next {
            errno = errno.or_else(|| link.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error));
            next = link.source();
            if let Some(source) = next {
                words = format!("{words}: {source}");
            }
        }
        Self { what: words, errno, untried: false }
    }

    /// Something that is no refusal by the system.
    pub(super) fn because(what: impl Into<String>) -> Self {
        Self { what: what.into(), errno: None, untried: false }
    }

    /// The trial could not begin; another line of the report says why.
    pub(super) fn untried(self) -> Self {
        Self { untried: true, ..self }
    }

    /// The system's number for the reason.
    pub(super) fn errno(&self) -> Option<i32> {
        self.errno
    }
}

impl std::fmt::Display for Lack {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)
    }
}

/// The probe that others build on: without it they cannot begin.
pub(super) const FIRST_PROBE: &str = "network-namespaces";

/// From what trying came to, to the line of the report. `lacking`: the capabilities that this process has not.
pub(super) fn judge(about: &About, outcome: Result<String, Lack>, lacking: &[&str]) -> Check {
    let line = |verdict, detail| Check::new(Group::Kernel, about.name, verdict, detail);
    match outcome {
        Ok(detail) => line(Verdict::Ok, detail),
        Err(lack) if lack.untried => line(about.without, format!("not tried: {lack}"))
            .needed_for(about.needed_for)
            .hint(format!("see {FIRST_PROBE}")),
        Err(lack) => {
            let hint = remedy(about, lack.errno, lacking);
            line(about.without, lack.what).needed_for(about.needed_for).hint(hint)
        }
    }
}

/// What to do about a refusal: who may not, or what the kernel lacks.
fn remedy(about: &About, errno: Option<i32>, lacking: &[&str]) -> String {
    let forbidden = matches!(errno, Some(libc::EPERM | libc::EACCES));
    match (errno, about.capability) {
        (_, Some(capability)) if forbidden && lacking.contains(&capability) => {
            format!("run it as root, or with {capability}")
        }
        (_, Some(capability)) if forbidden => format!(
            "this process has {capability}, something else forbids it: look for a seccomp filter, AppArmor or SELinux"
        ),
        (Some(libc::EMFILE | libc::ENFILE), _) => "raise the limit of open files: ulimit -n".to_owned(),
        (Some(libc::ENOMEM | libc::ENOBUFS), _) => "free memory and try again".to_owned(),
        _ => about.remedy.to_owned(),
    }
}
