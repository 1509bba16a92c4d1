//! Part of `make lint`: it fails and lists the violations if a crate or a folder violates a dependency rule ("wall"),
//! or a file does not follow the style of the project. With `--table` it prints the crates and what each may use, as in
//! `docs/architecture.md`.

mod check;
mod style;
mod table;

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use serde_json::Value;

/// Folders that are skipped.
const PASSED_OVER: [&str; 2] = ["target", ".git"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn metadata() -> Result<Value, String> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--format-version", "1"])
        .current_dir(root())
        .output()
        .map_err(|error| format!("can't run cargo: {error}"))?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr)));
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && !PASSED_OVER.contains(&&*name) {
            sources(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn violations() -> Result<Vec<String>, String> {
    let mut found = check::crates(&metadata()?);
    let mut files = Vec::new();
    sources(&root(), &mut files).map_err(|error| format!("can't list the sources: {error}"))?;
    files.sort();
    let mut paths = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        let path = file.strip_prefix(root()).unwrap_or(&file).to_string_lossy().into_owned();
        found.extend(check::source(&path, &text));
        found.extend(style::source(&path, &text));
        paths.push(path);
    }
    found.extend(style::modules(&paths));
    Ok(found)
}

fn table() -> String {
    let mut text = String::from("| crate | may use | reason |\n|---|---|---|\n");
    for one in table::CRATES {
        let uses: Vec<String> = one.uses.iter().map(|name| format!("`{name}`")).collect();
        let uses = if uses.is_empty() { "none of the project".to_owned() } else { uses.join(", ") };
        text.push_str(&format!("| `{}` in `{}/` | {uses} | {} |\n", one.name, one.folder, one.why));
    }
    text
}

fn main() -> ExitCode {
    if env::args().nth(1).is_some_and(|argument| argument == "--table") {
        print!("{}", table());
        return ExitCode::SUCCESS;
    }
    match violations() {
        Ok(found) if found.is_empty() => ExitCode::SUCCESS,
        Ok(found) => {
            found.iter().for_each(|what| eprintln!("{what}"));
            eprintln!(
                "{} violations; the table of walls is in tests/walls/src/table.rs, the style in style.rs",
                found.len()
            );
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("can't check the walls: {error}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_across_a_wall_and_all_is_in_one_style() {
        assert_eq!(violations().expect("it can be checked"), Vec::<String>::new());
    }

    #[test]
    fn the_architecture_has_the_table() {
        let page = fs::read_to_string(root().join("docs/architecture.md")).expect("the page");
        assert!(page.contains(&table()), "print it with: target/debug/robeing-walls --table");
    }
}
