//! Finds violations of the dependency rules.

use serde_json::Value;

use crate::table::{CRATES, LIBRARIES, PURE, UNSHIPPED, WORDS, Words};

/// A dependency, as cargo reports it.
struct Arrow<'a> {
    from: &'a str,
    to: &'a str,
}

/// Returns the dependencies of crates, except for those that only their tests need.
fn arrows(metadata: &Value) -> Vec<Arrow<'_>> {
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    packages
        .iter()
        .flat_map(|package| {
            let from = package["name"].as_str().unwrap_or_default();
            let all = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
            let built = all.iter().filter(|dependency| dependency["kind"].as_str() != Some("dev"));
            built.filter_map(move |dependency| Some(Arrow { from, to: dependency["name"].as_str()? }))
        })
        .collect()
}

/// Returns the dependencies that the table does not allow, in the output of `cargo metadata --no-deps`.
pub fn crates(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for Arrow { from, to } in arrows(metadata) {
        let known = CRATES.iter().find(|one| one.name == from);
        let ours = to == "robeing" || to.starts_with("robeing-");
        if let Some(known) = known
            && ours
            && !known.uses.contains(&to)
        {
            found.push(format!("{from} depends on {to}, which is not allowed: {}", known.why));
        }
        if let Some(pure) = PURE.iter().find(|pure| pure.name == from)
            && !pure.uses.contains(&to)
        {
            found.push(format!("{from} depends on {to}; it is pure, and may use only {}", pure.uses.join(", ")));
        }
        for library in LIBRARIES {
            if to.starts_with(library.prefix) && known.is_some() && !library.users.contains(&from) {
                found.push(format!("{from} depends on {to}, which only {} may use", library.users.join(", ")));
            }
        }
    }
    let packages = metadata["packages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let there: Vec<&str> = packages.iter().filter_map(|package| package["name"].as_str()).collect();
    let missing = CRATES.iter().filter(|one| !there.contains(&one.name));
    found.extend(missing.map(|one| format!("{} is in the table of walls, but there is no such crate", one.name)));
    let known = |name: &str| UNSHIPPED.contains(&name) || CRATES.iter().any(|one| one.name == name);
    let unknown = there.iter().filter(|name| !known(name));
    found.extend(unknown.map(|name| format!("{name} is not in the table of walls")));
    found
}

/// Returns whether a file contains only test code.
fn is_test(path: &str) -> bool {
    path.split('/').any(|part| matches!(part, "tests" | "tests.rs" | "fixture.rs") || part.ends_with("_tests.rs"))
}

fn within(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| path == *place || path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/')))
}

fn in_one_file(wall: &Words, path: &str, text: &str, found: &mut Vec<String>) {
    if is_test(path) || !within(path, wall.folders) || within(path, wall.allowed) {
        return;
    }
    let mut lines = text.lines().enumerate().peekable();
    while let Some((number, line)) = lines.next() {
        // A file's tests are at its end; other code for tests is in a file of its own.
        let begins_tests = |next: &str| next.starts_with("mod ") && next.ends_with('{');
        if line == "#[cfg(test)]" && lines.peek().is_some_and(|(_, next)| begins_tests(next)) {
            return;
        }
        if line.trim_start().starts_with("//") {
            continue;
        }
        for word in wall.words.iter().filter(|word| line.contains(**word)) {
            found.push(format!("{path}:{}: {word} is not allowed here: {}", number + 1, wall.why));
        }
    }
}

/// Returns the words in a source file that are not allowed there. The path is relative to the project.
pub fn source(path: &str, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    WORDS.iter().for_each(|wall| in_one_file(wall, path, text, &mut found));
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn metadata(planted: Option<(&str, &str, &str)>) -> Value {
        let dependency = |name: &str, kind: &str| json!({"name": name, "kind": (kind != "normal").then_some(kind)});
        let packages = CRATES.iter().map(|one| {
            let mut dependencies: Vec<Value> = one.uses.iter().map(|name| dependency(name, "normal")).collect();
            if let Some((from, to, kind)) = planted
                && from == one.name
            {
                dependencies.push(dependency(to, kind));
            }
            json!({"name": one.name, "dependencies": dependencies})
        });
        json!({"packages": packages.collect::<Vec<_>>()})
    }

    #[test]
    fn what_the_table_has_is_in_order() {
        assert_eq!(crates(&metadata(None)), Vec::<String>::new());
    }

    #[test]
    fn a_planted_arrow_across_each_wall_is_found() {
        for one in CRATES {
            for other in CRATES.iter().filter(|other| other.name != one.name && !one.uses.contains(&other.name)) {
                let found = crates(&metadata(Some((one.name, other.name, "normal"))));
                assert!(
                    found.iter().any(|what| what.contains(other.name)),
                    "{} -> {}: {found:?}",
                    one.name,
                    other.name
                );
                let in_tests = crates(&metadata(Some((one.name, other.name, "dev"))));
                assert_eq!(in_tests, Vec::<String>::new(), "dependencies of tests are allowed");
            }
            if one.name != "robeing-coordinator" {
                let found = crates(&metadata(Some((one.name, "openraft-rt", "normal"))));
                assert!(found.iter().any(|what| what.contains("openraft-rt")), "{}: {found:?}", one.name);
            }
        }
        for unclean in ["tokio", "rand", "robeing-platform"] {
            assert!(!crates(&metadata(Some(("robeing-fleet", unclean, "normal")))).is_empty(), "{unclean}");
        }
        let mut unknown = metadata(None);
        unknown["packages"].as_array_mut().unwrap().push(json!({"name": "robeing-new", "dependencies": []}));
        assert_eq!(crates(&unknown), ["robeing-new is not in the table of walls"]);
        let mut gone = metadata(None);
        gone["packages"].as_array_mut().unwrap().pop();
        assert_eq!(crates(&gone).len(), 1, "a crate that no longer exists");
    }

    #[test]
    fn planted_words_are_found_where_they_may_not_stand() {
        for wall in WORDS {
            for word in wall.words {
                let line = format!("    let it = {word};\n");
                for folder in wall.folders {
                    let path = format!("{folder}/anything.rs");
                    assert_eq!(source(&path, &line).len(), 1, "{word} in {path}");
                    let commented = format!("// {word}\n#[cfg(test)]\nmod tests {{\n{line}}}\n");
                    assert_eq!(source(&path, &commented), Vec::<String>::new(), "{word} in a comment and in tests");
                    let after = format!("#[cfg(test)]\nmod fixture;\n{line}");
                    assert_eq!(source(&path, &after).len(), 1, "{word} after a module for tests in {path}");
                    assert_eq!(source(&format!("{folder}/tests/anything.rs"), &line), Vec::<String>::new());
                }
                for allowed in wall.allowed {
                    let path = if allowed.ends_with(".rs") { (*allowed).into() } else { format!("{allowed}/it.rs") };
                    assert_eq!(source(&path, &line), Vec::<String>::new(), "{word} in {path}");
                }
            }
        }
    }
}
