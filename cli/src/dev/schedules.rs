//! Keeps the schedules of the manifest in the fleet, once the coordinators can take them.

use std::collections::BTreeSet;

use robeing_client::{ClientError, FleetClient, Security, Settings};
use robeing_crds::{ConcurrencyPolicy, MissedRuns, RobeingClusterSpec, Schedule, ScheduledTask};
use robeing_proto::v1::{self, ListSchedulesRequest, RemoveScheduleRequest, SetScheduleRequest};
use tokio::{sync::broadcast, task::JoinHandle, time::sleep};

use super::{
    event::DevEvent,
    kinds::{role, whole_millis},
    policies::{CALL_TIMEOUT, RETRY, may_pass},
};

/// How often a schedule is tried that the coordinators don't take yet: half a minute. A policy that requires an approval
/// of its task refuses it in the same way.
const ROUNDS: usize = 120;

/// Returns the schedules as coordinators take them. Those of a suspended cluster are suspended.
pub fn requests(spec: &RobeingClusterSpec) -> Vec<SetScheduleRequest> {
    spec.schedules.iter().map(|schedule| request(schedule, spec.suspend)).collect()
}

fn request(schedule: &Schedule, is_suspended: bool) -> SetScheduleRequest {
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
        start_within: schedule.start_within.and_then(whole_millis),
        missed_limit: schedule.missed_limit.unwrap_or_default(),
        concurrency: concurrency.into(),
        suspended: schedule.suspend || is_suspended,
        task: Some(task(&schedule.task)),
    };
    SetScheduleRequest { name: schedule.name.clone(), spec: Some(spec), managed: true }
}

fn task(task: &ScheduledTask) -> v1::TaskSpec {
    let retry = task.max_attempts.map(|most| v1::RetryPolicy { max_attempts: most, ..v1::RetryPolicy::default() });
    v1::TaskSpec {
        kind: task.kind.clone(),
        input: task.input.clone().into(),
        priority: task.priority.unwrap_or_default(),
        deadline_in: task.deadline.and_then(whole_millis),
        attempt_timeout: task.attempt_timeout.and_then(whole_millis),
        retry,
        required_role: role(task.role).into(),
        required_specialization: task.specialization.clone().unwrap_or_default(),
        result_ttl: task.result_ttl.and_then(whole_millis),
        ..v1::TaskSpec::default()
    }
}

/// Sets schedules in the background until it is dropped.
#[derive(Debug)]
pub struct ScheduleSetter(JoinHandle<()>);

impl ScheduleSetter {
    /// Starts to set these schedules, and to remove those that an earlier run has set and that are not among them. Events
    /// tell which are set, and which are not.
    pub fn start(
        endpoints: Vec<String>,
        security: Security,
        wanted: Vec<SetScheduleRequest>,
        events: broadcast::Sender<DevEvent>,
    ) -> Self {
        Self(tokio::spawn(async move {
            if let Err(error) = keep(&endpoints, security, wanted, &events).await {
                tell(&events, DevEvent::SchedulesRefused { problem: error.to_string() });
            }
        }))
    }
}

