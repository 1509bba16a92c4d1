//! `robeing submit`: submits one task or many, and waits for them if requested.

mod outcome;
mod plan;

use std::{
    io,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use nix::unistd::{User, geteuid};
use outcome::{Outcome, print};
use plan::{Known, Plan};
use robeing_blobs::BlobStore;
use robeing_client::{FleetClient, SubmitOptions, new_task_id};
use robeing_proto::v1::{ElectorAddress, GetTaskRequest, RequiredApproval, RetryPolicy, Role, Task, TaskSpec, Verify};
use tokio::signal::unix::{SignalKind, signal};

use super::{connect::client, duration, resources::resource_amounts, store};
use crate::{
    args::{
        Agreement, AmountArgs, ApprovalArgs, Connection, Electors, QueueingArgs, RequirementArgs, SubmitArgs,
        TimingArgs, VerifyResultArgs,
    },
    error::CliError,
    exit::Exit,
    inputs::LineInput,
    kubernetes::Access,
    render::{amounts_text, note, plural, role_word, short_duration},
};

/// Maximum number of refusals that are printed individually.
const TOLD_REFUSALS: usize = 10;
/// Maximum number of unfinished tasks that are listed by id.
const NAMED_UNFINISHED: usize = 10;
/// The submitter if no name is known.
const ANONYMOUS: &str = "anonymous";
/// The status if no task was sent.
const UNSENT: &str = "nothing was submitted";
/// Minimum number of tasks for which a progress bar is shown.
const MANY: usize = 2;

/// Submits the tasks, unless interrupted by Ctrl-C.
pub(super) async fn run(args: SubmitArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    if args.links.split || args.workflow.is_some() {
        let known = Known::default();
        return tokio::select! {
            ended = run_plan(&args, fleet, known.clone()) => ended,
            _ = interrupt.recv() => Ok(interrupted(&known.standing())),
        };
    }
    let (specs, client, store) = tokio::select! {
        prepared = prepare(&args, fleet) => prepared?,
        _ = interrupt.recv() => return Ok(interrupted(UNSENT)),
    };
    let ids: Vec<String> = specs.iter().map(|spec| spec.id.clone()).collect();
    let single = specs.first().filter(|_| specs.len() == 1).cloned();
    let mut outcome = Outcome::new(ids, args.wait);
    let began = Instant::now();
    let end = tokio::select! {
        end = submit(&client, specs, &args, &mut outcome) => end,
        _ = interrupt.recv() => End::Interrupted,
    };
    outcome.bar.finish_and_clear();
    if !matches!(end, End::Done) && (outcome.total() > 1 || !outcome.submitted.is_empty()) {
        // Print what is known before the error.
        print(&mut io::stdout().lock(), &args, &outcome, began)?;
    }
    let standing = outcome.standing();
    match end {
        End::Done => {}
        End::Interrupted => return Ok(interrupted(&standing)),
        End::TimedOut(waited) => {
            let (unfinished, total) = (outcome.total() - outcome.ended(), outcome.total());
            return Err(CliError::WaitTimedOut { unfinished, total, waited, standing });
        }
        End::Failed(error) => {
            if outcome.drawn.get() > 0 {
                note(&standing);
            }
            return Err(error);
        }
    }
    let known = outcome.known();
    match (single, known.first()) {
        (_, None) => {}
        (Some(asked), Some(id)) => tokio::select! {
            () = tell_what_is_kept(&client, &asked, id) => {}
            // The task is submitted even if this is interrupted.
            _ = interrupt.recv() => {}
        },
        (None, Some(_)) => note(&format!(
            "note: {} had a key that was already known; the inputs and options of the first submission are kept",
            plural(known.len(), "task")
        )),
    }
    outcome.fetch(&args, store.as_ref()).await?;
    print(&mut io::stdout().lock(), &args, &outcome, began)
}

/// Reads the tasks, connects to the fleet, and puts large inputs into the object store.
async fn prepare(
    args: &SubmitArgs,
    fleet: &Connection,
) -> Result<(Vec<TaskSpec>, FleetClient, Option<BlobStore>), CliError> {
    let store = store::open(&args.store, fleet)?;
    let mut specs = specs(args, args.read_inputs(store.is_some()).await?);
    let client = client(fleet, None, Access::Use).await?;
    store::check_version(&client, &specs).await?;
    store::upload(store.as_ref(), &mut specs).await?;
    Ok((specs, client, store))
}

/// Submits one task with its parts: those of the lines, or the steps of a workflow.
async fn run_plan(args: &SubmitArgs, fleet: &Connection, known: Known) -> Result<Exit, CliError> {
    let template = template(args);
    let plan = match args.read_workflow().await? {
        Some(workflow) => Plan::of_workflow(&template, &workflow),
        None if args.inputs.is_none() && args.tasks.is_none() => {
            return Err(CliError::Usage("--split needs the parts: give them by --inputs or --tasks".into()));
        }
        None => Plan::of_lines(&template, &args.links, args.read_inputs(false).await?),
    };
    let store = store::open(&args.store, fleet)?;
    plan.run(&client(fleet, None, Access::Use).await?, args, store.as_ref(), known).await
}

fn interrupted(standing: &str) -> Exit {
    note(&format!("interrupted; {standing}"));
    Exit::Interrupted
}

/// Why no further updates on the tasks will arrive.
enum End {
    Done,
    Interrupted,
    /// The wait timed out after this time.
    TimedOut(Duration),
    Failed(CliError),
}

async fn submit(client: &FleetClient, specs: Vec<TaskSpec>, args: &SubmitArgs, outcome: &mut Outcome) -> End {
    let options = SubmitOptions { wait: args.wait, ..SubmitOptions::default() };
    let drawn = outcome.drawn.clone();
    let specs = specs.into_iter().inspect(|_| drawn.set(drawn.get() + 1));
    let submitting = client.submit_many(specs, options, |event| outcome.take(event));
    let ended = match args.wait_timeout {
        None => submitting.await,
        Some(limit) => match tokio::time::timeout(limit, submitting).await {
            Ok(ended) => ended,
            Err(_) => return End::TimedOut(limit),
        },
    };
    if let Err(error) = ended {
        return End::Failed(error.into());
    }
    outcome.find_lost(client).await;
    End::Done
}

/// Builds the tasks. Their ids are generated here, so an answer with another id means that the key was already known.
fn specs(args: &SubmitArgs, inputs: Vec<LineInput>) -> Vec<TaskSpec> {
    let template = template(args);
    inputs.into_iter().map(|line| spec(&template, line)).collect()
}

/// Returns a task with the options that apply to all tasks.
fn template(args: &SubmitArgs) -> TaskSpec {
    let retry = args.max_attempts.or(args.retries.map(|retries| retries + 1));
    let mut template = TaskSpec {
        kind: args.kind.clone().unwrap_or_default(),
        deadline_in: args.deadline.map(duration),
        delay: args.delay.map(duration),
        attempt_timeout: args.timeout.map(duration),
        not_before: args.not_before.map(wire_time),
        retry: retries(retry, &args.timing),
        team_term: args.team_term.unwrap_or_default(),
        result_ttl: args.ttl.map(duration),
        priority: args.priority.unwrap_or_default(),
        idempotency_key: args.key.clone().unwrap_or_default(),
        submitter: submitter(args.submitter.clone()),
        requires_approval: approval(&args.approval),
        verify: verification(&args.approval.verification),
        ..options(&args.timing, &args.requirements, &args.queueing)
    };
    plan::link(&mut template, &args.links);
    template
}

/// Returns a task with the options that submissions and schedules have in common, but its [`retries`].
pub(super) fn options(timing: &TimingArgs, requirements: &RequirementArgs, queueing: &QueueingArgs) -> TaskSpec {
    TaskSpec {
        queue_expiry: timing.queue_expiry.map(duration),
        progress_timeout: timing.progress_timeout.map(duration),
        required_role: requirements.role.map_or(Role::Unspecified, Role::from).into(),
        required_specialization: requirements.specialization.first().cloned().unwrap_or_default(),
        skills: requirements.specialization.iter().skip(1).cloned().collect(),
        slots: requirements.slots.unwrap_or_default(),
        team: requirements.team.clone().unwrap_or_default(),
        resources: (queueing.amounts != AmountArgs::default()).then(|| resource_amounts(&queueing.amounts)),
        queue: queueing.queue.clone().unwrap_or_default(),
        limit_key: queueing.limit_key.clone().unwrap_or_default(),
        ..TaskSpec::default()
    }
}

/// Returns when the tasks are tried again; `None` if nothing is said about it.
pub(super) fn retries(max_attempts: Option<u32>, args: &TimingArgs) -> Option<RetryPolicy> {
    let policy = RetryPolicy {
        max_attempts: max_attempts.unwrap_or_default(),
        initial_backoff: args.backoff.map(duration),
        max_backoff: args.max_backoff.map(duration),
        jitter_percent: args.jitter.unwrap_or_default(),
        non_retryable: args.non_retryable.clone(),
        ..RetryPolicy::default()
    };
    (policy != RetryPolicy::default()).then_some(policy)
}

fn wire_time(at: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() }
}

