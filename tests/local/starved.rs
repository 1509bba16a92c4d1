//! A coordinator that gets next to no processor time: it admits agents by the priority of their roles, says what it has
//! refused, and admits them all once it has time again.

use std::{
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use futures::future::join_all;
use nix::sys::signal::Signal;
use robeing_identity::PeerRole;
use robeing_proto::{
    internal::v1::{EnrolRequest, EnrolResponse, enrol_request::Proof, enrolment_client::EnrolmentClient},
    v1::{Agent, AgentState, AuditRecord, ListAuditRecordsRequest, Role, TaskSpec, TaskState},
};
use robeing_tests::{
    counter::Counter,
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::send,
    script::{answer, task},
    scripted_agent::{HandAgent, hello},
    thief::{CLUSTER, Stolen, Thief, now},
    wait::{PATIENCE, check, eventually, eventually_within, in_time},
};
use tonic::{Code, Response, Status, transport::Channel};

/// How long the coordinator is stopped, and then runs, in turns.
///
/// It measures how late a timer of 100 ms is. One that it sets when it goes on would be due 40 ms after the next stop
/// has begun, and fires when that is over: 2,060 ms late, which counts as 2,000. So every sample is of 2,000 ms, one in
/// each turn, and with the weight of a tenth their mean is 2,000 × (1 − 0.9ⁿ) ms after n turns: above 1,000 ms, from
/// which workers have to wait, after the 7th, which is 15 s. If a busy machine sends a signal so late that the
/// coordinator runs for 100 to 200 ms, one more sample is of a timer that is on time. If that is so in each turn, the
/// mean approaches 200 / (1 − 0.9²) = 1,053 ms, and is above the limit after the 15th turn: after 33 s, for which the
/// test waits, too. From then on workers wait until the mean is below 500 ms.
const STOPPED: Duration = Duration::from_millis(2_100);
const RUNNING: Duration = Duration::from_millis(60);
/// How long the test waits for that: some turns may give no sample at all, where the machine is busy for long.
const SCARCE_WITHIN: Duration = Duration::from_secs(3 * 33);
/// How many agents of a role that has to wait are admitted in each second nevertheless, as docs/roles.md says.
const TRICKLE: usize = 10;
/// The agents that come: of a role that has to wait, far more than that; of one that never waits, more than that, too;
/// and of the last one, so few that all of them are among the ten.
const WORKERS: usize = 60;
const GUARDIANS: usize = 2 * TRICKLE;
const MESSENGERS: usize = 4;
/// What a worker is told that has to wait.
const REFUSAL: &str = "this coordinator has too little processor time and admits agents of higher priority than a \
                       worker first; it is tried again";
/// How often what was refused is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(60);
/// The coordinator, and an agent that has its session before all of this.
const STARVED: &str = "coordinator-0";
const PLACED: &str = "expert-0";

/// Keeps a process from running for most of the time. Dropping it, also during a panic, lets the process run.
struct Starvation {
    pid: u32,
    /// Dropped to end it.
    lasts: Option<Sender<()>>,
    /// A thread of its own: what delays the test must not lengthen the turns.
    turns: Option<JoinHandle<()>>,
}

impl Starvation {
    fn of(pid: u32) -> Self {
        let (lasts, ended) = mpsc::channel::<()>();
        let lasts_for = move |time| matches!(ended.recv_timeout(time), Err(RecvTimeoutError::Timeout));
        let turns = thread::spawn(move || {
            loop {
                send(pid, Signal::SIGSTOP);
                let goes_on = lasts_for(STOPPED);
                send(pid, Signal::SIGCONT);
                if !goes_on || !lasts_for(RUNNING) {
                    return;
                }
            }
        });
        Self { pid, lasts: Some(lasts), turns: Some(turns) }
    }
}

impl Drop for Starvation {
    fn drop(&mut self) {
        drop(self.lasts.take());
        let _ = self.turns.take().map(JoinHandle::join);
        // The thread has ended with this, unless it panicked.
        send(self.pid, Signal::SIGCONT);
    }
}

/// An agent that wants to be enrolled.
struct Applicant {
    identity: Stolen,
    request: EnrolRequest,
}

impl Applicant {
    /// Creates so many of a role, each with a key and a token.
    fn several(thief: &Thief, certified: PeerRole, role: Role, count: usize) -> Vec<Self> {
        let one = |n: usize| {
            let (identity, pool) = (thief.nobody(), format!("{}s", certified.as_str()));
            let name = format!("{pool}-{n}");
            let request = EnrolRequest {
                cluster_id: CLUSTER.into(),
                role: role.into(),
                signing_request: identity.signing_request().into(),
                proof: Some(Proof::JoinToken(thief.token(certified, &pool, Some(&name), now()))),
                name,
                pool,
            };
            Self { identity, request }
        };
        (0..count).map(one).collect()
    }

    /// Asks until there is an answer.
    async fn ask(&self, door: &Channel) -> Result<EnrolResponse, Status> {
        eventually("an answer to an enrolment", async || {
            let answered = EnrolmentClient::new(door.clone()).enrol(self.request.clone()).await;
            let is_away = matches!(&answered, Err(status) if status.code() == Code::Unavailable);
            check(!is_away, answered.map(Response::into_inner), "it is away")
        })
        .await
    }
}

/// Lets all of them ask at once, and returns their answers, in order.
async fn ask(door: &Channel, applicants: &[Applicant]) -> Vec<Result<EnrolResponse, Status>> {
    join_all(applicants.iter().map(|applicant| applicant.ask(door))).await
}

/// Begins to look at the counter of what this role was refused for want of processor time.
async fn refusals(metrics: &str, role: &str) -> Counter {
    Counter::of(metrics, &format!("robeing_shortage_refusals_total{{scarce=\"cpu\",role=\"{role}\"}}")).await
}

/// Returns how many refusals of workers are recorded for want of processor time. There must be no others.
fn recorded(records: &[AuditRecord]) -> usize {
    let of_cpu = records.iter().filter(|record| record.action == "shortage" && record.subject == "cpu");
    let times = of_cpu.map(|record| {
        assert_eq!((record.actor.as_str(), record.outcome.as_str()), ("coordinators", "denied"), "{record:?}");
        let times = record.detail.strip_prefix("refused ");
        let times = times.and_then(|detail| detail.strip_suffix(" for the role worker, of priority 3"));
        times.and_then(|times| times.parse::<usize>().ok()).unwrap_or_else(|| panic!("{record:?}"))
    });
    times.sum()
}

/// Waits until so many refusals of workers are in the audit log and, as a warning, in the coordinator's own.
async fn refusals_are_recorded(fleet: &mut Fleet, refused: usize) {
    let client = fleet.client();
    eventually_within(RECORD_EVERY + PATIENCE, "the record of what was refused", async || {
        let request = ListAuditRecordsRequest { page_size: 1_000, ..ListAuditRecordsRequest::default() };
        let page = client.list_audit_records(request).await.map_err(|error| error.to_string())?;
        let found = recorded(&page.records);
        check(found == refused, (), format!("{found} of {refused}"))
    })
    .await;
    let log = fleet.process(STARVED).log();
    assert!(log.contains(" for the role worker, of priority 3 in the last minute"), "{log}");
}

/// Lets agents of all roles come at once, and returns the workers that were refused. Guardians all get in, and so do
/// the few messengers.
async fn rush(thief: &Thief, door: &Channel) -> Vec<Applicant> {
    let workers = Applicant::several(thief, PeerRole::Worker, Role::Worker, WORKERS);
    let guardians = Applicant::several(thief, PeerRole::Guardian, Role::Guardian, GUARDIANS);
    let messengers = Applicant::several(thief, PeerRole::Messenger, Role::Messenger, MESSENGERS);
    let asked = async { tokio::join!(ask(door, &workers), ask(door, &guardians), ask(door, &messengers)) };
    let (of_workers, of_guardians, of_messengers) = in_time("answers to all", asked).await;
    for (of, answer) in guardians.iter().zip(of_guardians).chain(messengers.iter().zip(of_messengers)) {
        assert!(answer.is_ok(), "{} was refused: {answer:?}", of.request.name);
    }
    let mut refused = Vec::new();
    for (of, answer) in workers.into_iter().zip(of_workers) {
        let Err(status) = answer else { continue };
        assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
        assert_eq!(status.message(), REFUSAL);
        refused.push(of);
    }
    assert!(!refused.is_empty(), "all workers were admitted");
    assert!(WORKERS - refused.len() >= TRICKLE, "of {WORKERS} workers, {} were refused", refused.len());
    refused
}

/// Lets an agent that has enrolled begin its session.
async fn join(fleet: &Fleet, applicant: Applicant, enrolled: &EnrolResponse) -> HandAgent {
    let Applicant { identity, request } = applicant;
    let channel = identity.certified_by(&enrolled.certificate).channel(&fleet.address(STARVED));
    let joined = HandAgent::open_over(channel, hello(&request.name)).await.expect("a valid Hello");
    fleet.agent_is(&request.name, AgentState::Live).await;
    joined
}

#[tokio::test]
async fn a_coordinator_without_cpu_admits_guardians_first_and_workers_once_it_is_over() {
    let place = PoolSpec::new("expert", 1).specialists("deep");
    // Long, because scripted agents send no heartbeats, and nobody's are heard while the coordinator is stopped.
    let mut fleet = Fleet::start(FleetSpec::new(1).pool(place).session_timeout("300s").with_tls()).await;
    let (thief, metrics) = (Thief::in_dir(fleet.dir()), fleet.metrics_address(STARVED));
    let session = fleet.agent_is(PLACED, AgentState::Live).await.session;
    let level = Counter::of(&metrics, "robeing_cpu_shortage_level").await;
    let (of_workers, of_guardians) = (refusals(&metrics, "worker").await, refusals(&metrics, "guardian").await);
    let of_messengers = refusals(&metrics, "messenger").await;
    // The connection over which they come is open before: a handshake must not wait for as long as the coordinator is
    // stopped.
    let door = thief.nobody().channel(&fleet.address(STARVED));
    let early = Applicant::several(&thief, PeerRole::Specialist, Role::Specialist, 1);
    assert!(ask(&door, &early).await.iter().all(Result::is_ok), "nothing is scarce yet");

    let starvation = Starvation::of(fleet.process(STARVED).pid());
    level.rises_by_within(SCARCE_WITHIN, 2).await;
    let mut refused = rush(&thief, &door).await;
    of_workers.rises_by(refused.len() as u64).await;
    assert_eq!((of_guardians.now().await, of_messengers.now().await), (0, 0));
    drop(starvation);

    level.rises_by(0).await;
    let mut again = ask(&door, &refused).await;
    assert!(again.iter().all(Result::is_ok), "there is time again: {again:?}");
    let enrolled = again.pop().expect("some were refused").expect("it was enrolled");
    let count = refused.len();
    let _joined = join(&fleet, refused.pop().expect("some were refused"), &enrolled).await;
    // Who had a place before still has it, and works.
    let known = |agent: &Agent| agent.session == session && agent.state() == AgentState::Live;
    fleet.agent_such(PLACED, "the agent with the session from before", known).await;
    let deep = TaskSpec { required_specialization: "deep".into(), ..task(&answer("fine")) };
    let id = fleet.submit_one(deep).await;
    fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!(of_workers.now().await, count as u64, "nobody was refused since");
    refusals_are_recorded(&mut fleet, count).await;
}
