//! Tests of `tests/contained`, which ends a command together with all processes that it started.

use std::{
    fs,
    os::unix::process::{CommandExt as _, ExitStatusExt as _},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::script;

/// The deadline for what a shell does at once; generous, because the machine may be busy.
const SOON: Duration = Duration::from_secs(60);

/// A script that starts processes in different ways, and records their ids and its own.
const FAMILY: &str = r#"
    note() { echo $1 >> "$NOTES/pids"; }
    sleep 1000 & note $!
    setsid sleep 1000 & note $!
    env -i sleep 1000 & note $!
    (trap '' TERM INT HUP; exec sleep 1000) & note $!
    setsid env -i sh -c 'sleep 1000 & echo $! >> "$0/pids"; wait' "$NOTES" & note $!
    echo $$ >> "$NOTES/pids"
    if [ "$ONCE" ]; then while [ "$(wc -l < "$NOTES/pids")" -lt 7 ]; do sleep 0.05; done; exit 3; fi
    wait"#;
const MEMBERS: usize = 7;

/// A family of processes below `tests/contained`.
struct Family {
    notes: TempDir,
    contained: Child,
}

impl Family {
    fn start(arguments: &[&str], once: &str) -> Self {
        let notes = tempfile::tempdir().expect("a temporary folder");
        // Tests that run in the background ignore SIGINT, and a shell can't trap a signal that was ignored when it
        // started.
        let mut command = Command::new("env");
        command
            .arg("--default-signal")
            .args(arguments)
            .env_remove("ROBEING_CONTAINED")
            .env("NOTES", notes.path())
            .env("ONCE", once);
        // There is no devkube in this folder, so that no cluster is removed.
        command.env("CARGO_TARGET_DIR", notes.path()).process_group(0);
        let contained = command.stdin(Stdio::null()).spawn().expect("it can be started");
        Self { notes, contained }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.contained.id()).expect("a process id"))
    }

    fn end(&mut self) -> ExitStatus {
        until("the end", || self.contained.try_wait().expect("it can be waited for"))
    }

    fn members(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.notes.path().join("pids")).unwrap_or_default();
        text.lines().map(|line| line.parse().expect("a process id")).collect()
    }

    fn gather(&self) -> Vec<i32> {
        until("the family", || Some(self.members()).filter(|members| members.len() == MEMBERS))
    }
}

impl Drop for Family {
    /// Kills what a failed test leaves, which would otherwise run forever.
    fn drop(&mut self) {
        for pid in self.members().into_iter().filter(|pid| runs(*pid)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "{what}: not within {SOON:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn runs(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.starts_with(" Z"))
}

fn contained() -> String {
    script("contained").display().to_string()
}

#[test]
fn what_is_ended_takes_with_it_all_that_it_started() {
    let signals = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP];
    let families = signals.map(|signal| (signal, Family::start(&["bash", &contained(), "bash", "-c", FAMILY], "")));
    for (signal, family) in &families {
        assert!(family.gather().into_iter().all(runs), "the family is there");
        kill(family.pid(), *signal).expect("it runs");
    }
    for (signal, mut family) in families {
        let members = family.members();
        let status = family.end();
        assert_eq!(status.signal(), Some(signal as i32), "{status}");
        assert_eq!(members.into_iter().filter(|pid| runs(*pid)).count(), 0, "{signal}: some are left");
    }
}

#[test]
fn what_ends_by_itself_leaves_nothing() {
    let mut family = Family::start(&["bash", &contained(), "bash", "-c", FAMILY], "yes");
    let status = family.end();
    assert_eq!(status.code(), Some(3), "the command's own");
    let members = family.members();
    assert_eq!(members.len(), MEMBERS);
    assert_eq!(members.into_iter().filter(|pid| runs(*pid)).count(), 0, "some are left");
}

/// Runs `tests/contained` from `make`, as the Makefile does, and ends `make` in the ways of a terminal, a service
/// manager, `timeout` and the kernel.
#[test]
fn a_make_that_is_ended_takes_with_it_all_that_it_started() {
    let makefile = fs::read_to_string(script("../Makefile")).expect("the Makefile");
    let definition = makefile.lines().find(|line| line.starts_with("CONTAINED :=")).expect("its definition");
    let definition = definition.replace("tests/contained", &contained());
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("family"), FAMILY).expect("a file");
    let file = folder.path().join("Makefile");
    let text = format!("{definition}\ntest:\n\t@$(CONTAINED) bash {}/family\n", folder.path().display());
    fs::write(&file, text).expect("a file");
    let file = file.display().to_string();
    let make = ["make", "-f", &file];
    type End = fn(Pid);
    let ends: [(&str, End); 4] = [
        ("Ctrl-C", |pid| killpg(pid, Signal::SIGINT).expect("it runs")),
        ("SIGTERM", |pid| kill(pid, Signal::SIGTERM).expect("it runs")),
        ("timeout", |pid| killpg(pid, Signal::SIGTERM).expect("it runs")),
        ("SIGKILL", |pid| kill(pid, Signal::SIGKILL).expect("it runs")),
    ];
    let families = ends.map(|(name, end)| (name, end, Family::start(&make, "")));
    for (_, end, family) in &families {
        assert!(family.gather().into_iter().all(runs), "the family is there");
        end(family.pid());
    }
    for (name, _, mut family) in families {
        let members = family.members();
        let status = family.end();
        assert!(!status.success(), "{name}: {status}");
        until(name, || members.iter().all(|pid| !runs(*pid)).then_some(()));
    }
}