/// Returns the approval that the tasks need.
fn approval(args: &ApprovalArgs) -> Option<RequiredApproval> {
    let electors = args.require_approval.iter().cloned();
    let electorate: Vec<ElectorAddress> =
        electors.map(|Electors { address, weight }| ElectorAddress { address, weight }).collect();
    (!electorate.is_empty()).then(|| RequiredApproval {
        electorate,
        threshold: args.approval_threshold.clone().unwrap_or_default(),
        deadline: args.approval_deadline.map(duration),
        question: args.approval_question.clone().unwrap_or_default(),
    })
}

/// Builds the task of a line; options that the line does not set are taken from the template.
fn spec(template: &TaskSpec, line: LineInput) -> TaskSpec {
    let LineInput { input, options } = line;
    let mut template = template.clone();
    if options.specialization.is_some() {
        // The line's own is in place of all that apply to all tasks.
        template.skills.clear();
    }
    let others = || template.retry.clone().unwrap_or_default();
    let retry = options.max_attempts.map(|max_attempts| RetryPolicy { max_attempts, ..others() });
    TaskSpec {
        id: new_task_id(),
        input: input.into(),
        kind: options.kind.unwrap_or(template.kind),
        priority: options.priority.unwrap_or(template.priority),
        idempotency_key: options.key.unwrap_or(template.idempotency_key),
        deadline_in: options.deadline.map(duration).or(template.deadline_in),
        delay: options.delay.map(duration).or(template.delay),
        not_before: template.not_before.filter(|_| options.delay.is_none()),
        attempt_timeout: options.timeout.map(duration).or(template.attempt_timeout),
        retry: retry.or(template.retry),
        required_role: options.role.map_or(template.required_role, |role| Role::from(role).into()),
        required_specialization: options.specialization.unwrap_or(template.required_specialization),
        result_ttl: options.ttl.map(duration).or(template.result_ttl),
        queue: options.queue.unwrap_or(template.queue),
        limit_key: options.limit_key.unwrap_or(template.limit_key),
        ..template
    }
}

