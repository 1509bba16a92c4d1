//! Invariants of the tasks in any state.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    BallotId, Feature, Task, TaskState, Verification,
    audit::{COUNTER_ROOM, Check, ensure},
    fleet::State,
    limits::*,
    tasks::{blobs::are_blobs_sound, links::audit::check_links},
};

/// Checks each task on its own. `revisions` collects the revisions of everything checked.
pub(crate) fn check_tasks(state: &State, revisions: &mut BTreeSet<u64>) -> Check {
    let mut ids = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for (seq, task) in &state.tasks.kept {
        let fresh_key = task.idempotency_key.as_ref().is_none_or(|k| keys.insert(k));
        ensure(
            *seq == task.seq
                && *seq < state.tasks.next_seq
                && ids.insert(task.id)
                && fresh_key
                && task.revision <= state.revision
                && revisions.insert(task.revision),
            || format!("task {}: identity", task.id),
        )?;
        check_task(task, state.now.fleet).map_err(|what| format!("task {}: {what}", task.id))?;
        let has_blobs = task.input_ref.is_some() || task.output_ref.is_some();
        ensure(!has_blobs || state.version >= Feature::Blobs.since(), || {
            format!("task {}: references to objects before their version", task.id)
        })?;
        let is_of_version = task.demand.is_none() || state.version >= Feature::Kinds.since();
        ensure(is_of_version, || format!("task {}: several slots or skills before their version", task.id))?;
    }
    check_dead_letters(state)?;
    check_links(state)?;
    check_approvals(state)
}

/// Checks that what features have brought is there with them alone, and that dead letters are failures and not too
/// many.
fn check_dead_letters(state: &State) -> Check {
    let (times, dead) = (Feature::Timing.since(), Feature::DeadLetters.since());
    let mut count = 0;
    for task in state.tasks.kept.values() {
        let is_failure = matches!(task.state, TaskState::Failed | TaskState::DeadLettered);
        let is_sound = (state.version >= times || task.timing.is_none())
            && (state.version >= dead || !task.dead && task.revival.is_none())
            && (!task.dead || is_failure && task.member_of.is_none() && task.links.is_none());
        ensure(is_sound, || format!("task {}: timing or dead letter", task.id))?;
        count += usize::from(task.dead);
    }
    ensure(count <= MAX_DEAD_LETTERS, || format!("{count} dead letters"))
}

/// Checks that a task that waits for an approval has an open ballot of its own, and has not started.
fn check_approvals(state: &State) -> Check {
    let ballots = state.ballots.kept.iter().filter(|ballot| ballot.is_open());
    let open: BTreeSet<BallotId> = ballots.map(|ballot| ballot.id).collect();
    for task in state.tasks.kept.values() {
        let Some(approval) = task.approval else { continue };
        let is_of_task = state.version >= Feature::Approvals.since() && approval.ballot == task.id.ballot();
        let waits = task.awaited_ballot().is_none_or(|ballot| open.contains(&ballot));
        let started = !approval.approved && !task.attempts.is_empty();
        ensure(is_of_task && waits && !started, || format!("task {}: approval", task.id))?;
    }
    check_verifications(state)
}

/// Checks that the members of each task with several runs are there, and that nothing else is a member.
fn check_verifications(state: &State) -> Check {
    let members = state.tasks.kept.values().filter(|task| task.member_of.is_some()).count();
    let (mut listed, mut verified) = (0, 0);
    for task in state.tasks.kept.values() {
        let Some(verification) = &task.verification else { continue };
        let is_sound = state.version >= Feature::Verification.since() && is_sound(state, task, verification);
        ensure(is_sound, || format!("task {}: verification", task.id))?;
        verified += u32::from(!task.state.is_final());
        listed += verification.members.len() + usize::from(verification.comparing.is_some());
    }
    ensure(members == listed, || format!("{members} members instead of {listed}"))?;
    ensure(verified <= MAX_VERIFIED_TASKS, || format!("{verified} tasks with results to be verified"))
}

/// Returns how many pairs there are of so many outputs: as many comparisons as a task may have.
fn pairs_of(outputs: u32) -> u32 {
    outputs * outputs.saturating_sub(1) / 2
}

