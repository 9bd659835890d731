//! The table of settings as a page of the documentation, made from the table that the program reads.

use std::fmt::Write as _;

use super::flags::below_home;
use super::keys::KEYS;

/// Every setting with its default and what it takes, as Markdown.
pub fn reference() -> String {
    let mut page = String::from("| setting | default | what it is |\n|---|---|---|\n");
    for key in KEYS {
        let default = match (key.default)() {
            toml::Value::String(text) if text.is_empty() => "none".to_owned(),
            toml::Value::String(text) => format!("`{}`", below_home(&text)),
            value => format!("`{value}`"),
        };
        let flag = if key.commands == 0 { " (no flag)" } else { "" };
        // A bar would end the cell. Writing to a String cannot fail.
        let _ = writeln!(
            page,
            "| `{}`{flag} | {default} | {}. Takes {} |",
            key.name,
            cell(key.about),
            cell(&key.kind.expected())
        );
    }
    page
}

/// Text that stands in a table's cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}