/// Returns how the results of the tasks are verified.
pub(super) fn verification(args: &VerifyResultArgs) -> Option<Verify> {
    args.verify.map(|Agreement { agree, agents }| Verify {
        agents,
        agree,
        pointer: args.verify_json.clone(),
        compare: args.verify_compare.clone().unwrap_or_default(),
    })
}

/// Returns the submitter that is named, or else the default.
pub(super) fn submitter(named: Option<String>) -> String {
    named.unwrap_or_else(|| {
        let account = User::from_uid(geteuid()).ok().flatten().map(|user| user.name);
        submitter_of(std::env::var("USER").ok(), account)
    })
}

/// Returns the default submitter: the user of the session, or of the account.
fn submitter_of(session: Option<String>, account: Option<String>) -> String {
    let named = session.into_iter().chain(account).find(|name| !name.is_empty());
    named.unwrap_or_else(|| ANONYMOUS.into())
}

/// Prints how the task that already had the key differs from the current request.
async fn tell_what_is_kept(client: &FleetClient, asked: &TaskSpec, id: &str) {
    let request = GetTaskRequest { id: id.into(), include_input: true, ..Default::default() };
    // Without the task there is nothing to compare; the submission is answered anyway.
    let Ok(task) = client.get_task(request).await else { return };
    let differing = differences(asked, &task);
    if !differing.is_empty() {
        note(&format!(
            "note: the key {:?} belongs to task {}, which was submitted earlier; its request is kept and differs: {}",
            asked.idempotency_key,
            task.id,
            differing.join(", ")
        ));
    }
}

