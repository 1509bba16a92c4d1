//! Reads what the documentation shows, for tests that check it.

use std::{fs, path::Path};

use serde_json::Value;

/// Returns the text of a file, such as `docs/kubernetes.md`.
///
/// # Panics
/// If it can't be read.
pub fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Returns the blocks of shell commands in the section of this heading.
///
/// # Panics
/// If the document has no such section.
pub fn commands(document: &str, heading: &str) -> Vec<String> {
    blocks(document, heading, "sh")
}

/// Returns the blocks of a language in the section of this heading.
///
/// # Panics
/// If the document has no such section.
pub fn blocks(document: &str, heading: &str, language: &str) -> Vec<String> {
    let text = read(document);
    let section = text.split("\n## ").find_map(|section| section.strip_prefix(heading)?.strip_prefix('\n'));
    let section = section.unwrap_or_else(|| panic!("{document} has no section {heading:?}"));
    blocks_in(section, language)
}

/// Returns the blocks of a language in a text.
pub fn blocks_in(text: &str, language: &str) -> Vec<String> {
    let begins = format!("```{language}\n");
    text.split(&begins).skip(1).filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned())).collect()
}

/// Returns the only manifest of this kind in a document such as `docs/kubernetes.md`.
///
/// # Panics
/// If the document shows none, or more than one.
pub fn manifest(document: &str, kind: &str) -> Value {
    let blocks = blocks_in(&read(document), "yaml");
    let values = blocks.iter().filter_map(|block| serde_yaml::from_str::<Value>(block).ok());
    let found: Vec<Value> = values.filter(|value| value["kind"] == kind).collect();
    let [one] = &found[..] else { panic!("{document} shows {} manifests of kind {kind}, not one", found.len()) };
    one.clone()
}
