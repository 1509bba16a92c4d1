//! What an agent lacks temporarily is not the fault of its tasks.

use std::{
    env,
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use nix::unistd::{Uid, geteuid, setuid};
use robeing_agent::executor::{
    CommandConfig, CommandExecutor, Executor, FailureKind, Guard, HttpConfig, HttpExecutor, Outcome,
};
use tokio::sync::watch;

use crate::fixture::{SOON, alive, attempt, eventually, failure, kill, limits, output, run};

/// The role this process plays; unset in an ordinary run of the tests.
const PART: &str = "ROBEING_TEST_PART";

fn executor(program: &Path, guard: Option<Arc<Guard>>) -> (CommandExecutor, watch::Receiver<bool>) {
    let argv = vec![program.display().to_string()];
    let executor = CommandExecutor::new(CommandConfig { argv, limits: limits(), guard }).expect("a good configuration");
    let presence = executor.presence().expect("it says whether it can");
    (executor, presence)
}

/// Runs an attempt that can't start, after which the agent must leave.
async fn is_short(executor: &CommandExecutor, presence: &mut watch::Receiver<bool>) {
    assert!(*presence.borrow_and_update());
    assert_eq!(run(executor, attempt("input")).await, Outcome::NotBegun);
    assert!(!*presence.borrow_and_update(), "the agent is to leave");
}

async fn returns(presence: &mut watch::Receiver<bool>) {
    let returned = tokio::time::timeout(SOON, presence.wait_for(|present| *present)).await;
    returned.expect("it comes back").expect("the executor is there");
}

fn write_program(path: &Path, says: &str) {
    fs::write(path, format!("#!/bin/sh\necho {says}\n")).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it is our file");
}

#[tokio::test]
async fn a_program_that_is_being_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    write_program(&program, "done");
    let (executor, mut presence) = executor(&program, None);
    let writing = OpenOptions::new().append(true).open(&program).expect("it is our file");
    is_short(&executor, &mut presence).await;
    drop(writing);
    returns(&mut presence).await;
    assert_eq!(output(&executor, attempt("")).await, "done\n");
}

#[tokio::test]
async fn a_program_that_is_written_for_a_moment_is_waited_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    write_program(&program, "done");
    let (executor, presence) = executor(&program, None);
    let writing = OpenOptions::new().append(true).open(&program).expect("it is our file");
    let attempt = attempt("");
    let mut running = std::pin::pin!(run(&executor, attempt));
    let waited = tokio::time::timeout(std::time::Duration::from_millis(30), running.as_mut()).await;
    assert!(waited.is_err(), "it is tried again: {waited:?}");
    drop(writing);
    assert_eq!(running.await, Outcome::Succeeded { output: "done\n".into() });
    assert!(*presence.borrow());
}

#[tokio::test]
async fn a_program_that_is_gone_for_a_while() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    write_program(&program, "first");
    let (executor, mut presence) = executor(&program, None);
    assert_eq!(output(&executor, attempt("")).await, "first\n");
    fs::remove_file(&program).expect("it is there");
    is_short(&executor, &mut presence).await;
    // Another program that is not executable yet does not count either.
    fs::write(&program, "#!/bin/sh\necho second\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is our file");
    returns(&mut presence).await;
    assert_eq!(output(&executor, attempt("")).await, "second\n");
}

#[tokio::test]
async fn an_interpreter_that_is_gone_for_a_while() {
    let directory = tempfile::tempdir().expect("a directory");
    let (program, interpreter) = (directory.path().join("program"), directory.path().join("interpreter"));
    fs::copy("/bin/sh", &interpreter).expect("copied");
    fs::write(&program, format!("#! {} -e\necho done\n", interpreter.display())).expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is our file");
    let (executor, mut presence) = executor(&program, None);
    assert_eq!(output(&executor, attempt("")).await, "done\n");
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o644)).expect("it is our file");
    is_short(&executor, &mut presence).await;
    fs::set_permissions(&interpreter, fs::Permissions::from_mode(0o755)).expect("it is our file");
    returns(&mut presence).await;
    fs::rename(&interpreter, directory.path().join("elsewhere")).expect("it is there");
    is_short(&executor, &mut presence).await;
    fs::rename(directory.path().join("elsewhere"), &interpreter).expect("it is there");
    returns(&mut presence).await;
    assert_eq!(output(&executor, attempt("")).await, "done\n");
}

