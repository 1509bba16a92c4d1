//! Runs programs to completion, with a deadline; errors contain the program's stderr. Independent of clusters.

use std::{ffi::OsStr, path::Path, process::Stdio, time::Duration};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use crate::error::{Error, Result};

/// The bytes of a program's stderr that an error includes.
const STDERR_KEPT: usize = 2_000;
/// The interval between checks of a condition.
const INTERVAL: Duration = Duration::from_millis(100);

/// Formats a command for messages.
pub(crate) fn shown(command: &std::process::Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// Returns a command without stdin that is killed when its handle is dropped.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.kill_on_drop(true).stdin(Stdio::null());
    command
}

/// Runs a command and returns its stdout; `input` is its stdin.
///
/// # Errors
/// If the command can't be started, fails, or takes longer than `deadline`.
pub(crate) async fn run(mut command: Command, input: Option<&[u8]>, deadline: Duration) -> Result<String> {
    if input.is_some() {
        command.stdin(Stdio::piped());
    }
    let shown = shown(command.as_std());
    finish(start(&mut command, &shown)?, &shown, input, deadline).await
}

/// Returns a command that starts others, for [`run_with_children`]: it gets its own process group, and is killed when
/// this process ends.
pub(crate) fn program_with_children(name: &str) -> Command {
    let mut command = program("setpriv");
    command.args(["--pdeathsig", "KILL", name]).process_group(0);
    command
}

/// Like [`run`], but kills the whole process group of the command if it takes too long or if this future is dropped.
///
/// # Errors
/// The same as for [`run`].
pub(crate) async fn run_with_children(mut command: Command, deadline: Duration) -> Result<String> {
    let shown = shown(command.as_std());
    let child = start(&mut command, &shown)?;
    let mut group = Group(child.id().and_then(|pid| i32::try_from(pid).ok()).map(Pid::from_raw));
    let result = finish(child, &shown, None, deadline).await;
    if !matches!(result, Err(Error::Deadline { .. })) {
        // The command has exited, and its id may be reused soon.
        group.0 = None;
    }
    result
}

/// A process group that is killed when this is dropped.
#[derive(Debug)]
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // An error means that the group has just ended, which is the same as killed.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

fn start(command: &mut Command, shown: &str) -> Result<Child> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|source| Error::Start { command: shown.into(), source })
}

async fn finish(mut child: Child, shown: &str, input: Option<&[u8]>, deadline: Duration) -> Result<String> {
    let stdin = child.stdin.take();
    let feeding = async {
        if let (Some(mut stdin), Some(input)) = (stdin, input) {
            // A program that exits before it has read everything reports the reason on stderr.
            let _ = stdin.write_all(input).await;
        }
    };
    let both = async { tokio::join!(feeding, child.wait_with_output()).1 };
    let late = |_| Error::Deadline { what: format!("the end of `{shown}`"), after: deadline, last: String::new() };
    let output = timeout(deadline, both).await.map_err(late)?;
    let output = output.map_err(|source| Error::Start { command: shown.into(), source })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let stderr = tail(&output.stderr, STDERR_KEPT);
    Err(Error::Command { command: shown.into(), status: output.status.to_string(), stderr })
}

/// Returns the last `most` bytes of a text, starting at the beginning of a line if possible.
pub(crate) fn tail(text: &[u8], most: usize) -> String {
    let cut = text.len().saturating_sub(most);
    let kept = String::from_utf8_lossy(&text[cut..]);
    let kept = if cut == 0 { &kept[..] } else { kept.split_once('\n').map_or(&kept[..], |(_, rest)| rest) };
    kept.trim().to_owned()
}

/// Checks a condition until it holds. `look` returns `Ok` if it does, and otherwise a description of what it found.
///
/// # Errors
/// [`Error::Deadline`], with the last description.
pub(crate) async fn eventually<T, F>(what: &str, deadline: Duration, mut look: F) -> Result<T>
where
    F: AsyncFnMut() -> Result<T, String>,
{
    let end = Instant::now() + deadline;
    loop {
        let last = match look().await {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if Instant::now() >= end {
            return Err(Error::Deadline { what: what.into(), after: deadline, last });
        }
        sleep(INTERVAL).await;
    }
}

/// Looks a program up in `PATH`.
pub(crate) fn which(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Process;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_command_is_fed_and_heard() {
        assert_eq!(run(program("cat"), Some(b"hello"), SOON).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_failure_repeats_what_the_command_said() {
        let mut command = program("sh");
        command.args(["-c", "echo no such thing >&2; exit 3"]);
        let error = run(command, None, SOON).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("no such thing"), "{error}");
    }

    #[tokio::test]
    async fn a_command_that_takes_too_long_is_given_up() {
        let mut command = program("sleep");
        command.arg("1000");
        let error = run(command, None, Duration::from_millis(20)).await.unwrap_err();
        assert!(matches!(error, Error::Deadline { .. }), "{error}");
    }

    /// Returns a shell command that waits for a background program, and a function that returns the background process
    /// once it exists.
    fn shell_with_a_child(folder: &Path) -> (Command, impl AsyncFn() -> Process) {
        let note = folder.join("child");
        let mut command = program_with_children("sh");
        command.args(["-c", r#"sleep 1000 & echo $! > "$0.new"; mv "$0.new" "$0"; wait"#]).arg(&note);
        let child = async move || {
            eventually("a child", SOON, async || {
                let pid = std::fs::read_to_string(&note).map_err(|error| error.to_string())?;
                Process::of(pid.trim().parse().unwrap()).ok_or_else(|| String::from("it has ended"))
            })
            .await
            .unwrap()
        };
        (command, child)
    }

    async fn ends(process: Process) {
        let look = async || if process.is_alive() { Err(String::from("it runs")) } else { Ok(()) };
        eventually("the end of the child", SOON, look).await.unwrap();
    }

    #[tokio::test]
    async fn what_a_command_started_ends_with_the_wait_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let (command, child) = shell_with_a_child(folder.path());
        let child = tokio::select! {
            result = run_with_children(command, SOON) => panic!("it has ended: {result:?}"),
            child = child() => child,
        };
        ends(child).await;
    }

    #[tokio::test]
    async fn what_a_command_started_ends_when_it_takes_too_long() {
        let folder = tempfile::tempdir().unwrap();
        let (command, child) = shell_with_a_child(folder.path());
        let (result, child) = tokio::join!(run_with_children(command, Duration::from_secs(5)), child());
        assert!(matches!(result, Err(Error::Deadline { .. })), "{result:?}");
        ends(child).await;
    }

    #[test]
    fn a_tail_starts_with_a_whole_line() {
        assert_eq!(tail(b"one\ntwo\nthree\n", 10), "three");
        assert_eq!(tail(b"one\ntwo\n", 100), "one\ntwo");
    }
}
