//! Checks that what the documentation shows works.

use std::{fs, path::PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn documents() -> Vec<(String, String)> {
    let mut paths: Vec<PathBuf> =
        ["README.md", "CONTRIBUTING.md", "examples/review/README.md"].iter().map(|path| root().join(path)).collect();
    let docs = fs::read_dir(root().join("docs")).expect("there is a docs folder");
    paths.extend(docs.map(|entry| entry.expect("the folder can be listed").path()));
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("can't read {}: {e}", path.display()));
        (path.display().to_string(), text)
    };
    paths.into_iter().filter(|path| path.extension().is_some_and(|e| e == "md")).map(read).collect()
}

/// Returns the contents of the fenced blocks of one language.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let opening = format!("```{language}\n");
    text.split(&opening).skip(1).filter_map(|rest| Some(rest.split_once("\n```")?.0.to_owned())).collect()
}

#[test]
fn every_manifest_in_the_documentation_is_taken() {
    let mut taken = 0;
    // Some show the spec alone.
    let head = "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {name: first}\n";
    let whole = |block: String| if block.starts_with("spec:\n") { format!("{head}{block}") } else { block };
    for (path, text) in documents() {
        let blocks = blocks(&text, "yaml").into_iter().map(whole);
        for block in blocks.filter(|block| block.contains("\nkind: RobeingCluster")) {
            if let Err(error) = robeing_crds::parse_manifests(&block) {
                panic!("a manifest in {path} is refused:\n{error}\n{block}");
            }
            taken += 1;
        }
    }
    assert!(taken > 0, "the README shows a manifest");
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    for (path, text) in documents() {
        let folder = PathBuf::from(&path).parent().expect("a file is in a folder").to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(link, _)| link)) {
            let file = link.split('#').next().unwrap_or_default();
            if !file.is_empty() && !file.contains("://") {
                assert!(folder.join(file).exists(), "{path} links to {link}, which does not exist");
            }
        }
    }
}

#[test]
fn every_source_file_in_the_documentation_exists() {
    for (path, text) in documents() {
        for name in text.split('`').skip(1).step_by(2).filter(|name| name.contains('/') && name.ends_with(".rs")) {
            let is_whole = !name.contains(|c: char| c.is_whitespace() || "*<{…".contains(c));
            // In a table about a crate, paths omit the folder of the crate.
            let folders = ["", "coordinator/src", "fleet/src", "agent/src"];
            let exists = folders.iter().any(|folder| root().join(folder).join(name).exists());
            assert!(!is_whole || exists, "{path} names {name}, which does not exist");
        }
    }
}

#[test]
fn every_make_target_in_the_documentation_exists() {
    let makefile = fs::read_to_string(root().join("Makefile")).expect("there is a Makefile");
    for (path, text) in documents() {
        for block in blocks(&text, "sh") {
            for line in block.lines().filter_map(|line| line.strip_prefix("make ")) {
                let words = line.split('#').next().unwrap_or_default().split_whitespace();
                for target in words.filter(|word| !word.contains('=')) {
                    let defined = makefile.lines().any(|line| line.starts_with(&format!("{target}:")));
                    assert!(defined, "{path} mentions `make {target}`, which the Makefile does not have");
                }
            }
        }
    }
}

/// Returns the names in the last column of a table's rows.
fn held_by(table: &str) -> Vec<&str> {
    let rows = table.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.flat_map(|row| {
        let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
        let names: Vec<&str> = last.split('`').skip(1).step_by(2).collect();
        assert!(!names.is_empty(), "no check fails if this is violated: {row}");
        names
    })
    .collect()
}

#[test]
fn every_promise_names_a_check_that_there_is_and_every_check_of_the_simulator_is_named() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("can't read {path}: {e}"));
    let text = read("docs/state-machine.md");
    let section = text.split("\n## ").find(|section| section.starts_with("Invariants")).expect("it has the tables");
    let tables: Vec<&str> = section.split("\n\n").filter(|part| part.starts_with('|')).collect();
    let [fleet, simulator, others] = tables[..] else { panic!("there are {} tables instead of three", tables.len()) };
    for name in held_by(fleet) {
        let files = [format!("fleet/tests/fleet/{name}.rs"), format!("fleet/src/{name}.rs")];
        assert!(files.iter().any(|file| root().join(file).exists()), "none of {files:?} exists");
    }
    let source = read("tests/sim/src/checks.rs");
    let list =
        source.split("\nchecks! {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("it lists the checks");
    let mut checks: Vec<&str> = list.lines().filter_map(|line| line.split('"').nth(1)).collect();
    let mut named = held_by(simulator);
    for names in [&mut checks, &mut named] {
        names.sort_unstable();
        names.dedup();
    }
    assert_eq!(named, checks, "the simulator's checks in docs/state-machine.md and in checks.rs");
    for path in held_by(others) {
        let source = read(path);
        assert!(["#[test]", "::test"].iter().any(|mark| source.contains(mark)), "{path} has no tests");
    }
}

/// Returns the string literals that come right after `this` in a source file.
fn texts_after<'a>(source: &'a str, this: &str) -> Vec<&'a str> {
    let text = |rest: &'a str| rest.trim_start().strip_prefix('"')?.split('"').next();
    source.split(this).skip(1).filter_map(text).collect()
}

#[test]
fn every_action_that_the_state_machine_records_is_explained() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("can't read {path}: {e}"));
    let (source, page) = (read("fleet/src/audit_log/mod.rs"), read("docs/security.md"));
    let module = source.split("mod action {").nth(1).and_then(|rest| rest.split("\n}").next()).expect("it lists them");
    let actions = texts_after(module, ": &str =");
    assert!(actions.len() > 10, "{actions:?}");
    for action in actions {
        assert!(page.contains(&format!("`{action}`")), "docs/security.md does not explain {action}");
    }
}

#[test]
fn every_reason_and_event_of_the_operator_is_explained() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("can't read {path}: {e}"));
    let marks = [
        ("controller/report/conditions.rs", r#"said("True","#),
        ("controller/report/conditions.rs", r#"said("False","#),
        ("controller/report/unmet.rs", r#"said("True","#),
        ("controller/report/unmet.rs", r#"said("False","#),
        ("controller/report/unmet.rs", "normal("),
        ("controller/report/unmet.rs", "warning("),
        ("controller/report/schedules.rs", "normal("),
        ("controller/report/schedules.rs", "warning("),
        ("controller/report/teams.rs", "normal("),
        ("controller/report/teams.rs", "warning("),
        ("controller/report/events.rs", "normal("),
        ("controller/report/events.rs", "warning("),
        ("controller/health.rs", "=>"),
        ("quorum/rollout.rs", "reason:"),
        ("controller/validate.rs", "Err(("),
    ];
    let guide = read("docs/kubernetes.md");
    let mut known = 0;
    for (file, mark) in marks {
        let source = read(&format!("operator/src/{file}"));
        let reasons = texts_after(&source, mark);
        assert!(!reasons.is_empty(), "operator/src/{file} has reasons after {mark}");
        for reason in reasons {
            assert!(guide.contains(&format!("`{reason}`")), "docs/kubernetes.md does not explain {reason}");
            known += 1;
        }
    }
    assert!(known > 40, "the operator has more reasons than {known}");
}
