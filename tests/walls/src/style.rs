//! Rules for the style of imports, modules and unit tests that neither rustfmt nor clippy checks.

/// The maximum number of lines in a source file.
const MAX_LINES: usize = 500;

/// The groups of imports, in their order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// Crates that come with Rust.
    Standard,
    /// Other crates.
    Crates,
    /// This crate.
    Own,
}

impl Group {
    fn of(root: &str) -> Self {
        match root {
            "alloc" | "core" | "std" => Self::Standard,
            "crate" | "self" | "super" => Self::Own,
            _ => Self::Crates,
        }
    }
}

/// What a line without indentation begins.
enum Begins<'a> {
    /// An import, with the first segment of its path.
    Import(&'a str),
    /// An item after which there may be no imports.
    Item,
    /// Something else.
    Other,
}

fn begins(line: &str) -> Begins<'_> {
    if let Some(path) = line.strip_prefix("use ") {
        let path = path.trim_start_matches("::");
        return Begins::Import(path.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default());
    }
    if line.starts_with(char::is_whitespace) {
        return Begins::Other;
    }
    let public = line.strip_prefix("pub").unwrap_or(line);
    let rest = match public.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, rest)) => rest,
        None => public,
    };
    let items = ["async", "const", "enum", "fn", "impl", "static", "struct", "trait", "type", "unsafe"];
    match rest.split_whitespace().next() {
        Some(word) if items.contains(&word) => Begins::Item,
        _ => Begins::Other,
    }
}

/// Finds imports that are not at the top, not in order, or the second one for a crate.
fn imports(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut roots = Vec::new();
    let mut latest = Group::Standard;
    let mut is_past = false;
    let mut attribute = false;
    for (number, line) in text.lines().enumerate() {
        match begins(line) {
            // A conditional import may be separate.
            Begins::Import(_) if attribute && !is_past => {}
            Begins::Import(root) => {
                let mut say = |what: &str| found.push(format!("{path}:{}: {root} is imported {what}", number + 1));
                if is_past {
                    say("in the middle of the file instead of at its top");
                } else if roots.contains(&root) {
                    say("a second time: there is one `use` for each crate");
                } else if Group::of(root) < latest {
                    say("too late: the standard library comes first, then other crates, then this one");
                }
                roots.push(root);
                latest = latest.max(Group::of(root));
            }
            Begins::Item => is_past = true,
            Begins::Other => {}
        }
        attribute = line.starts_with("#[");
    }
    found
}

/// Finds tests that are neither in a module `tests` at the end of their file nor in a file or folder `tests`.
fn unit_tests(path: &str, text: &str) -> Vec<String> {
    let parts: Vec<&str> = path.split('/').collect();
    let Some(sources) = parts.iter().position(|part| *part == "src") else { return Vec::new() };
    if parts[sources..].iter().any(|part| matches!(*part, "tests" | "tests.rs")) {
        return Vec::new();
    }
    let before = text.split("\nmod tests {\n").next().unwrap_or_default();
    let after = text.split("\nmod tests {\n").nth(1).and_then(|rest| rest.split_once("\n}\n")).map(|(_, after)| after);
    let mut found = Vec::new();
    let is_test =
        |line: &str| line.trim_start().starts_with("#[test]") || line.trim_start().starts_with("#[tokio::test");
    if let Some((number, _)) = before.lines().enumerate().find(|(_, line)| is_test(line)) {
        found.push(format!(
            "{path}:{}: a test is outside the module `tests` at the end of the file, or tests.rs of its folder",
            number + 1
        ));
    }
    if after.is_some_and(|after| !after.trim().is_empty()) {
        found.push(format!("{path}: something comes after the module `tests`, which must be last"));
    }
    found
}

/// Finds everything in a source file that does not follow the style of the project. The path is relative to the
/// project.
pub fn source(path: &str, text: &str) -> Vec<String> {
    let mut found = imports(path, text);
    found.extend(unit_tests(path, text));
    if let Some((number, _)) = text.lines().enumerate().find(|(_, line)| line.trim_start().starts_with("#[path")) {
        found.push(format!("{path}:{}: a module is in the file of its name, without #[path]", number + 1));
    }
    let lines = text.lines().count();
    if lines > MAX_LINES {
        found.push(format!("{path}: it has {lines} lines, which is more than {MAX_LINES}: split it"));
    }
    if path.ends_with("_tests.rs") {
        found.push(format!("{path}: the tests of a module belong in its folder, in tests.rs"));
    }
    found
}

