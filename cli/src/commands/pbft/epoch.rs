//! `robeing pbft epoch`: other members follow, by a decision of the present ones.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use robeing_client::FleetClient;
use robeing_groups::{
    Enrolment, Group, GroupError, MAX_AGE_MS, MAX_GROUP_FILE_BYTES, NextEpoch, Signed,
    exchange::{self, Approved, Ask, Enrolled, HandedOver},
};
use robeing_votes::FileOutcome;
use tokio::time::{Instant, sleep};

use super::{
    ANSWER_WITHIN, DECIDE_WITHIN, PbftError,
    asking::{all, any_answer, ask},
    ballots, files,
};
use crate::{
    args::{Connection, EpochArgs},
    commands::connect::client,
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{group_text, note},
};

/// How long the members may take to prove the state with which the next epoch starts.
const PROVE_WITHIN: Duration = Duration::from_secs(30);
/// How long enrolments are new enough for sure.
const NEW_FOR: Duration = Duration::from_millis(MAX_AGE_MS / 2);
/// Pause between two questions for what the members are to prove or approve.
const POLL_PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn change(args: EpochArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let path = files::path_of(&args.group)?;
    let group = files::described(&path)?;
    let client = client(fleet, None, Access::Use).await?;
    let trusted = client.trusted().ok_or(PbftError::NoTrust)?;
    group.check_trust(&trusted).map_err(PbftError::Group)?;
    // An earlier call may have been interrupted when the epoch had ended.
    if let Some(next) = pending(&path)?
        && let Some(later) = ended(&client, &group, &next, Duration::ZERO).await?
    {
        return finish(&client, &later, &path).await;
    }
    let next = enrolled(&client, &group, &args).await?;
    next.check_trust(&trusted).map_err(PbftError::Group)?;
    // Or of somebody else, who did not keep the enrolments: new ones are of the same disks and keys.
    if let Some(later) = ended(&client, &group, next.signed(), Duration::ZERO).await? {
        return finish(&client, &later, &path).await;
    }
    // Before the epoch ends: without the enrolments, nobody could describe the next one.
    let json = serde_json::to_string_pretty(next.signed()).unwrap_or_default();
    files::write(&pending_of(&path), &json)?;
    let since = Instant::now();
    let report = ballots::decide(&client, &group, next.question(), args.deadline).await?;
    if report.record.outcome != FileOutcome::Approved {
        let votes = format!("{} of {} have voted", report.record.votes.len(), group.names().count());
        return Err(PbftError::NotApproved(votes).into());
    }
    let next = renewed(&client, &group, &args, (next, since)).await?;
    let approvals = approvals(&client, &group, &next).await?;
    let question = Ask::Change { group: group.name().to_owned(), next: next.signed().to_vec(), approvals };
    if let Err(error) = any_answer(&client, &group, &question, DECIDE_WITHIN).await {
        // It may have been decided nevertheless.
        note(&error.to_string());
    }
    match ended(&client, &group, next.signed(), PROVE_WITHIN).await? {
        Some(later) => finish(&client, &later, &path).await,
        None => Err(PbftError::NotApproved("the epoch has not ended in time; call it again".into()).into()),
    }
}

/// Has the members of the next epoch enrol.
async fn enrolled(client: &FleetClient, group: &Group, args: &EpochArgs) -> Result<NextEpoch, CliError> {
    for name in &args.remove {
        if group.key_of(name).is_none() {
            return Err(PbftError::NoMember(name.clone()).into());
        }
    }
    let stay = group.names().map(str::to_owned).filter(|name| !args.remove.contains(name));
    let names: Vec<String> = stay.chain(args.add.iter().cloned()).collect();
    let members = Enrolment::in_order(&names).map_err(PbftError::Group)?;
    let mut signed = Vec::new();
    for member in &members {
        let question = Ask::EnrolNext { group: group.name().to_owned(), members: members.clone() };
        let answer = ask(client, member, &question, ANSWER_WITHIN).await??;
        let answer: Enrolled = exchange::read("answer of a member", &answer).map_err(PbftError::Group)?;
        signed.push(answer.enrolment);
    }
    Ok(NextEpoch::verify(group, signed).map_err(PbftError::Group)?)
}

