//! What every row of the table of settings has.

use super::*;

#[test]
fn the_nearest_name_is_near() {
    assert_eq!(nearest("max-batch-token").map(|key| key.name), Some("max_batch_tokens"));
    assert_eq!(nearest("modle").map(|key| key.name), Some("model"));
    assert!(nearest("colour_of_the_sky").is_none());
}

#[test]
fn defaults_fit_their_own_kind() {
    for key in KEYS.iter().filter(|key| key.name != "model") {
        assert_eq!(key.kind.check(&(key.default)()), Ok(()), "{}", key.name);
    }
}

#[test]
fn a_secret_has_a_file_and_no_flag() {
    for key in KEYS.iter().filter(|key| matches!(key.kind, Kind::Secret)) {
        let file = KEYS.iter().find(|other| other.name == format!("{}_file", key.name)).expect(key.name);
        assert!(matches!(file.kind, Kind::PathOrOff) && file.commands != 0, "{}", key.name);
        assert_eq!(key.commands, 0, "{}", key.name);
    }
}

#[test]
fn names_are_distinct_and_flat() {
    let names: std::collections::BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(names.len(), KEYS.len());
    for key in KEYS {
        assert!(key.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{}", key.name);
        assert!(!key.about.is_empty() && !key.about.ends_with('.') && !key.about.contains('\n'), "{}", key.name);
    }
}
