//! The `command` handler.

use std::{fs, time::Duration};

use robeing_agent::{
    executor::CommandConfig,
    messaging::{
        Outcome, Outgoing,
        handlers::{CommandHandler, HandlerError},
    },
};
use tokio::time::{Instant, sleep};

use crate::fixture::{SOON, accepted, outgoing, pair};

fn shell(script: &str) -> CommandHandler {
    let argv = ["/bin/sh", "-c", script].map(str::to_owned).into();
    CommandHandler::new(CommandConfig { argv, ..CommandConfig::default() }).expect("a command")
}

#[tokio::test]
async fn a_command_gets_the_message_and_its_output_is_the_reply() {
    let script = "read -r text; echo \"$ROBEING_MESSAGE_SENDER $ROBEING_MESSAGE_TYPE $ROBEING_MESSAGE_PRIORITY \
                  $ROBEING_MESSAGE_RESENT ${#ROBEING_MESSAGE_ID} ${ROBEING_MESSAGE_REPLY_TO-none} $text\"";
    let (sender, _receiver) = pair(shell(script)).await;
    let said = sender.send("receiver", "greeting", "hello\n").await;
    assert_eq!(said, accepted("sender greeting 5 false 36 none hello\n"));
}

#[tokio::test]
async fn a_command_that_fails_refuses_with_what_it_says() {
    let (sender, _receiver) = pair(shell("echo 'not today' >&2; exit 3")).await;
    assert_eq!(sender.send("receiver", "t", "").await, Outcome::refused("not today"));
    let (sender, _receiver) = pair(shell("exit 3")).await;
    assert_eq!(sender.send("receiver", "t", "").await, Outcome::refused("the command \"/bin/sh\" exited with code 3"));
}

#[tokio::test]
async fn a_command_that_is_too_slow_leaves_no_process_behind() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pids");
    let (sender, _receiver) = pair(shell(&format!("sleep 600 & echo $$ $! > {}; wait", file.display()))).await;
    let message = Outgoing { deadline: Duration::from_secs(3), ..outgoing("receiver", "t", "") };
    let outcome = tokio::time::timeout(SOON, sender.messenger.send(message)).await.expect("in time");
    assert_eq!(outcome, Outcome::DeadlinePassed { maybe_handled: true });
    let pids = fs::read_to_string(&file).expect("the command has started");
    let runs = |pid: &str| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['Z', 'X']))
    };
    let until = Instant::now() + SOON;
    while pids.split_whitespace().any(runs) {
        assert!(Instant::now() < until, "{pids} still run");
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn a_command_without_a_program_is_refused() {
    let Err(HandlerError::Command(error)) = CommandHandler::new(CommandConfig::default()) else { panic!("accepted") };
    assert!(error.to_string().contains("no program to run"));
}
