//! Docker's names as ours: labels of DNS.
use crate::model::Name;

/// Bytes of a label (RFC 1035).
const LABEL_MAX: usize = 63;

/// The label that a name of Docker's becomes: what no label has becomes a hyphen. `None` if nothing is left.
pub(super) fn label(text: &str) -> Option<Name> {
    let plain: String =
        text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect();
    let cut: String = plain.trim_matches('-').chars().take(LABEL_MAX).collect();
    cut.trim_matches('-').parse().ok()
}

/// As [`label`], told apart by the beginning of an id from another one of that name.
pub(super) fn label_with(text: &str, id: &str) -> Option<Name> {
    let id: String = id.chars().take(6).collect();
    let room = LABEL_MAX.saturating_sub(id.len() + 1);
    let base: String = label(text)?.as_str().chars().take(room).collect();
    format!("{}-{id}", base.trim_matches('-')).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_compose_are_labels() {
        for (text, wanted) in [("shop_payment", "shop-payment"), ("/Web.1", "web-1"), ("db", "db")] {
            assert_eq!(label(text).unwrap().as_str(), wanted);
        }
        assert_eq!(label(&"a_".repeat(40)).unwrap().as_str().len(), LABEL_MAX);
        assert_eq!(label("___"), None);
        assert_eq!(label_with("shop_1", "4f5e0d9a").unwrap().as_str(), "shop-1-4f5e0d");
        assert!(label_with(&"a".repeat(90), "4f5e0d9a").unwrap().as_str().ends_with("a-4f5e0d"));
    }
}