fn is_sound(state: &State, task: &Task, verification: &Verification) -> bool {
    let Verification { asked, launched, members, answers, failed, comparisons, comparing, stopping } = verification;
    let count = members.len() + answers.len() + failed.len();
    // What follows looks at pairs of them.
    if asked.check().is_err() || count > asked.agents as usize {
        return false;
    }
    let found: Vec<&Task> = members.iter().filter_map(|seq| state.tasks.kept.get(seq)).map(AsRef::as_ref).collect();
    let is_member = |member: &&Task| {
        member.member_of == Some(task.seq)
            && !member.state.is_final()
            && member.input.is_empty()
            && (member.priority, member.idempotency_key.is_none()) == (task.priority, true)
    };
    let holders = found.iter().filter_map(|member| Some(&member.current()?.agent_name));
    let turns: Vec<&Arc<str>> = holders.chain(task.spent()).collect();
    let agents: BTreeSet<&Arc<str>> = turns.iter().copied().collect();
    let mut digests = BTreeSet::new();
    // Of each digest, the first one keeps its output, and the others none.
    let outputs = answers.iter().all(|answer| digests.insert(answer.digest) == answer.output.is_some());
    let ends = match (task.state.is_final(), launched) {
        (true, _) => members.is_empty() && answers.is_empty() && comparing.is_none(),
        (false, false) => {
            let is_new = count + comparisons.len() == 0 && comparing.is_none();
            is_new && (stopping.is_empty() || task.revival.is_some())
        }
        (false, true) => {
            count == asked.agents as usize && verification.agreed().is_none() && verification.is_possible()
        }
    };
    let fits = answers.iter().filter_map(|answer| answer.output.as_ref()).all(|output| output.len() <= MAX_INPUT_BYTES);
    task.member_of.is_none()
        && task.state != TaskState::Assigned
        && found.len() == members.len()
        && members.is_sorted_by(|one, next| one < next)
        && found.iter().all(is_member)
        && agents.len() == turns.len()
        && failed.len() <= asked.agents as usize
        && stopping.len() <= MAX_STOPPING_PARTS
        && outputs
        && fits
        && ends
        && are_comparisons_sound(state, task, verification)
}

/// Checks that no two outputs were compared twice, and that two are being compared exactly if that is needed.
fn are_comparisons_sound(state: &State, task: &Task, verification: &Verification) -> bool {
    let Verification { asked, members, comparisons, comparing, .. } = verification;
    let pairs: BTreeSet<(u32, u32)> = comparisons.iter().map(|found| (found.one, found.other)).collect();
    let is_comparison = |child: &Arc<Task>| {
        child.member_of == Some(task.seq)
            && !child.state.is_final()
            && child.input.is_empty()
            && asked.compare.as_ref() == Some(&child.kind)
            && asked.compare == child.required_specialization
            && (child.team, child.resources.is_none(), child.verification.is_none()) == (None, true, true)
            && child.demand.is_none()
    };
    let exists = |seq: &u64| !members.contains(seq) && state.tasks.kept.get(seq).is_some_and(is_comparison);
    pairs.len() == comparisons.len()
        && pairs.len() <= pairs_of(asked.agents) as usize
        && (asked.compare.is_some() || pairs.is_empty())
        && pairs.iter().all(|(one, other)| one < other)
        && comparing.is_some() == verification.compared().is_some()
        && comparing.iter().all(exists)
}

fn check_task(task: &Task, now: u64) -> Check {
    let last = MAX_TIME_MS + MAX_DURATION_MS;
    let past = [Some(task.submitted_at), task.finished_at].into_iter().flatten();
    let times = [task.deadline, task.not_before, task.expires_at];
    let kept = &task.attempts;
    let (latest, earlier) = match kept.split_last() {
        Some((latest, earlier)) => (Some(latest), earlier),
        None => (None, &kept[..]),
    };
    let rules = [
        (
            "limits",
            !task.kind.is_empty()
                && (1..=MAX_PRIORITY).contains(&task.priority)
                && task.retry.check("retry").is_ok()
                && task.input.len() <= MAX_INPUT_BYTES
                && task.output.as_ref().is_none_or(|o| o.len() <= MAX_INPUT_BYTES)
                && task.result_ttl <= MAX_DURATION_MS
                && task.attempt_timeout.is_none_or(|t| t <= MAX_DURATION_MS),
        ),
        ("demand", task.demand.as_ref().is_none_or(|of| of.is_sound(task.required_specialization.as_deref()))),
        ("times", times.into_iter().flatten().all(|t| t <= last) && past.into_iter().all(|at| at.fleet <= now)),
        (
            "final state",
            task.state.is_final() == task.finished_at.is_some()
                && task.finished_at.is_some() == task.expires_at.is_some(),
        ),
        ("output", task.output.is_some() == (task.state == TaskState::Succeeded)),
        ("backoff", task.not_before.is_none() || task.state == TaskState::Queued),
        ("references to objects", are_blobs_sound(task)),
        ("displaced", task.displaced_from.is_none() || task.is_ready()),
        ("kept attempts", kept.len() <= MAX_KEPT_ATTEMPTS),
        (
            "fencing",
            kept.windows(2).all(|w| w[0].number < w[1].number) && latest.is_none_or(|a| a.number == task.attempt),
        ),
        (
            "one current attempt",
            earlier.iter().all(|a| a.end.is_some()) && task.current().is_some() == (task.state == TaskState::Assigned),
        ),
        ("attempt number", u64::from(task.attempt) < COUNTER_ROOM >> 32),
        ("attempts used", task.attempts_used <= task.retry.max_attempts),
        ("timing", task.timing.as_ref().is_none_or(|timing| timing.asked.check().is_ok())),
        (
            "queue expiry",
            task.queue_until().is_none_or(|at| task.state == TaskState::Queued && at <= last + MAX_DURATION_MS),
        ),
        ("revival", task.revival.as_ref().is_none_or(|revival| revival.at.fleet <= now)),
    ];
    match rules.into_iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(what.to_owned()),
        None => Ok(()),
    }
}