/// Has the next members enrol again if the present ones have taken long to vote, as these approve only what is new. The
/// disks and keys are the same, so the ballot is about them, too.
async fn renewed(
    client: &FleetClient,
    group: &Group,
    args: &EpochArgs,
    (next, since): (NextEpoch, Instant),
) -> Result<NextEpoch, CliError> {
    if since.elapsed() < NEW_FOR {
        return Ok(next);
    }
    let again = enrolled(client, group, args).await?;
    if again.membership() == next.membership() {
        return Ok(again);
    }
    let problem = "an agent has another disk or key than when they voted; call it again";
    Err(PbftError::NotApproved(problem.into()).into())
}

/// Gets the approvals of a quorum of the members.
async fn approvals(
    client: &FleetClient,
    group: &Group,
    next: &NextEpoch,
) -> Result<Vec<robeing_votes::Base64>, CliError> {
    let need = group.epoch().quorums().quorum();
    let until = Instant::now() + PROVE_WITHIN;
    let question = Ask::Approve { group: group.name().to_owned(), next: next.signed().to_vec() };
    let members: Vec<&str> = group.names().collect();
    loop {
        let (mut approvals, mut problem) = (Vec::new(), String::new());
        for (member, answer) in all(&members, need, |member| ask(client, member, &question, ANSWER_WITHIN)).await? {
            match answer {
                Ok(answer) => match exchange::read::<Approved>("answer of a member", &answer) {
                    // One that is none would have the group refuse all of them.
                    Ok(Approved { approval }) if next.is_approval(group, member, &approval) => approvals.push(approval),
                    _ => problem = format!("{member} has not approved them, and says that it has"),
                },
                Err(error) => problem = error.to_string(),
            }
            if approvals.len() == need {
                return Ok(approvals);
            }
        }
        // Some may only be about to execute the last vote.
        if Instant::now() >= until {
            return Err(PbftError::NotApproved(problem).into());
        }
        sleep(POLL_PAUSE).await;
    }
}

/// Returns the group in its next epoch, once a member proves that the present one has ended with it.
async fn ended(
    client: &FleetClient,
    group: &Group,
    next: &[Signed],
    within: Duration,
) -> Result<Option<Group>, CliError> {
    let until = Instant::now() + within;
    let question = Ask::Handover { group: group.name().to_owned() };
    let (members, quorum): (Vec<&str>, usize) = (group.names().collect(), group.epoch().quorums().quorum());
    loop {
        for (member, answer) in all(&members, quorum, |member| ask(client, member, &question, ANSWER_WITHIN)).await? {
            let Ok(answer) = answer else { continue };
            let Ok(over) = exchange::read::<HandedOver>("answer of a member", &answer) else { continue };
            let file = group.file().clone().followed_by(next.to_vec(), over.decision, over.stable);
            match file.verify() {
                Ok(later) => return Ok(Some(later)),
                Err(error) => note(&format!("{member}: {error}")),
            }
        }
        if Instant::now() >= until {
            return Ok(None);
        }
        sleep(POLL_PAUSE).await;
    }
}

/// Keeps the description of the next epoch, and has its members start.
async fn finish(client: &FleetClient, later: &Group, path: &Path) -> Result<Exit, CliError> {
    let json = later.file().to_json();
    if json.len() > MAX_GROUP_FILE_BYTES {
        let (what, bytes, most) = ("description of the group", json.len(), MAX_GROUP_FILE_BYTES);
        return Err(PbftError::Group(GroupError::TooLarge { what, bytes, most }).into());
    }
    files::write(path, &json)?;
    // It is not needed any more, and is replaced by the next one otherwise.
    let _ = fs::remove_file(pending_of(path));
    let question = Ask::Form { file: later.file().clone() };
    for member in later.names() {
        // The others go on without it if there are enough of them.
        if let Err(error) = ask(client, member, &question, ANSWER_WITHIN).await? {
            note(&format!("{error}; call `robeing pbft form` with the members of this epoch when it runs"));
        }
    }
    io::stdout().lock().write_all(group_text(later, path).as_bytes())?;
    Ok(Exit::Success)
}

/// The file with the enrolments of the next epoch, beside the description of the group.
fn pending_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

/// Reads the enrolments of an earlier call.
fn pending(path: &Path) -> Result<Option<Vec<Signed>>, CliError> {
    let file = pending_of(path);
    if !file.exists() {
        return Ok(None);
    }
    let json = files::read(&file, MAX_GROUP_FILE_BYTES)?;
    Ok(serde_json::from_slice(&json).ok())
}
