//! Keeps the schedules of the spec: sets those that the fleet does not have as the spec says, and removes those that the
//! spec has no more. The fleet knows which ones are parts of its resource. The status has what was set, so that nothing is
//! set twice.

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::Time, jiff::Timestamp};
use robeing_client::{
    Security,
    coordinators::{CoordinatorClient, Error},
};
use robeing_crds::{
    ConcurrencyPolicy, MissedRuns, RobeingClusterSpec, RobeingClusterStatus, RunState, Schedule, ScheduleStatus,
    ScheduledTask, limits::MAX_SCHEDULE_STATUSES,
};
use robeing_proto::v1;
use tokio::time::Instant;
use tonic::Code;

use super::{
    ClusterCache, Context, apply,
    asking::{digest_of, is_refusal, reason, required_role},
    observe::Observation,
    requeue,
};
use crate::runtime::retry::Refusals;

/// The kind under which refusals of schedules are noted.
const KIND: &str = "Schedule";

/// A coordinator that is asked.
struct Coordinator<'a> {
    client: &'a CoordinatorClient,
    address: &'a str,
    security: Security,
    /// Without a quorum no call has an answer, and nothing else is done for the fleet while one is waited for. So after
    /// the first one that has none, no other schedule is set in this round.
    answers: bool,
    /// A schedule that was refused is set again ever more seldom: a policy that denies it records that each time.
    refusals: &'a mut Refusals,
}

/// Sets, removes and looks at schedules. Returns what became of them; `None` if nothing could be found out.
pub(crate) async fn keep(
    observation: &Observation,
    before: Option<&RobeingClusterStatus>,
    context: &Context,
    cache: &mut ClusterCache,
) -> Option<Vec<ScheduleStatus>> {
    let Ok(answer) = &observation.fleet else { return None };
    let wanted = wanted(&observation.cluster.spec);
    if wanted.is_empty() && answer.status.managed_schedules == 0 {
        return Some(Vec::new());
    }
    let (client, security, refusals) = (&context.coordinators, cache.identity.security(), &mut cache.refusals);
    let mut coordinator = Coordinator { client, address: &answer.from, security, answers: true, refusals };
    let found = match coordinator.client.managed_schedules(coordinator.address, &coordinator.security).await {
        Ok(found) => found,
        Err(error) if is_refusal(&error) => {
            return Some(wanted.iter().map(|schedule| not_set(&schedule.name, None, None, why(&error))).collect());
        }
        Err(error) => {
            tracing::debug!(%error, "nothing is known of the schedules now");
            return None;
        }
    };
    let known: &[ScheduleStatus] = before.map_or(&[], |before| before.schedules.as_slice());
    let mut kept = Vec::with_capacity(wanted.len());
    for gone in found.iter().filter(|found| wanted.iter().all(|wanted| wanted.name != found.name)) {
        kept.extend(coordinator.remove(gone).await);
    }
    kept.truncate((MAX_SCHEDULE_STATUSES as usize).saturating_sub(wanted.len()));
    for schedule in &wanted {
        let found = found.iter().find(|found| found.name == schedule.name);
        let known = known.iter().find(|known| known.name == schedule.name);
        kept.extend(coordinator.keep(schedule, found, known).await);
    }
    Some(kept)
}

/// Returns the schedules that the fleet should have. Those of a suspended cluster are suspended.
fn wanted(spec: &RobeingClusterSpec) -> Vec<Schedule> {
    let wanted = |schedule: &Schedule| Schedule { suspend: schedule.suspend || spec.suspend, ..schedule.clone() };
    spec.schedules.iter().map(wanted).collect()
}

/// Returns whether the fleet has all schedules as the spec says, so that nothing changes soon.
pub(crate) fn are_settled(schedules: Option<&[ScheduleStatus]>) -> bool {
    schedules.is_none_or(|schedules| schedules.iter().all(|schedule| schedule.accepted))
}

