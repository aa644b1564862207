//! A value that counts when it may have changed, so that who copies it copies only then.
use std::ops::{Deref, DerefMut};

/// A value and how often it was lent to be changed.
#[derive(Clone, Debug, Default)]
pub struct Revised<T> {
    value: T,
    revision: u64,
}

impl<T> Revised<T> {
    /// Differs from an earlier answer if the value may differ.
    pub fn revision(&self) -> u64 {
        self.revision
    }
}

impl<T> From<T> for Revised<T> {
    fn from(value: T) -> Self {
        Self { value, revision: 0 }
    }
}

impl<T> Deref for Revised<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Revised<T> {
    fn deref_mut(&mut self) -> &mut T {
        self.revision = self.revision.wrapping_add(1);
        &mut self.value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_change_it_counts() {
        let mut list = Revised::<Vec<u8>>::default();
        let fresh = list.revision();
        assert!(list.is_empty());
        assert_eq!(list.revision(), fresh);
        list.push(1);
        assert_ne!(list.revision(), fresh);
    }
}
