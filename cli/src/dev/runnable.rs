//! Finds what in a manifest a fleet of local processes can't do, before anything is started: otherwise agents would die
//! again and again, or every task would fail.

use std::{env, ffi::OsStr, path::Path};

use robeing_crds::{Executor, Pool, RobeingClusterSpec};

use super::{Secrets, agent_binary::check};

/// The search path for programs if `PATH` is not set: the same as the system's default.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Returns the problems, as field paths and sentences.
pub(super) fn problems(spec: &RobeingClusterSpec, secrets: &Secrets) -> Vec<(String, String)> {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    problems_with(spec, &path, secrets)
}

fn problems_with(spec: &RobeingClusterSpec, path: &OsStr, secrets: &Secrets) -> Vec<(String, String)> {
    let mut problems = Vec::new();
    for (index, pool) in spec.pools.iter().enumerate() {
        let field = format!("spec.pools[{index}].executor");
        match &pool.executor {
            Executor::Command(command) if has_agents(spec, pool) => {
                let program = command.argv.first().map(String::as_str).unwrap_or_default();
                if let Some(problem) = program_problem(program, path) {
                    problems.push((format!("{field}.command.argv[0]"), problem));
                }
            }
            Executor::Http(http) if has_agents(spec, pool) => {
                for (header, from) in http.headers.iter().enumerate() {
                    let key = from.value_from.as_ref().map(|from| &from.secret_key_ref);
                    if let Some((key, Err(problem))) = key.map(|key| (key, secrets.get(key))) {
                        let problem = format!("The key {} of the Secret {} {problem}.", key.key, key.name);
                        problems.push((format!("{field}.http.headers[{header}].valueFrom.secretKeyRef"), problem));
                    }
                }
            }
            Executor::Command(_) | Executor::Http(_) | Executor::Worker {} | Executor::Echo {} => {}
        }
    }
    problems
}

fn has_agents(spec: &RobeingClusterSpec, pool: &Pool) -> bool {
    !spec.suspend && (pool.replicas != Some(0) || pool.standby > 0)
}

/// Returns why a program can't be run here, as a sentence. A relative path with a slash is not checked here: the agents
/// resolve it.
fn program_problem(program: &str, path: &OsStr) -> Option<String> {
    let here = "robeing dev runs commands on this machine, without the pool's container; install it or use another.";
    if program.contains('/') {
        let problem = check(Path::new(program)).err().filter(|_| program.starts_with('/'))?;
        return Some(format!("The program {program} can't be run ({problem}): {here}"));
    }
    let is_there = env::split_paths(path).any(|directory| check(&directory.join(program)).is_ok());
    (!is_there).then(|| format!("The program {program} is not in PATH: {here}"))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn problems_of(fields: &str, path: &Path) -> Vec<(String, String)> {
        let manifest = format!(
            "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {{name: a}}\nspec: {{{fields}}}\n"
        );
        let cluster = robeing_crds::parse_manifest(&manifest).unwrap_or_else(|error| panic!("{error}"));
        problems_with(&cluster.spec, path.as_os_str(), &Secrets::default())
    }

    #[test]
    fn a_secret_must_be_there() {
        let header = "{name: A, valueFrom: {secretKeyRef: {name: api, key: token}}}";
        let pools = format!("pools: [{{name: p, executor: {{http: {{url: 'http://a', headers: [{header}]}}}}}}]");
        let found = problems_of(&pools, Path::new("/nowhere"));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(found[0].0, "spec.pools[0].executor.http.headers[0].valueFrom.secretKeyRef");
        assert!(found[0].1.starts_with("The key token of the Secret api does not exist"), "{found:?}");
    }

    #[test]
    fn a_program_must_be_there_and_executable() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        for (name, mode) in [("runs", 0o755), ("does-not", 0o644)] {
            let file = dir.path().join(name);
            fs::write(&file, "#!/bin/sh\n").expect("written");
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).expect("it is our file");
        }
        let at = |name: &str| dir.path().join(name).display().to_string();
        for (program, problem) in [
            ("runs".to_owned(), None),
            ("does-not".to_owned(), Some("The program does-not is not in PATH")),
            ("absent".to_owned(), Some("The program absent is not in PATH")),
            ("./absent".to_owned(), None),
            (at("runs"), None),
            (at("does-not"), Some("can't be run (it is not executable)")),
            (at("absent"), Some("can't be run (No such file or directory")),
            (at(""), Some("can't be run (it is not a file)")),
        ] {
            let pools = format!("pools: [{{name: p, executor: {{command: {{argv: ['{program}', x]}}}}}}]");
            let found = problems_of(&pools, dir.path());
            match problem {
                None => assert_eq!(found, [], "{program}"),
                Some(problem) => {
                    assert_eq!(found.len(), 1, "{program}: {found:?}");
                    assert_eq!(found[0].0, "spec.pools[0].executor.command.argv[0]");
                    assert!(found[0].1.contains(problem), "{program}: {found:?}");
                }
            }
        }
    }

    #[test]
    fn a_program_that_nobody_runs_need_not_be_there() {
        let nowhere = Path::new("/nowhere");
        let pool = |more: &str| format!("pools: [{{name: p, {more} executor: {{command: {{argv: [absent]}}}}}}]");
        assert_eq!(problems_of(&pool("replicas: 0,"), nowhere), []);
        assert_eq!(problems_of(&format!("suspend: true, {}", pool("")), nowhere), []);
        assert_eq!(problems_of(&pool("replicas: 0, standby: 1,"), nowhere).len(), 1);
    }
}