impl Coordinator<'_> {
    /// Removes a schedule. Returns its status if it is still there.
    async fn remove(&mut self, gone: &v1::Schedule) -> Option<ScheduleStatus> {
        if !self.answers {
            return Some(ScheduleStatus { accepted: false, ..status(gone, String::new()) });
        }
        let removed = self.client.remove_schedule(self.address, &self.security, gone.name.clone()).await;
        let error = removed.err()?;
        self.answers = is_refusal(&error);
        Some(not_set(&gone.name, Some(gone), None, why(&error)))
    }

    /// Sets a schedule, unless the fleet has it. `known` is its last status. Returns its status; `None` if nothing is
    /// known of it.
    async fn keep(
        &mut self,
        schedule: &Schedule,
        found: Option<&v1::Schedule>,
        known: Option<&ScheduleStatus>,
    ) -> Option<ScheduleStatus> {
        let spec = digest_of(schedule);
        if let Some(found) = found.filter(|found| known.is_some_and(|known| is_as_set(found, known, &spec))) {
            return Some(status(found, spec));
        }
        if !self.answers {
            return known.cloned();
        }
        let (name, wish) = (&schedule.name, apply::fingerprint_of(schedule));
        if let Some(refusal) = self.refusals.of(KIND, name, wish, Instant::now()) {
            return Some(not_set(name, found, known, refusal.sentence.clone()));
        }
        match self.client.set_schedule(self.address, &self.security, request(schedule)).await {
            Ok(set) => {
                self.refusals.done(KIND, name);
                Some(status(&set, spec))
            }
            Err(error) if is_refusal(&error) => {
                let refused = (false, why(&error));
                self.refusals.note((KIND, name, wish), refused, Instant::now(), requeue::chance());
                Some(not_set(name, found, known, why(&error)))
            }
            Err(error) => {
                tracing::debug!(schedule = schedule.name, %error, "whether the schedule is set is not known now");
                self.answers = false;
                known.cloned()
            }
        }
    }
}

/// Returns whether the fleet has a schedule as it was set for this part of the spec.
fn is_as_set(found: &v1::Schedule, known: &ScheduleStatus, spec_digest: &str) -> bool {
    known.accepted && known.spec_digest == spec_digest && known.generation == found.generation
}

fn request(schedule: &Schedule) -> v1::SetScheduleRequest {
    let missed = match schedule.missed_runs {
        MissedRuns::Skip => v1::MissedRuns::Skip,
        MissedRuns::Latest => v1::MissedRuns::Latest,
        MissedRuns::All => v1::MissedRuns::All,
    };
    let concurrency = match schedule.concurrency_policy {
        ConcurrencyPolicy::Allow => v1::ConcurrencyPolicy::Allow,
        ConcurrencyPolicy::Forbid => v1::ConcurrencyPolicy::Forbid,
        ConcurrencyPolicy::Replace => v1::ConcurrencyPolicy::Replace,
    };
    let spec = v1::ScheduleSpec {
        cron: schedule.cron.clone(),
        time_zone: schedule.time_zone.clone().unwrap_or_default(),
        missed: missed.into(),
        start_within: schedule.start_within.and_then(|span| span.get().try_into().ok()),
        missed_limit: schedule.missed_limit.unwrap_or_default(),
        concurrency: concurrency.into(),
        suspended: schedule.suspend,
        task: Some(task(&schedule.task)),
    };
    v1::SetScheduleRequest { name: schedule.name.clone(), spec: Some(spec), managed: true }
}

fn task(task: &ScheduledTask) -> v1::TaskSpec {
    let retry = task.max_attempts.map(|most| v1::RetryPolicy { max_attempts: most, ..v1::RetryPolicy::default() });
    v1::TaskSpec {
        kind: task.kind.clone(),
        input: task.input.clone().into(),
        priority: task.priority.unwrap_or_default(),
        deadline_in: task.deadline.and_then(|span| span.get().try_into().ok()),
        attempt_timeout: task.attempt_timeout.and_then(|span| span.get().try_into().ok()),
        retry,
        required_role: required_role(task.role).into(),
        required_specialization: task.specialization.clone().unwrap_or_default(),
        result_ttl: task.result_ttl.and_then(|span| span.get().try_into().ok()),
        ..v1::TaskSpec::default()
    }
}

/// Returns a moment in whole seconds, as Kubernetes writes it.
fn time(seconds: Option<i64>) -> Option<Time> {
    Timestamp::from_second(seconds?).ok().map(Time)
}