/// Atomically replaces a program, as installers do.
fn install(program: &Path, content: &[u8]) {
    let new = program.with_extension("new");
    fs::write(&new, content).expect("written");
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).expect("it is our file");
    fs::rename(new, program).expect("the same folder");
}

#[tokio::test]
async fn a_program_that_is_none_for_this_machine() {
    let directory = tempfile::tempdir().expect("a directory");
    let (program, other) = (directory.path().join("program"), directory.path().join("other"));
    let mut foreign = fs::read("/bin/sh").expect("there is a shell");
    // For a machine that does not exist: see elf(5).
    foreign[18..20].fill(0xff);
    install(&other, &foreign);
    let by_another = format!("#!{}\nexit 0\n", other.display());
    for content in [&b""[..], b"exit 0\n", b"\x7fELF", &foreign, by_another.as_bytes()] {
        write_program(&program, "done");
        let (executor, mut presence) = executor(&program, None);
        install(&program, content);
        is_short(&executor, &mut presence).await;
        install(&program, b"#!/bin/sh\necho done\n");
        returns(&mut presence).await;
        assert_eq!(output(&executor, attempt("")).await, "done\n");
    }
}

#[tokio::test]
async fn a_program_whose_loader_or_interpreter_is_not_on_this_machine() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    let mut shell = fs::read("/bin/sh").expect("there is a shell");
    let loader = shell.windows(4).position(|bytes| bytes == b"/lib").expect("it is linked dynamically");
    shell[loader..loader + 4].copy_from_slice(b"/xib");
    let deep = |n: u32| directory.path().join(format!("deep-{n}"));
    install(&deep(0), b"#!/bin/sh\n");
    (1..8).for_each(|n| install(&deep(n), format!("#!{}\n", deep(n - 1).display()).as_bytes()));
    let too_deep = fs::read(deep(7)).expect("written");
    for content in [shell, too_deep] {
        write_program(&program, "done");
        let (executor, mut presence) = executor(&program, None);
        install(&program, &content);
        let config = CommandConfig { argv: vec![program.display().to_string()], limits: limits(), guard: None };
        let refused = config.check_program().expect_err("it can't be run").to_string();
        assert!(refused.contains("or the interpreter or the loader it names does not"), "{refused}");
        is_short(&executor, &mut presence).await;
        install(&program, b"#!/bin/sh\necho done\n");
        returns(&mut presence).await;
    }
}

#[tokio::test]
async fn a_program_that_can_never_be_run_is_told_as_such() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    fs::write(&program, "#!/no/such/interpreter\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is our file");
    let (executor, presence) = executor(&program, None);
    let failed = failure(&executor, attempt("")).await;
    assert_eq!((failed.kind, failed.retryable), (FailureKind::Spawn, true));
    assert!(failed.message.contains("or the interpreter or the loader it names does not"), "{}", failed.message);
    assert!(*presence.borrow(), "it is the program's fault, and the task says so");
}

#[tokio::test]
async fn a_guard_that_is_gone_with_its_program() {
    let directory = tempfile::tempdir().expect("a directory");
    let (program, guarding) = (directory.path().join("program"), directory.path().join("guard"));
    write_program(&program, "done");
    // It reads its input, as a guard does.
    fs::copy("/bin/cat", &guarding).expect("copied");
    let guard = Arc::new(Guard::spawn_with(&guarding, [""; 0]).expect("it starts"));
    let (executor, mut presence) = executor(&program, Some(Arc::clone(&guard)));
    assert_eq!(output(&executor, attempt("")).await, "done\n");
    fs::remove_file(&guarding).expect("it is there");
    let pid = guard.pid().cast_signed();
    kill(pid);
    eventually("the guard is dead", || !alive(pid)).await;
    is_short(&executor, &mut presence).await;
    fs::copy("/bin/cat", &guarding).expect("copied");
    returns(&mut presence).await;
    assert_eq!(output(&executor, attempt("")).await, "done\n");
}

