//! Conversion of submissions to the fleet's form.

use robeing_fleet::{
    Amounts, RetryPolicy, Role, SubmitTask, TaskId, TaskResources, Verify,
    limits::{DEFAULT_PRIORITY, DEFAULT_QUEUE},
};
use robeing_proto::v1;

use super::{
    agents::agent_role,
    fields::{BadField, bad, millis, some, task_id, team_id},
    resources::amounts,
};

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

/// Converts the resources that a task needs.
fn resources(needed: Option<v1::ResourceAmounts>, queue: String) -> Result<Option<Box<TaskResources>>, BadField> {
    let needed = needed.map_or(Amounts::NONE, |needed| amounts(&needed));
    if needed == Amounts::NONE {
        return match queue.as_str() {
            "" | DEFAULT_QUEUE => Ok(None),
            _ => Err(bad("queue", "it counts for tasks with resources; set resources, too")),
        };
    }
    let queue = if queue.is_empty() { DEFAULT_QUEUE.to_owned() } else { queue };
    Ok(Some(Box::new(TaskResources { amounts: needed, queue })))
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
    let team = if spec.team.is_empty() { None } else { Some(team_id("team", &spec.team)?) };
    Ok(SubmitTask {
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
        resources: resources(spec.resources, spec.queue)?,
        verify: spec.verify.map(|v1::Verify { agents, agree, pointer, compare }| {
            Box::new(Verify { agents, agree, pointer, compare: some(compare) })
        }),
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
    fn outputs_are_compared_by_tasks_of_a_kind_if_one_is_given() {
        let read = |compare: &str| {
            let verify = v1::Verify { agents: 3, agree: 2, pointer: None, compare: compare.to_owned() };
            let spec = v1::TaskSpec { verify: Some(verify), ..v1::TaskSpec::default() };
            submission(spec, RetryPolicy::default(), || 7).map(|task| task.verify.and_then(|verify| verify.compare))
        };
        assert_eq!((read(""), read("near")), (Ok(None), Ok(Some("near".to_owned()))));
    }

    #[test]
    fn a_queue_counts_with_resources_alone() {
        let read = |cpu_millis, queue: &str| {
            let resources = Some(v1::ResourceAmounts { cpu_millis, ..v1::ResourceAmounts::default() });
            let spec = v1::TaskSpec { resources, queue: queue.to_owned(), ..v1::TaskSpec::default() };
            let task = submission(spec, RetryPolicy::default(), || 7)?;
            Ok::<_, BadField>(task.resources.map(|needed| (needed.amounts.cpu, needed.queue)))
        };
        assert_eq!(read(0, ""), Ok(None));
        assert_eq!(read(2, ""), Ok(Some((2, "default".to_owned()))));
        assert_eq!(read(2, "batch"), Ok(Some((2, "batch".to_owned()))));
        assert!(read(0, "batch").is_err());
    }
}