fn run_state(run: &v1::schedule::Run) -> Option<RunState> {
    match run.state() {
        v1::TaskState::Unspecified => None,
        v1::TaskState::Queued | v1::TaskState::Assigned => Some(RunState::Active),
        v1::TaskState::Succeeded => Some(RunState::Succeeded),
        v1::TaskState::Failed => Some(RunState::Failed),
        v1::TaskState::Cancelled => Some(RunState::Cancelled),
        v1::TaskState::DeadLettered => Some(RunState::DeadLettered),
    }
}

/// Returns the status of a schedule that the fleet has as the spec says.
fn status(found: &v1::Schedule, spec_digest: String) -> ScheduleStatus {
    let last = found.runs.last();
    let active = found.runs.iter().filter(|run| run_state(run) == Some(RunState::Active)).count();
    let totals = found.totals.unwrap_or_default();
    ScheduleStatus {
        name: found.name.clone(),
        accepted: true,
        spec_digest,
        generation: found.generation,
        next_run: time(found.next.map(|next| next.seconds)),
        last_run: time(last.and_then(|run| run.due).map(|due| due.seconds)),
        last_task: last.map(|run| run.task_id.clone()),
        last_state: last.and_then(run_state),
        last_success: time(found.last_success.map(|last| last.seconds)),
        active: u32::try_from(active).unwrap_or(u32::MAX),
        not_started: totals.missed.saturating_add(totals.busy).saturating_add(totals.refused),
        message: Some(found.problem.clone()).filter(|problem| !problem.is_empty()),
    }
}

/// Returns why the fleet does not have a schedule as the spec says.
fn why(error: &Error) -> String {
    match error.code() {
        Some(Code::Unimplemented) => "the coordinators have no schedules until they are upgraded".to_owned(),
        _ => reason(error),
    }
}

