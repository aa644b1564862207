//! The key file and the state directory.
use std::error::Error;
use std::path::Path;

use rustix::fs::Access;

use super::super::check::{Check, Verdict};
use super::check;
use crate::cluster::key::{KeyFileError, KeyRing};
use crate::config::Settings;

pub(super) fn checks(settings: &Settings) -> Vec<Check> {
    vec![key(&settings.key_file), directory(&settings.state_dir)]
}

/// There, readable by its owner alone, and whole.
pub(super) fn key(path: &Path) -> Check {
    let error = match KeyRing::load(path) {
        Ok(ring) => {
            let detail = format!("{} holds a key of cluster {}", path.display(), ring.cluster());
            return check("key-file", Verdict::Ok, detail);
        }
        Err(error) => error,
    };
    if let KeyFileError::Read { source, .. } = &error
        && source.kind() == std::io::ErrorKind::NotFound
    {
        return check("key-file", Verdict::Info, format!("{} is not there yet", path.display()))
            .needed_for("svc-agent run")
            .hint(format!(
                "on the first host: umask 077; svc-agent keygen > {}; copy it to the others",
                path.display()
            ));
    }
    let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
    let deeper =
        error.source().and_then(Error::source).map(|source| format!(": {source}")).unwrap_or_default();
    let hint = match &error {
        KeyFileError::Read { .. } => "run it as root",
        KeyFileError::Open { .. } => "take the permissions away as said, and consider a new key",
        KeyFileError::Text { .. } => "copy the file from a host that is in the cluster",
    };
    check("key-file", Verdict::Missing, format!("{error}{source}{deeper}"))
        .needed_for("svc-agent run")
        .hint(hint)
}

/// There and writable, or makeable; asked with access(2), so nothing is written.
pub(super) fn directory(path: &Path) -> Check {
    let found = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let shown = path.display();
    let bad = |detail: String, hint: String| {
        check("state-dir", Verdict::Missing, detail)
            .needed_for("keeping this host's identity and facts")
            .hint(hint)
    };
    if !found.is_dir() {
        return bad(
            format!("{} is no directory", found.display()),
            "remove it, or set --state-dir".to_owned(),
        );
    }
    match rustix::fs::access(found, Access::WRITE_OK | Access::EXEC_OK) {
        Err(errno) => bad(
            format!("{} cannot be written: {}", found.display(), std::io::Error::from(errno)),
            "run it as root, or set --state-dir to a directory on a writable file system".to_owned(),
        ),
        Ok(()) if found == path => check("state-dir", Verdict::Ok, format!("{shown} can be written")),
        Ok(()) => check("state-dir", Verdict::Ok, format!("{shown} is not there yet and can be made")),
    }
}
