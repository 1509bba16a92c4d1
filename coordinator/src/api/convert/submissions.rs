//! Conversion of submissions to the fleet's form.

use robeing_fleet::{
    Amounts, AskedLane, Demand, Jitter, RetryPolicy, Role, Stamp, SubmitTask, TaskId, TaskResources, Timing,
    UnixMillis, Verify,
    limits::{DEFAULT_PRIORITY, DEFAULT_QUEUE},
};
use robeing_proto::v1;

use super::{
    agents::agent_role,
    blobs::blob_ref,
    failures::{failure_match, told_failure_match},
    fields::{BadField, bad, millis, some, task_id, team_id},
    links::asked_links,
    resources::amounts,
};
use crate::clock::SLEW_PART;

fn submitted_role(role: i32) -> Result<Option<Role>, BadField> {
    match v1::Role::try_from(role) {
        Ok(v1::Role::Unspecified) => Ok(None),
        Ok(role) => agent_role(role).map(Some).map_err(|_| bad("required_role", "coordinators run no tasks")),
        Err(_) => Err(bad("required_role", format!("unknown role {role}"))),
    }
}

fn retry(policy: Option<v1::RetryPolicy>, default: RetryPolicy) -> Result<Option<RetryPolicy>, BadField> {
    let Some(policy) = policy else { return Ok(None) };
    let or = |value: u32, default: u32| if value == 0 { default } else { value };
    let initial_backoff = millis("retry.initial_backoff", policy.initial_backoff)?.unwrap_or(default.initial_backoff);
    let max_backoff = millis("retry.max_backoff", policy.max_backoff)?;
    Ok(Some(RetryPolicy {
        max_attempts: or(policy.max_attempts, default.max_attempts),
        initial_backoff,
        max_backoff: max_backoff.unwrap_or(default.max_backoff.max(initial_backoff)),
        multiplier_percent: or(policy.multiplier_percent, default.multiplier_percent),
    }))
}

/// Converts the rules about time and retries that only some tasks have. The seed of their jitter is not drawn yet.
pub fn timing(
    queue_expiry: Option<prost_types::Duration>,
    progress_timeout: Option<prost_types::Duration>,
    retry: Option<&v1::RetryPolicy>,
) -> Result<Option<Box<Timing>>, BadField> {
    let percent = retry.map_or(0, |retry| retry.jitter_percent);
    let named = retry.into_iter().flat_map(|retry| &retry.non_retryable);
    let timing = Timing {
        queue_expiry: millis("queue_expiry", queue_expiry)?,
        progress_timeout: millis("progress_timeout", progress_timeout)?,
        jitter: (percent > 0).then_some(Jitter { percent, seed: 0 }),
        non_retryable: named.cloned().map(failure_match).collect::<Result<_, _>>()?,
    };
    Ok((timing != Timing::default()).then(|| Box::new(timing)))
}

/// Converts the rules about retries to their API form: the jitter, and what is not tried again.
pub fn told_retries(timing: Option<&Timing>) -> (u32, Vec<v1::FailureMatch>) {
    let jitter = timing.and_then(|timing| timing.jitter).map_or(0, |jitter| jitter.percent);
    (jitter, timing.map_or(Vec::new(), |of| of.non_retryable.iter().map(told_failure_match).collect()))
}

/// Returns how much fleet time passes until this wall time, ms. Fleet time that is behind runs faster, and such that is
/// ahead runs slower, until both are the same. Rounded so that nothing starts too early.
fn fleet_time_until(at: UnixMillis, now: Stamp) -> u64 {
    let left = at.saturating_sub(now.wall);
    match now.wall.checked_sub(now.fleet) {
        Some(behind) => left.saturating_add(behind.min(left.div_ceil(SLEW_PART))),
        None => left - (now.fleet - now.wall).min(left / SLEW_PART),
    }
}