/// Returns the status of a schedule that the fleet refuses, or has not removed. It may have an earlier one of its name.
fn not_set(
    name: &str,
    found: Option<&v1::Schedule>,
    known: Option<&ScheduleStatus>,
    message: String,
) -> ScheduleStatus {
    let spec_digest = known.map(|known| known.spec_digest.clone()).unwrap_or_default();
    let earlier = found.map(|found| status(found, spec_digest)).unwrap_or_default();
    ScheduleStatus { name: name.to_owned(), accepted: false, message: Some(message), ..earlier }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use robeing_crds::parse_manifest;

    use super::*;

    fn spec(fields: &str) -> RobeingClusterSpec {
        let head = "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {name: c}\n";
        parse_manifest(&format!("{head}spec: {fields}\n")).unwrap_or_else(|error| panic!("{error}")).spec
    }

    const ALL: &str = "{schedules: [{name: often, cron: \"*/5 * * * *\", timeZone: Europe/Berlin, missedRuns: All, \
        missedLimit: 3, startWithin: 1h, concurrencyPolicy: Replace, task: {kind: data, input: x, priority: 7, \
        deadline: 10m, attemptTimeout: 1m, maxAttempts: 2, resultTtl: 24h, role: Specialist, specialization: nlp}}]}";

    fn run(due: u64, state: v1::TaskState) -> v1::schedule::Run {
        let (task_id, state) = (format!("task-{due}"), state.into());
        let due = Some((UNIX_EPOCH + Duration::from_secs(due)).into());
        v1::schedule::Run { due, task_id, state, ..v1::schedule::Run::default() }
    }

    fn found() -> v1::Schedule {
        let at = |seconds| Some((UNIX_EPOCH + Duration::from_secs(seconds)).into());
        let states = [(60, v1::TaskState::Succeeded), (120, v1::TaskState::Queued), (180, v1::TaskState::Assigned)];
        v1::Schedule {
            name: "often".to_owned(),
            generation: 2,
            next: at(300),
            runs: states.map(|(due, state)| run(due, state)).into(),
            totals: Some(v1::schedule::Totals { missed: 1, busy: 2, refused: 3, ..v1::schedule::Totals::default() }),
            last_success: at(60),
            problem: "earlier runs are not finished".to_owned(),
            ..v1::Schedule::default()
        }
    }

    fn failed(code: Code) -> Error {
        Error::Refused { method: "SetSchedule", address: "a".to_owned(), code, message: "too many".to_owned() }
    }

    #[test]
    fn a_schedule_is_asked_for_as_the_spec_says() {
        let asked = request(&spec(ALL).schedules[0]);
        assert_eq!((asked.name.as_str(), asked.managed), ("often", true));
        let set = asked.spec.expect("a spec");
        let policies = (set.missed(), set.missed_limit, set.concurrency());
        assert_eq!(policies, (v1::MissedRuns::All, 3, v1::ConcurrencyPolicy::Replace));
        assert_eq!((set.cron.as_str(), set.time_zone.as_str()), ("*/5 * * * *", "Europe/Berlin"));
        assert_eq!((set.start_within.map(|span| span.seconds), set.suspended), (Some(3_600), false));
        let task = set.task.expect("a task");
        assert_eq!((task.kind.as_str(), &task.input[..], task.priority), ("data", &b"x"[..], 7));
        let spans = [task.deadline_in, task.attempt_timeout, task.result_ttl].map(|span| span.map(|span| span.seconds));
        assert_eq!(spans, [Some(600), Some(60), Some(86_400)]);
        assert_eq!(task.retry.as_ref().map(|retry| retry.max_attempts), Some(2));
        assert_eq!((task.required_role(), task.required_specialization.as_str()), (v1::Role::Specialist, "nlp"));
        let least = spec("{schedules: [{name: a, cron: \"@daily\", task: {kind: k}}]}");
        let least = request(&least.schedules[0]).spec.expect("a spec");
        assert_eq!((least.missed(), least.start_within, least.missed_limit), (v1::MissedRuns::Skip, None, 0));
        assert_eq!((least.time_zone.as_str(), least.concurrency()), ("", v1::ConcurrencyPolicy::Allow));
    }

    #[test]
    fn the_schedules_of_a_suspended_cluster_are_suspended() {
        let running = spec(ALL);
        let suspended = RobeingClusterSpec { suspend: true, ..running.clone() };
        assert_eq!(wanted(&running), running.schedules);
        assert!(wanted(&suspended)[0].suspend);
        assert_ne!(digest_of(&wanted(&suspended)[0]), digest_of(&wanted(&running)[0]), "it is set again");
    }

    #[test]
    fn a_schedule_is_set_once_and_again_when_the_spec_or_the_fleet_differs() {
        let spec = digest_of(&spec(ALL).schedules[0]);
        let set = status(&found(), spec.clone());
        assert!(is_as_set(&found(), &set, &spec));
        assert!(!is_as_set(&found(), &set, "another"), "the spec was changed");
        assert!(!is_as_set(&v1::Schedule { generation: 3, ..found() }, &set, &spec), "somebody else has changed it");
        let refused = not_set("often", Some(&found()), Some(&set), "too many".to_owned());
        assert!(!is_as_set(&found(), &refused, &spec), "it was refused");
    }

    #[test]
    fn the_status_has_the_next_and_the_last_run() {
        let shown = status(&found(), "d".to_owned());
        let seconds = |time: &Option<Time>| time.as_ref().map(|time| time.0.as_second());
        let times = [&shown.next_run, &shown.last_run, &shown.last_success].map(seconds);
        assert_eq!(times, [Some(300), Some(180), Some(60)]);
        assert_eq!((shown.last_task.as_deref(), shown.last_state), (Some("task-180"), Some(RunState::Active)));
        assert_eq!((shown.active, shown.not_started, shown.generation), (2, 6, 2));
        assert_eq!((shown.accepted, shown.message.as_deref()), (true, Some("earlier runs are not finished")));
        let new = status(&v1::Schedule { name: "new".to_owned(), ..v1::Schedule::default() }, String::new());
        let name = "new".to_owned();
        assert_eq!(new, ScheduleStatus { name, accepted: true, ..ScheduleStatus::default() });
    }

    #[test]
    fn why_a_schedule_is_not_set_is_told_with_what_the_fleet_still_has() {
        let known = status(&found(), "d".to_owned());
        let refused = not_set("often", Some(&found()), Some(&known), why(&failed(Code::ResourceExhausted)));
        let message = Some("too many".to_owned());
        assert_eq!(refused, ScheduleStatus { accepted: false, message: message.clone(), ..known });
        let absent = not_set("new", None, None, why(&failed(Code::InvalidArgument)));
        assert_eq!(absent, ScheduleStatus { name: "new".to_owned(), message, ..ScheduleStatus::default() });
        assert!(why(&failed(Code::Unimplemented)).contains("upgraded"));
        assert!(are_settled(None) && are_settled(Some(&[])) && !are_settled(Some(&[absent])));
    }
}
