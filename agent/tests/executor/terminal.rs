//! Commands of an agent with a terminal have no terminal.

use std::{
    env,
    process::{Command, Stdio},
    time::Duration,
};

use robeing_agent::executor::{Attempt, Outcome};

use crate::fixture::{attempt, output, run, shell};

/// The role this process plays; unset in an ordinary run of the tests.
const PART: &str = "ROBEING_TEST_PART";

/// Runs this binary's `plays_an_agent_at_a_terminal` with a pseudo-terminal as its controlling terminal, by script(1).
#[test]
fn what_reads_from_the_terminal_fails_at_once_and_is_not_stopped() {
    let this = env::current_exe().expect("this binary");
    let test = "terminal::plays_an_agent_at_a_terminal";
    let line = format!("{} --exact {test} --nocapture", this.display());
    let ran = Command::new("script")
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .env(PART, "agent")
        // Nothing is typed, and the terminal does not reach end-of-file either.
        .stdin(Stdio::piped())
        .output()
        .expect("script(1) runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && said.contains("1 passed"), "{said}");
}

/// Not a test, but the agent's process, when the test above requests it.
#[tokio::test]
async fn plays_an_agent_at_a_terminal() {
    if env::var_os(PART).is_none() {
        return;
    }
    assert!(std::fs::File::open("/dev/tty").is_ok(), "the agent itself has a terminal");
    for script in [
        "read x < /dev/tty; echo read $?",
        "echo prompt > /dev/tty; echo wrote $?",
        "stty -F /dev/tty sane; echo set $?",
        "python3 -c 'import getpass; getpass.getpass()'; echo asked $?",
        "ssh -o StrictHostKeyChecking=ask -o BatchMode=no -o ConnectTimeout=1 127.0.0.1 -p 9; echo asked $?",
        "GIT_ASKPASS= SSH_ASKPASS= git -c credential.helper= credential fill <<X\nprotocol=https\nhost=a\n\nX\necho asked $?",
        "tty; ps -o tty= -p $$",
    ] {
        let limited = Attempt { time_limit: Some(Duration::from_secs(60)), ..attempt("") };
        match run(&shell(script), limited).await {
            Outcome::Succeeded { output } => {
                let said = String::from_utf8_lossy(&output).into_owned();
                assert!(!said.ends_with(" 0\n"), "{script}: {said}");
            }
            other => panic!("{script}: {other:?}"),
        }
    }
    let session = output(&shell("echo $$; ps -o sid= -p $$"), attempt("")).await;
    let ids = crate::fixture::numbers(&session);
    assert_eq!(ids[0], ids[1], "a command leads a session of its own");
}