/// Describes how a task differs from the request. Values that the fleet chose by default, or that are set for the kind, are
/// not differences, so only what the request says is compared.
fn differences(asked: &TaskSpec, task: &Task) -> Vec<String> {
    let mut differing = Vec::new();
    let mut compare = |differs: bool, words: String| {
        if differs {
            differing.push(words);
        }
    };
    let or_none = |text: &str| if text.is_empty() { "none".to_owned() } else { text.to_owned() };
    compare(asked.kind != task.kind, format!("kind {}", task.kind));
    // One that is split among agents has none: its parts have it.
    let is_divided = task.subtasks.is_some() && task.input.is_empty();
    let is_other = asked.input != task.input || asked.input_ref != task.input_ref;
    compare(is_other && !is_divided, "another input".into());
    compare(asked.priority != 0 && asked.priority != task.priority, format!("priority {}", task.priority));
    let has_role = asked.required_role == 0 || asked.required_role == task.required_role;
    compare(!has_role, format!("role {}", role_name(task.required_role())));
    let skills = |first: &str, others: &[String]| {
        std::iter::once(first.to_owned()).chain(others.iter().cloned()).collect::<Vec<_>>().join(", ")
    };
    let kept = skills(&task.required_specialization, &task.skills);
    let wanted = skills(&asked.required_specialization, &asked.skills);
    compare(!wanted.is_empty() && wanted != kept, format!("specialization {}", or_none(&kept)));
    compare(asked.slots != 0 && asked.slots != task.slots, plural(task.slots as usize, "slot"));
    let attempts = asked.retry.as_ref().map_or(0, |retry| retry.max_attempts);
    compare(attempts != 0 && attempts != task.max_attempts, plural(task.max_attempts as usize, "attempt"));
    compare(asked.requires_approval.is_some() && task.approval.is_none(), "no approval".into());
    let verified = match &task.verify {
        None => "a result that is not verified".into(),
        Some(verify) => format!("a result that {} of {} agents agree on", verify.agree, verify.agents),
    };
    compare(asked.verify != task.verify, verified);
    let needed = amounts_text(task.resources.as_ref());
    compare(
        asked.resources.is_some_and(|asked| Some(asked) != task.resources),
        format!("resources {}", or_none(&needed)),
    );
    let deadline = deadline_of(task);
    compare(
        asked.deadline_in.is_some() && !is_same_span(asked.deadline_in.as_ref(), deadline),
        deadline.map_or_else(|| "no deadline".into(), |span| format!("a deadline of {}", short_duration(span))),
    );
    differing
}

fn role_name(role: Role) -> String {
    if role == Role::Unspecified { "any".into() } else { role_word(role) }
}

/// Returns the time from a task's acceptance, or from when it was last tried again as a dead letter, to its deadline.
fn deadline_of(task: &Task) -> Option<Duration> {
    let nanos = |time: &prost_types::Timestamp| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos);
    let began = task.retried_at.as_ref().or(task.submitted_at.as_ref());
    let span = nanos(task.deadline.as_ref()?) - nanos(began?);
    u64::try_from(span).ok().map(Duration::from_nanos)
}