/// Finds modules that have a folder but are next to it instead of in it, as mod.rs.
pub fn modules(paths: &[String]) -> Vec<String> {
    let has_folder = |path: &&String| {
        let folder = format!("{}/", path.trim_end_matches(".rs"));
        paths.iter().any(|other| other.starts_with(&folder))
    };
    let beside = paths.iter().filter(|path| path.ends_with(".rs")).filter(has_folder);
    beside.map(|path| format!("{path}: a module with a folder belongs in it, as mod.rs")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "use std::fs;\n\nuse serde::{\n    Serialize,\n};\nuse tokio::time;\n\nuse crate::it;\n\nfn f() {}\n";

    fn complaint(path: &str, text: &str) -> String {
        let found = source(path, text);
        assert_eq!(found.len(), 1, "{found:?} in {text}");
        found.concat()
    }

    #[test]
    fn one_use_is_for_one_crate_in_order_at_the_top() {
        assert_eq!(source("a/src/b.rs", GOOD), Vec::<String>::new());
        let twice = GOOD.replace("\nuse crate", "use serde::de;\n\nuse crate");
        assert!(complaint("a/src/b.rs", &twice).starts_with("a/src/b.rs:7: serde is imported a second time"));
        let late = GOOD.replace("\nfn", "use std::io;\n\nfn").replace("use std::fs;\n", "");
        assert!(complaint("a/src/b.rs", &late).contains("std is imported too late"));
        let middle = format!("{GOOD}use http::Uri;\n");
        assert!(complaint("a/src/b.rs", &middle).contains("http is imported in the middle"));
        let within =
            GOOD.replace("use std::fs", "macro_rules! f {\n    () => {\n        fn f() {}\n    };\n}\nuse std::fs");
        assert_eq!(source("a/src/b.rs", &within), Vec::<String>::new(), "after an indented item");
        let apart = format!("{}{GOOD}", "#[cfg(test)]\nuse serde::de;\n");
        assert_eq!(source("a/src/b.rs", &apart), Vec::<String>::new(), "a conditional import");
        let public = format!("pub use serde::de;\n{GOOD}");
        assert_eq!(source("a/src/b.rs", &public), Vec::<String>::new(), "a public import");
    }

    #[test]
    fn unit_tests_are_the_end_of_a_file_or_files_of_their_own() {
        let test = "#[test]\nfn it() {}\n";
        assert!(complaint("a/src/b.rs", test).starts_with("a/src/b.rs:1: a test is outside"));
        for path in ["a/src/tests.rs", "a/src/b/tests/c.rs", "a/tests/b/c.rs"] {
            assert_eq!(source(path, test), Vec::<String>::new(), "{path}");
        }
        let within = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    #[tokio::test]\n    async fn it() {}\n}\n";
        assert_eq!(source("a/src/b.rs", within), Vec::<String>::new());
        assert!(complaint("a/src/b.rs", &format!("{within}\nfn g() {{}}\n")).contains("something comes after"));
        assert!(complaint("a/src/b_tests.rs", "fn f() {}\n").contains("belong in its folder"));
    }

    #[test]
    fn a_file_has_an_end() {
        assert_eq!(source("a/src/b.rs", &"\n".repeat(MAX_LINES)), Vec::<String>::new());
        assert!(complaint("a/src/b.rs", &"\n".repeat(MAX_LINES + 1)).contains("it has 501 lines"));
    }

    #[test]
    fn a_module_with_a_folder_stands_in_it() {
        let paths = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
        assert_eq!(modules(&paths(&["a/b/mod.rs", "a/b/c.rs", "a/bc.rs"])), Vec::<String>::new());
        let found = modules(&paths(&["a/b.rs", "a/b/c.rs"]));
        assert_eq!(found, ["a/b.rs: a module with a folder belongs in it, as mod.rs"]);
        assert!(complaint("a/src/b.rs", "#[path = \"c.rs\"]\nmod b;\n").contains("without #[path]"));
    }
}
