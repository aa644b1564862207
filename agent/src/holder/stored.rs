//! A copy of the table in the service manager's store of file descriptors (sd_notify(3), FDSTORE), so that not even the
//! holder's own death frees anything. Without a service manager all of this does nothing.
#![allow(unsafe_code)] // What the service manager passed are bare numbers.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};

use sd_notify::NotifyState;

/// Bytes of a name there, and what may not be in one (sd_notify(3), FDNAME).
const NAME_BYTES_MAX: usize = 255;
const SEPARATOR: char = ':';

/// What the holder before had put there, and the first descriptor that is not of it. To be called once, before anything
/// else is opened.
pub(super) fn take() -> (BTreeMap<String, Vec<OwnedFd>>, u32) {
    let passed: Vec<_> = sd_notify::listen_fds_with_names().map(Iterator::collect).unwrap_or_default();
    let after = passed.iter().filter_map(|(file, _)| u32::try_from(file + 1).ok()).max().unwrap_or(3);
    let mut found: BTreeMap<(String, usize), BTreeMap<usize, OwnedFd>> = BTreeMap::new();
    for (file, name) in passed {
        // SAFETY: the service manager passed it to this process, and nobody else in it knows its number.
        let file = unsafe { OwnedFd::from_raw_fd(file) };
        if let Some((position, count, name)) = read_name(&name) {
            found.entry((name.to_owned(), count)).or_default().insert(position, file);
        }
    }
    // One of several that did not come, as its holder was killed in between, would have the others taken for it.
    let (whole, parts): (BTreeMap<_, _>, BTreeMap<_, _>) =
        found.into_iter().partition(|((_, count), files)| files.len() == *count);
    parts.keys().for_each(|(name, count)| forget(name, *count));
    (whole.into_iter().map(|((name, _), files)| (name, files.into_values().collect())).collect(), after)
}

/// Puts descriptors there under a name; those under it before, so many, are let go.
pub(super) fn keep(name: &str, before: usize, files: &[OwnedFd]) {
    forget(name, before);
    for (position, file) in files.iter().enumerate() {
        let (what, place) =
            ([NotifyState::FdStore, NotifyState::Custom("FDPOLL=0")], (position, files.len()));
        tell(name, place, &what, &[file.as_fd()]);
    }
}

/// Lets go what is there under a name, so many.
pub(super) fn forget(name: &str, before: usize) {
    (0..before).for_each(|position| tell(name, (position, before), &[NotifyState::FdStoreRemove], &[]));
}

/// The holder answers from now on.
pub(super) fn ready() {
    let _nobody_listens = sd_notify::notify(&[NotifyState::Ready]);
}

/// Best effort: what is not there is lost only if agent and holder die at the same moment.
fn tell(name: &str, place: (usize, usize), what: &[NotifyState<'_>], files: &[BorrowedFd<'_>]) {
    let Some(name) = write_name(name, place) else { return };
    let mut state = what.to_vec();
    state.push(NotifyState::FdName(&name));
    let _nobody_listens =
        if files.is_empty() { sd_notify::notify(&state) } else { sd_notify::notify_with_fds(&state, files) };
}

/// Each descriptor has a name of its own there, with its place among how many: the order of those that share one is not kept.
fn write_name(name: &str, (position, count): (usize, usize)) -> Option<String> {
    let text = format!("{position}.{count}/{name}");
    let fits = text.len() <= NAME_BYTES_MAX && text.bytes().all(|b| b.is_ascii_graphic());
    (fits && !text.contains(SEPARATOR)).then_some(text)
}

fn read_name(text: &str) -> Option<(usize, usize, &str)> {
    let (place, name) = text.split_once('/')?;
    let (position, count) = place.split_once('.')?;
    let count = count.parse().ok().filter(|count| *count <= super::FILES_MAX)?;
    let position = position.parse().ok().filter(|position| *position < count)?;
    (!name.is_empty()).then_some((position, count, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_as_they_went() {
        let written = write_name("resolver/4711", (2, 3)).unwrap();
        assert_eq!(written, "2.3/resolver/4711");
        assert_eq!(read_name(&written), Some((2, 3, "resolver/4711")));
        for unfit in ["a:b", "a b", "ü", &"x".repeat(252)] {
            assert_eq!(write_name(unfit, (0, 1)), None, "{unfit}");
        }
        for foreign in ["stored", "1/x", "3.3/x", "0.9/x", "x.y/z", "0.1/"] {
            assert_eq!(read_name(foreign), None, "{foreign}");
        }
    }
}