impl Drop for ScheduleSetter {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn tell(events: &broadcast::Sender<DevEvent>, event: DevEvent) {
    // Nobody may be watching.
    let _ = events.send(event);
}

async fn keep(
    endpoints: &[String],
    security: Security,
    mut wanted: Vec<SetScheduleRequest>,
    events: &broadcast::Sender<DevEvent>,
) -> Result<(), ClientError> {
    let settings = Settings { connect_timeout: CALL_TIMEOUT, request_timeout: CALL_TIMEOUT, security };
    let client = FleetClient::new(endpoints, settings)?;
    let mut gone = loop {
        match managed(&client).await {
            Ok(found) => break found,
            Err(error) if may_pass(&error) => sleep(RETRY).await,
            Err(error) => return Err(error),
        }
    };
    for schedule in &wanted {
        gone.remove(&schedule.name);
    }
    for name in gone {
        client.remove_schedule(RemoveScheduleRequest { name, managed: true }).await?;
    }
    for round in 1..=ROUNDS {
        let asked = wanted.len();
        let (mut left, mut refused) = (Vec::new(), 0);
        for schedule in wanted {
            match client.set_schedule(schedule.clone()).await {
                Ok(_) => {}
                Err(error) if may_pass(&error) && round < ROUNDS => left.push(schedule),
                Err(error) => {
                    refused += 1;
                    let problem = format!("schedule {:?} is not set: {error}", schedule.name);
                    tell(events, DevEvent::SchedulesRefused { problem });
                }
            }
        }
        let count = asked - left.len() - refused;
        if count > 0 {
            tell(events, DevEvent::SchedulesSet { count });
        }
        if left.is_empty() {
            break;
        }
        wanted = left;
        sleep(RETRY).await;
    }
    Ok(())
}

/// Returns the names of the schedules that an earlier run has set.
async fn managed(client: &FleetClient) -> Result<BTreeSet<String>, ClientError> {
    let mut request = ListSchedulesRequest { managed: true, brief: true, ..ListSchedulesRequest::default() };
    let mut names = BTreeSet::new();
    loop {
        let page = client.list_schedules(request.clone()).await?;
        names.extend(page.schedules.into_iter().map(|schedule| schedule.name));
        // The pages are in order of the names, so the token only grows and the loop ends.
        if page.next_page_token <= request.page_token {
            return Ok(names);
        }
        request.page_token = page.next_page_token;
    }
}

#[cfg(test)]
mod tests {
    use robeing_crds::parse_manifest;

    use super::*;

    fn requests_of(fields: &str) -> Vec<SetScheduleRequest> {
        let head = "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {name: c}\n";
        let cluster = parse_manifest(&format!("{head}spec: {fields}\n")).unwrap_or_else(|error| panic!("{error}"));
        requests(&cluster.spec)
    }

    const ALL: &str = "{name: often, cron: \"*/5 * * * *\", timeZone: Europe/Berlin, missedRuns: All, missedLimit: 3, \
        startWithin: 1h, concurrencyPolicy: Replace, task: {kind: data, input: x, priority: 7, deadline: 10m, \
        attemptTimeout: 1m, maxAttempts: 2, resultTtl: 24h, role: Specialist, specialization: nlp}}";

    #[test]
    fn schedules_are_set_as_the_manifest_says() {
        let asked = requests_of(&format!("{{schedules: [{{name: a, cron: \"@daily\", task: {{kind: k}}}}, {ALL}]}}"));
        let least = v1::TaskSpec { kind: "k".into(), ..v1::TaskSpec::default() };
        let spec = |at: usize| asked[at].spec.clone().expect("a spec");
        assert_eq!((asked[0].name.as_str(), asked[0].managed, spec(0).task), ("a", true, Some(least)));
        let policies = (spec(0).missed(), spec(0).missed_limit, spec(0).concurrency(), spec(0).suspended);
        assert_eq!(policies, (v1::MissedRuns::Skip, 0, v1::ConcurrencyPolicy::Allow, false));
        let policies = (spec(1).missed(), spec(1).missed_limit, spec(1).concurrency());
        assert_eq!(policies, (v1::MissedRuns::All, 3, v1::ConcurrencyPolicy::Replace));
        assert_eq!((&*spec(1).cron, &*spec(1).time_zone), ("*/5 * * * *", "Europe/Berlin"));
        let seconds = |span: Option<prost_types::Duration>| span.map(|span| span.seconds);
        assert_eq!(seconds(spec(1).start_within), Some(3_600));
        let task = spec(1).task.expect("a task");
        assert_eq!((&*task.kind, &task.input[..], task.priority), ("data", &b"x"[..], 7));
        let spans = [task.deadline_in, task.attempt_timeout, task.result_ttl].map(seconds);
        assert_eq!(spans, [Some(600), Some(60), Some(86_400)]);
        assert_eq!(task.retry.as_ref().map(|retry| retry.max_attempts), Some(2));
        assert_eq!((task.required_role(), &*task.required_specialization), (v1::Role::Specialist, "nlp"));
    }

    #[test]
    fn those_of_a_suspended_cluster_are_suspended() {
        let asked = requests_of(&format!("{{suspend: true, schedules: [{ALL}]}}"));
        assert!(asked[0].spec.as_ref().is_some_and(|spec| spec.suspended));
    }
}