/// Returns whether two spans are equal, given that the fleet keeps milliseconds.
fn is_same_span(asked: Option<&prost_types::Duration>, kept: Option<Duration>) -> bool {
    match (asked.and_then(|asked| Duration::try_from(*asked).ok()), kept) {
        (None, None) => true,
        (Some(asked), Some(kept)) => asked.abs_diff(kept) <= Duration::from_millis(1),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task() -> Task {
        Task {
            kind: "k".into(),
            input: "i".into(),
            priority: 5,
            max_attempts: 3,
            submitted_at: Some(prost_types::Timestamp { seconds: 100, nanos: 500_000_000 }),
            ..Default::default()
        }
    }

    fn asked() -> TaskSpec {
        TaskSpec { kind: "k".into(), input: "i".into(), ..Default::default() }
    }

    #[test]
    fn who_submits_is_the_session_the_account_or_nobody() {
        let some = |name: &str| Some(name.to_owned());
        assert_eq!(submitter_of(some("ada"), some("root")), "ada");
        assert_eq!(submitter_of(None, some("root")), "root");
        assert_eq!(submitter_of(some(""), some("root")), "root");
        assert_eq!(submitter_of(None, None), "anonymous");
    }

    #[test]
    fn a_task_has_a_retry_policy_if_anything_is_said_about_it() {
        assert_eq!(retries(None, &TimingArgs::default()), None);
        let backoff = Some(Duration::from_secs(2));
        let said = retries(Some(3), &TimingArgs { backoff, jitter: Some(20), ..TimingArgs::default() });
        let said = said.expect("something is said");
        assert_eq!((said.max_attempts, said.jitter_percent, said.max_backoff), (3, 20, None));
        assert_eq!(said.initial_backoff, Some(duration(Duration::from_secs(2))));
    }

    #[test]
    fn what_a_line_says_of_attempts_and_of_a_delay_leaves_the_rest_as_it_is_for_all() {
        let retry = Some(RetryPolicy { max_attempts: 9, jitter_percent: 20, ..RetryPolicy::default() });
        let not_before = Some(wire_time(Timestamp::UNIX_EPOCH));
        let template = TaskSpec { retry, not_before, ..asked() };
        let mut line = LineInput::default();
        let plain = spec(&template, line.clone());
        assert_eq!(
            (plain.not_before, plain.delay, plain.retry.map(|retry| retry.max_attempts)),
            (not_before, None, Some(9))
        );
        line.options.max_attempts = Some(2);
        line.options.delay = Some(Duration::from_secs(1));
        let own = spec(&template, line);
        assert_eq!((own.not_before, own.delay.is_some()), (None, true), "one of them is sent");
        let retry = own.retry.expect("there is one");
        assert_eq!((retry.max_attempts, retry.jitter_percent), (2, 20));
    }

    #[test]
    fn a_second_submission_that_asks_for_the_same_differs_in_nothing() {
        assert_eq!(differences(&asked(), &task()), Vec::<String>::new());
        let deadline = Some(prost_types::Timestamp { seconds: 130, nanos: 500_000_000 });
        let with_deadline = Task { deadline, ..task() };
        let asked = TaskSpec { deadline_in: Some(duration(Duration::from_secs(30))), priority: 5, ..asked() };
        assert_eq!(differences(&asked, &with_deadline), Vec::<String>::new());
    }

    #[test]
    fn a_second_submission_is_told_what_is_kept_of_the_first() {
        let asked = TaskSpec {
            input: "j".into(),
            priority: 9,
            retry: Some(RetryPolicy { max_attempts: 1, ..Default::default() }),
            required_role: Role::Guardian.into(),
            required_specialization: "gpu".into(),
            deadline_in: Some(duration(Duration::from_secs(30))),
            ..asked()
        };
        assert_eq!(
            differences(&asked, &task()),
            ["another input", "priority 5", "role any", "specialization none", "3 attempts", "no deadline"]
        );
        let requires_approval = Some(RequiredApproval::default());
        let verify = Some(Verify { agents: 3, agree: 2, ..Verify::default() });
        let asked = TaskSpec { requires_approval, verify: verify.clone(), ..super::tests::asked() };
        assert_eq!(differences(&asked, &task()), ["no approval", "a result that is not verified"]);
        let resources = Some(resource_amounts(&AmountArgs { cpu: 2_000, ..AmountArgs::default() }));
        let needing = TaskSpec { resources, queue: "batch".into(), ..super::tests::asked() };
        assert_eq!(differences(&needing, &task()), ["resources none"]);
        assert!(differences(&needing, &Task { resources, queue: "batch".into(), ..task() }).is_empty());
        let verified = Task { verify, ..task() };
        assert_eq!(differences(&super::tests::asked(), &verified), ["a result that 2 of 3 agents agree on"]);
        let deadline = Some(prost_types::Timestamp { seconds: 160, nanos: 500_000_000 });
        let asked =
            TaskSpec { deadline_in: Some(duration(Duration::from_secs(30))), slots: 2, ..super::tests::asked() };
        let kept = Task { deadline, slots: 1, ..task() };
        assert_eq!(differences(&asked, &kept), ["1 slot", "a deadline of 1m"]);
    }

    #[test]
    fn what_the_kind_may_have_set_is_no_difference() {
        let resources = Some(resource_amounts(&AmountArgs { cpu: 2_000, ..AmountArgs::default() }));
        let deadline = Some(prost_types::Timestamp { seconds: 160, nanos: 500_000_000 });
        let (required_role, required_specialization) = (Role::Guardian.into(), "ocr".to_owned());
        let kept = Task { required_role, required_specialization, resources, deadline, slots: 4, ..task() };
        assert!(differences(&asked(), &kept).is_empty());
    }
}