/// Replaces the time before which a task is not started, a wall time, by its delay from `now`, which is read only if there
/// is such a time.
///
/// # Errors
/// There is a delay, too, or the time is none.
pub fn start_after(spec: &mut v1::TaskSpec, now: impl FnOnce() -> Stamp) -> Result<(), BadField> {
    const FIELD: &str = "not_before";
    let Some(at) = spec.not_before.take() else { return Ok(()) };
    if spec.delay.is_some() {
        return Err(bad(FIELD, "there is a delay, too; set one of them"));
    }
    let nanos = u64::try_from(at.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    let nanos = nanos.ok_or_else(|| bad(FIELD, "its nanoseconds are not 0 to 999999999"))?;
    // What has begun before 1970 has begun. A part of a millisecond counts as one, so that nothing starts too early.
    let millis = u64::try_from(at.seconds).unwrap_or(0).saturating_mul(1_000).saturating_add(nanos.div_ceil(1_000_000));
    let left = fleet_time_until(millis, now());
    let (seconds, nanos) = (i64::try_from(left / 1_000).unwrap_or(i64::MAX), (left % 1_000) as i32 * 1_000_000);
    spec.delay = (left > 0).then_some(prost_types::Duration { seconds, nanos });
    Ok(())
}

/// Converts the resources that a task needs.
fn resources(needed: Option<v1::ResourceAmounts>, queue: &str) -> Option<Box<TaskResources>> {
    let amounts = needed.map_or(Amounts::NONE, |needed| amounts(&needed));
    let queue = if queue.is_empty() { DEFAULT_QUEUE } else { queue };
    (amounts != Amounts::NONE).then(|| Box::new(TaskResources { amounts, queue: queue.to_owned() }))
}

/// Converts where a task waits. What goes without saying is left out, because coordinators of older versions can't read
/// it.
fn lane(queue: String, limit_key: String, has_resources: bool) -> Option<Box<AskedLane>> {
    let queue = if has_resources || queue == DEFAULT_QUEUE { String::new() } else { queue };
    let lane = AskedLane { queue, limit_key, identity: String::new() };
    (lane != AskedLane::default()).then(|| Box::new(lane))
}

/// Converts what a task takes beyond one slot and one skill; `None` if it does not say.
fn demand(slots: u32, skills: Vec<String>) -> Option<Box<Demand>> {
    (slots > 0 || !skills.is_empty()).then(|| Box::new(Demand { slots, skills, store: false }))
}

/// Converts a submission. `fresh` returns the id for one that has none.
pub fn submission(
    spec: v1::TaskSpec,
    default_retry: RetryPolicy,
    fresh: impl FnOnce() -> u128,
) -> Result<SubmitTask, BadField> {
    let id = if spec.id.is_empty() { TaskId(fresh()) } else { task_id(&spec.id)? };
    let priority = match spec.priority {
        0 => DEFAULT_PRIORITY,
        priority => u8::try_from(priority).map_err(|_| bad("priority", "it is 1 (last) to 10 (first)"))?,
    };
    if spec.agents > 1 {
        let problem = "only a task that is submitted is split among agents, and neither a subtask nor a schedule's run";
        return Err(bad("agents", problem));
    }
    let team = if spec.team.is_empty() { None } else { Some(team_id("team", &spec.team)?) };
    let resources = resources(spec.resources, &spec.queue);
    let timing = timing(spec.queue_expiry, spec.progress_timeout, spec.retry.as_ref())?;
    let links = asked_links(spec.depends_on, spec.passing, (spec.split, spec.inputs.len()), spec.part_of)?;
    Ok(SubmitTask {
        timing,
        team,
        // Without a team it says nothing, and coordinators of older versions can't read it.
        team_term: team.and(Some(spec.team_term).filter(|term| *term > 0)),
        #[cfg(feature = "trial")]
        trial: robeing_fleet::trial::is_known() && spec.kind.starts_with("trial:"),
        priority,
        deadline_in: millis("deadline_in", spec.deadline_in)?,
        delay: millis("delay", spec.delay)?,
        attempt_timeout: millis("attempt_timeout", spec.attempt_timeout)?,
        retry: retry(spec.retry, default_retry)?,
        required_role: submitted_role(spec.required_role)?,
        required_specialization: some(spec.required_specialization),
        idempotency_key: some(spec.idempotency_key),
        result_ttl: millis("result_ttl", spec.result_ttl)?,
        submitter: spec.submitter,
        lane: lane(spec.queue, spec.limit_key, resources.is_some()),
        resources,
        demand: demand(spec.slots, spec.skills),
        verify: spec.verify.map(|v1::Verify { agents, agree, pointer, compare }| {
            Box::new(Verify { agents, agree, pointer, compare: some(compare) })
        }),
        links,
        input_ref: spec.input_ref.map(|blob| blob_ref("input_ref", &blob).map(Box::new)).transpose()?,
        ..SubmitTask::new(id, spec.kind, spec.input)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_term_of_a_leader_counts_with_a_team_alone() {
        let read = |team: &str, team_term| {
            let spec = v1::TaskSpec { team: team.to_owned(), team_term, ..v1::TaskSpec::default() };
            let task = submission(spec, RetryPolicy::default(), || 7).expect("it is right");
            (task.team.is_some(), task.team_term)
        };
        let team = "00000000-0000-0000-0000-000000000001";
        assert_eq!(read("", 3), (false, None));
        assert_eq!(read(team, 3), (true, Some(3)));
        assert_eq!(read(team, 0), (true, None));
    }

    #[test]
    fn a_submission_that_says_nothing_of_slots_and_skills_can_be_read_by_any_version() {
        let read = |slots, skills: &[&str]| {
            let skills = skills.iter().map(|skill| (*skill).to_owned()).collect();
            let spec = v1::TaskSpec { slots, skills, ..v1::TaskSpec::default() };
            let task = submission(spec, RetryPolicy::default(), || 7).expect("it is right");
            task.demand.map(|demand| (demand.slots, demand.skills.len()))
        };
        assert_eq!(read(0, &[]), None);
        assert_eq!(read(1, &[]), Some((1, 0)), "whatever its kind says");
        assert_eq!(read(0, &["ocr"]), Some((0, 1)));
    }

    #[test]
    fn outputs_are_compared_by_tasks_of_a_kind_if_one_is_given() {
        let read = |compare: &str| {
            let verify = v1::Verify { agents: 3, agree: 2, pointer: None, compare: compare.to_owned() };
            let spec = v1::TaskSpec { verify: Some(verify), ..v1::TaskSpec::default() };
            submission(spec, RetryPolicy::default(), || 7).map(|task| task.verify.and_then(|verify| verify.compare))
        };
        assert_eq!((read(""), read("near")), (Ok(None), Ok(Some("near".to_owned()))));
    }

    #[test]
    fn rules_about_time_and_retries_are_read_and_a_task_without_any_has_none() {
        let read = |spec| submission(spec, RetryPolicy::default(), || 7).map(|task| task.timing);
        assert_eq!(read(v1::TaskSpec::default()), Ok(None));
        let span = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let of = v1::FailureMatch { kind: v1::FailureKind::Http.into(), code: Some(404), name: String::new() };
        let retry = v1::RetryPolicy { jitter_percent: 20, non_retryable: vec![of], ..v1::RetryPolicy::default() };
        let spec = v1::TaskSpec {
            queue_expiry: span(5),
            progress_timeout: span(2),
            retry: Some(retry),
            ..v1::TaskSpec::default()
        };
        let timing = read(spec).expect("it is right").expect("there are some");
        assert_eq!((timing.queue_expiry, timing.progress_timeout), (Some(5_000), Some(2_000)));
        assert_eq!(timing.jitter, Some(Jitter { percent: 20, seed: 0 }));
        let (kind, code) = (Some(robeing_fleet::FailureKind::Http), Some(404));
        assert_eq!(timing.non_retryable, [robeing_fleet::FailureMatch { kind, code, name: None }]);
        let unknown = v1::FailureMatch { kind: 99, ..v1::FailureMatch::default() };
        let retry = Some(v1::RetryPolicy { non_retryable: vec![unknown], ..v1::RetryPolicy::default() });
        assert!(read(v1::TaskSpec { retry, ..v1::TaskSpec::default() }).is_err());
    }

    #[test]
    fn a_time_before_which_a_task_is_not_started_is_a_delay_by_the_fleets_clock() {
        let delay = |seconds, nanos| {
            let not_before = Some(prost_types::Timestamp { seconds, nanos });
            let mut spec = v1::TaskSpec { not_before, ..v1::TaskSpec::default() };
            start_after(&mut spec, || Stamp::at(10_500)).map(|()| millis("delay", spec.delay).expect("it is one"))
        };
        assert_eq!(delay(12, 0), Ok(Some(1_500)));
        assert_eq!(delay(10, 500_000_001), Ok(Some(1)), "not a moment too early");
        assert_eq!(delay(10, 500_000_000), Ok(None));
        assert_eq!(delay(-12, 0), Ok(None));
        assert!(delay(12, -1).is_err() && delay(12, 1_000_000_000).is_err());
        assert!(delay(i64::MAX, 999_999_999).expect("it is refused later").is_some());
        let not_before = Some(prost_types::Timestamp { seconds: 1, nanos: 0 });
        let span = Some(prost_types::Duration { seconds: 1, nanos: 0 });
        let mut both = v1::TaskSpec { not_before, delay: span, ..v1::TaskSpec::default() };
        assert!(start_after(&mut both, || Stamp::at(0)).is_err());
    }

    #[test]
    fn a_delay_counts_what_fleet_time_gains_or_loses_until_it_is_the_wall_time() {
        let until = |fleet, at| fleet_time_until(at, Stamp { fleet, wall: 10_000 });
        assert_eq!([9_000, 10_000, 10_001].map(|at| until(10_000, at)), [0, 0, 1]);
        // Behind by more than it can gain until then, and by less.
        assert_eq!((until(0, 12_000), until(9_990, 12_000)), (2_100, 2_010));
        assert_eq!((until(20_000, 12_000), until(10_010, 12_000)), (1_900, 1_990));
        assert_eq!((until(0, 10_001), until(20_000, 10_001), until(0, u64::MAX)), (2, 1, u64::MAX));
    }

    #[test]
    fn a_task_waits_in_the_queue_that_it_names_and_needs_resources_of_it() {
        let read = |cpu_millis, queue: &str, limit_key: &str| {
            let resources = Some(v1::ResourceAmounts { cpu_millis, ..v1::ResourceAmounts::default() });
            let (queue, limit_key) = (queue.to_owned(), limit_key.to_owned());
            let spec = v1::TaskSpec { resources, queue, limit_key, ..v1::TaskSpec::default() };
            submission(spec, RetryPolicy::default(), || 7).expect("it is right")
        };
        for (cpu, queue, key, waits_in, is_said) in [
            (0, "", "", "default", false),
            (0, "default", "", "default", false),
            (0, "batch", "", "batch", true),
            (0, "", "key", "default", true),
            (2, "", "", "default", false),
            (2, "batch", "", "batch", false),
            (2, "batch", "key", "batch", true),
        ] {
            let task = read(cpu, queue, key);
            let needed = task.resources.as_ref().map(|needed| (needed.amounts.cpu, needed.queue.as_str()));
            assert_eq!(needed, (cpu > 0).then_some((cpu, waits_in)), "{queue} {key}");
            assert_eq!((task.queue(), task.limit_key()), (waits_in, key));
            assert_eq!(task.lane.is_some(), is_said, "coordinators of older versions can read what says nothing new");
            assert_eq!(SubmitTask { kind: "k".to_owned(), ..task }.check(), Ok(()));
        }
    }
}
