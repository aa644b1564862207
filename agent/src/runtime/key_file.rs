//! The cluster's key file, and what to do about one that cannot be used.
//!
//! A key that is made anew ends what this host shares with the others, so that is hinted at only where no file is.
use std::io::ErrorKind;
use std::path::Path;

use crate::api::types::Failure;
use crate::cluster::key::{KeyFileError, KeyRing};
use crate::runtime::agent::{chain, refused};

/// Reads it.
///
/// # Errors
/// What is wrong with it, and what helps against that.
pub fn load(path: &Path) -> Result<KeyRing, Failure> {
    KeyRing::load(path).map_err(|error| {
        let hints = hints(&error);
        refused(chain(&error), &hints.iter().map(String::as_str).collect::<Vec<_>>())
    })
}

/// What helps, by the cause.
pub fn hints(error: &KeyFileError) -> Vec<String> {
    match error {
        KeyFileError::Read { path, source } if source.kind() == ErrorKind::NotFound => vec![
            format!("on the first host make one: (umask 077; svc-agent keygen > {})", path.display()),
            "on every other copy it from there: one key makes one cluster".to_owned(),
        ],
        KeyFileError::Read { source, .. } if source.kind() == ErrorKind::PermissionDenied => {
            vec!["run the agent as root, whose the file is; the key stays as it is".to_owned()]
        }
        KeyFileError::Read { path, .. } => vec![format!(
            "see what {} is; if the file is lost or damaged, copy it again from another host of the cluster",
            path.display()
        )],
        KeyFileError::Open { path, .. } => vec![
            format!("take the permissions away: chmod 600 {}", path.display()),
            "if others on this host may have read it, the cluster needs a new key".to_owned(),
        ],
        KeyFileError::Text { .. } => vec![
            "copy it again, whole, from another host of the cluster; a new one would be another cluster's"
                .to_owned(),
        ],
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn failure(path: &Path) -> Failure {
        load(path).expect_err("a key file that cannot be used")
    }

    #[test]
    fn a_new_key_is_hinted_at_only_where_there_is_none() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("cluster.key");
        let shown = path.display();
        let missing = failure(&path);
        assert!(missing.hints[0].ends_with(&format!("svc-agent keygen > {shown})")), "{missing:?}");

        std::fs::write(&path, "no key\n").expect("a file");
        let mode = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("another mode")
        };
        mode(0o644);
        let open = failure(&path);
        assert_eq!(open.hints[0], format!("take the permissions away: chmod 600 {shown}"));
        mode(0o600);
        let malformed = failure(&path);
        assert!(malformed.hints[0].starts_with("copy it again, whole, from another host"), "{malformed:?}");

        let denied = std::io::Error::from(ErrorKind::PermissionDenied);
        let denied = KeyFileError::Read { path: path.clone(), source: denied };
        assert!(hints(&denied)[0].contains("as root"));
        std::fs::remove_file(&path).expect("no file");
        std::fs::create_dir(&path).expect("a directory");
        mode(0o700);
        let unreadable = failure(&path);
        assert!(unreadable.hints[0].contains("copy it again from another host"), "{unreadable:?}");
        for told in [open.hints, malformed.hints, hints(&denied), unreadable.hints] {
            assert!(!told.iter().any(|hint| hint.contains("keygen")), "it would replace the key: {told:?}");
        }
    }
}