/// Runs one of the tests below in its own process, after a line of shell.
fn play(first: &str, test: &str) {
    let this = env::current_exe().expect("this binary");
    let line = format!("{first}; exec \"$0\" --exact shortage::{test} --nocapture");
    let ran = Command::new("/bin/sh").args(["-c", &line]).arg(this).env(PART, "agent").output().expect("sh runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
}

/// All file descriptors of the process are in use.
#[test]
fn no_more_files() {
    play("ulimit -n 64", "plays_an_agent_without_files");
}

/// The process switches to another user.
#[test]
fn no_more_processes() {
    play(":", "plays_an_agent_without_processes");
}

/// The directory in which the agent was started is removed.
#[test]
fn no_working_directory() {
    play("directory=$(mktemp -d); cd $directory; rmdir $directory", "plays_an_agent_without_a_directory");
}

/// Not a test, but the agent's process, when the test above requests it.
#[tokio::test]
async fn plays_an_agent_without_a_directory() {
    if env::var_os(PART).is_none() {
        return;
    }
    let (executor, mut presence) = executor(Path::new("/bin/cat"), None);
    is_short(&executor, &mut presence).await;
    assert!(tokio::time::timeout(std::time::Duration::from_secs(3), returns(&mut presence)).await.is_err());
}

/// Not a test, but the agent's process, when the test above requests it.
#[tokio::test]
async fn plays_an_agent_without_processes() {
    if env::var_os(PART).is_none() {
        return;
    }
    // The process limit does not apply to root.
    let other = geteuid().is_root().then(|| Uid::from_raw(64_321));
    let as_other = other.map(|uid| format!("setpriv --reuid={uid}")).unwrap_or_default();
    // Each process sets this process's limit once it is signalled, and must be running before no new one can start.
    let later = |soft: &str| {
        let prlimit = format!("prlimit --pid {} --nproc={soft}:", std::process::id());
        let line = format!("hard=$(ulimit -Hu); read; exec {as_other} {prlimit}");
        Command::new("/bin/bash").args(["-c", &line]).stdin(Stdio::piped()).spawn().expect("bash runs")
    };
    let set = |mut later: Child| {
        writeln!(later.stdin.take().expect("it is piped")).expect("it reads");
        assert!(later.wait().expect("it is a child").success());
    };
    let (limit, lift) = (later("1"), later("$hard"));
    if let Some(uid) = other {
        setuid(uid).expect("root may become anybody");
    }
    let (executor, mut presence) = executor(Path::new("/bin/cat"), None);
    assert_eq!(output(&executor, attempt("input")).await, "input");
    set(limit);
    is_short(&executor, &mut presence).await;
    // A look-up of a name needs a thread.
    let url = "http://localhost:9/".to_owned();
    let server = HttpExecutor::new(HttpConfig { url, ..HttpConfig::default() }).expect("a good configuration");
    assert_eq!(run(&server, attempt("")).await, Outcome::NotBegun);
    assert!(tokio::time::timeout(std::time::Duration::from_secs(3), returns(&mut presence)).await.is_err());
    set(lift);
    returns(&mut presence).await;
    assert_eq!(output(&executor, attempt("input")).await, "input");
}

/// Not a test, but the agent's process, when the test above requests it.
#[tokio::test]
async fn plays_an_agent_without_files() {
    if env::var_os(PART).is_none() {
        return;
    }
    let (executor, mut presence) = executor(Path::new("/bin/cat"), None);
    assert_eq!(output(&executor, attempt("input")).await, "input");
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(!files.is_empty());
    is_short(&executor, &mut presence).await;
    // Too few file descriptors for all the pipes of a command.
    files.truncate(files.len() - 3);
    assert!(tokio::time::timeout(std::time::Duration::from_secs(3), returns(&mut presence)).await.is_err());
    drop(files);
    returns(&mut presence).await;
    assert_eq!(output(&executor, attempt("input")).await, "input");
}
