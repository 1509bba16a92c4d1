//! What policies decide about: submissions, results and letters.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use robeing_fleet::{
    Agent, AgentId, Completion, Failure, FailureKind, Outcome, Refusal, Role, Setter, SubmitTask, Task, TaskId,
};
use robeing_net::gate::Caller;
use robeing_policy::{
    ApprovalDemand, Checked, Event, Input, Message, Object, PolicyRefusal, Submission, TaskResult, rights_of_role,
};
use robeing_proto::v1;
use tonic::Status;

use super::{
    Policies,
    asker::{Asker, client, member},
    compiled::Compiled,
};
use crate::{
    api::{answers::Outcome as Answer, convert},
    identity::rights::Right,
};

/// Maximum number of inputs that are evaluated in one turn.
const MAX_IN_TURN: usize = 32;

/// Returns a refusal as the API reports it.
pub fn api_refusal(refused: &PolicyRefusal) -> v1::Refusal {
    let code = if refused.needs_approval { "FAILED_PRECONDITION" } else { "PERMISSION_DENIED" };
    v1::Refusal { code: code.to_owned(), message: refused.message.clone() }
}

/// The code of a refusal because it can't be found out now what the submitter may do.
pub const UNKNOWN_RIGHTS: &str = "UNAVAILABLE";

/// Returns the refusal of a submission because it can't be found out now what its submitter may do.
fn unknown_asker(status: &Status) -> v1::Refusal {
    let message = format!("policies need the rights of the submitter: {}", status.message());
    v1::Refusal { code: UNKNOWN_RIGHTS.to_owned(), message }
}

fn denied(refused: PolicyRefusal) -> Failure {
    Failure::of(FailureKind::Denied, refused.message)
}

/// What becomes of a submission that is not proposed as it is.
#[derive(Debug)]
pub enum Held {
    /// It is answered, and not to be proposed.
    Answered(Answer),
    /// It is to be proposed with a ballot that asks this question.
    Approval(Box<ApprovalDemand>, String),
}

impl Policies {
    /// Decides about submissions of one caller, and redacts their inputs. Returns those that are not to be proposed as
    /// they are, by the indexes of the submissions.
    pub async fn check_submissions(&self, submissions: &mut [SubmitTask], by: &Caller) -> BTreeMap<usize, Held> {
        let Some(compiled) = self.active(Event::Submission) else { return BTreeMap::new() };
        let asker = match self.asker(by, &compiled).await {
            Ok(asker) => asker,
            Err(status) => {
                let refusal = unknown_asker(&status);
                return (0..submissions.len()).map(|n| (n, Held::Answered(Err(refusal.clone())))).collect();
            }
        };
        let mut answered = BTreeMap::new();
        for (n, group) in submissions.chunks_mut(MAX_IN_TURN).enumerate() {
            let check = || group.iter_mut().map(|task| self.check_submission(&compiled, &asker, task)).collect();
            let answers: Vec<Option<Held>> = self.in_turn(Event::Submission, check).await;
            let numbers = n * MAX_IN_TURN..;
            answered.extend(numbers.zip(answers).filter_map(|(n, answer)| Some((n, answer?))));
        }
        answered
    }

    fn check_submission(&self, compiled: &Compiled, asker: &Asker, task: &mut SubmitTask) -> Option<Held> {
        self.decide(compiled, asker, task).unwrap_or_else(|refused| Some(self.known_or(task, &refused)))
    }

    /// Decides about a task that has no id of its own yet: so none that is known is the same, whatever id it has.
    fn check_new(&self, compiled: &Compiled, asker: &Asker, task: &mut SubmitTask) -> Option<Held> {
        let refused = |refused: PolicyRefusal| Some(Held::Answered(Err(api_refusal(&refused))));
        self.decide(compiled, asker, task).unwrap_or_else(refused)
    }

    /// Decides about a submission, whether it was accepted before or not. The error is its refusal.
    fn decide(&self, compiled: &Compiled, asker: &Asker, task: &mut SubmitTask) -> Result<Option<Held>, PolicyRefusal> {
        if let Some(refused) = self.refusal_of_entailed(compiled, asker, task) {
            return Err(refused);
        }
        let id = task.id.to_string();
        let object = submission(&id, task, &task.kind, task.required_specialization.as_deref());
        match self.check(compiled, asker, object, &task.input) {
            Checked::Allowed => Ok(None),
            Checked::Redacted(input) => Ok(redact(task, input)),
            Checked::Refused(PolicyRefusal { message, approval: Some(demand), .. }) => {
                let refused = demand.redacted.clone().and_then(|input| redact(task, input));
                Ok(refused.or(Some(Held::Approval(demand, message))))
            }
            Checked::Refused(refused) => Err(refused),
        }
    }

    /// Returns the refusal of what this task entails, as if that were submitted with its input: tasks that would compare its
    /// outputs, attempts that are run as another kind to divide its input, and parts that an attempt makes of it, which are
    /// decided about as its agent's when they are there. If one needs an approval, it can't have it: the ballot would be about
    /// the task.
    fn refusal_of_entailed(&self, compiled: &Compiled, asker: &Asker, task: &SubmitTask) -> Option<PolicyRefusal> {
        let compare = task.verify.as_ref().and_then(|verify| verify.compare.as_ref());
        let compare = compare.map(|kind| (kind, Some(kind.as_str())));
        let divider = task.links.as_ref().and_then(|links| links.divider.as_ref());
        let kinds = divider.into_iter().flat_map(|divider| [&divider.kind, &divider.part_kind]);
        let divided = kinds.filter(|kind| !kind.is_empty());
        let divided = divided.map(|kind| (kind, task.required_specialization.as_deref()));
        compare.into_iter().chain(divided).find_map(|(kind, specialization)| {
            let id = task.id.to_string();
            match self.check(compiled, asker, submission(&id, task, kind, specialization), &task.input) {
                Checked::Refused(refused) => Some(refused),
                Checked::Allowed | Checked::Redacted(_) => None,
            }
        })
    }

    /// Returns the answer to a task that policies refuse. One that was accepted before is the same task, and what is allowed
    /// now does not matter for it. It is answered here: by the time it were proposed, it could have expired, and be a new
    /// task that nobody allowed.
    fn known_or(&self, task: &SubmitTask, refused: &PolicyRefusal) -> Held {
        let known = self.0.state.look(|fleet| fleet.submitted_before(task));
        Held::Answered(known.ok_or_else(|| api_refusal(refused)))
    }

    /// Decides about the task of a schedule as about a submission of its caller, and redacts its input. Returns why it
    /// can't be submitted.
    pub async fn check_scheduled(&self, task: &mut SubmitTask, by: &Caller) -> Option<Held> {
        let compiled = self.active(Event::Submission)?;
        match self.asker(by, &compiled).await {
            Ok(asker) => self.in_turn(Event::Submission, || self.check_new(&compiled, &asker, task)).await,
            Err(status) => Some(Held::Answered(Err(unknown_asker(&status)))),
        }
    }

    /// Decides about the task of a run of a schedule, as if whoever has set that submitted it, and redacts its input. Returns
    /// why it is refused.
    pub async fn check_run(&self, task: &mut SubmitTask, set_by: &Setter) -> Option<String> {
        let compiled = self.active(Event::Submission)?;
        let rights = set_by.rights.iter().filter_map(|right| Right::parse(right)).map(Right::as_str).collect();
        let asker = Asker { user: set_by.user.clone(), rights };
        match self.in_turn(Event::Submission, || self.check_new(&compiled, &asker, task)).await? {
            Held::Answered(Err(refusal)) => Some(refusal.message),
            Held::Answered(Ok(reply)) => Some(format!("it was answered with {reply:?}")),
            Held::Approval(_, reason) => {
                Some(format!("a policy requires an approval, which no run can have: {reason}"))
            }
        }
    }

    /// Returns whether results may have to be checked.
    pub fn concern_results(&self) -> bool {
        self.0.observer.policies.concerns(Event::Result)
    }

    /// Decides about the results that an agent reports, and redacts their outputs. A result that is refused becomes a
    /// final failure. Only a leader may call it, because it knows all tasks.
    pub async fn check_results(&self, agent: AgentId, completions: &mut [Completion]) {
        let Some(compiled) = self.active(Event::Result) else { return };
        let Some(agent) = self.0.state.look(|fleet| fleet.agent(agent).cloned()) else { return };
        let asker = Asker::agent(role_name(&agent), &agent.name);
        for group in completions.chunks_mut(MAX_IN_TURN) {
            let tasks: Vec<Option<(TaskId, Arc<Task>)>> = self.0.state.look(|fleet| {
                let task = |id: TaskId| fleet.task(id).map(|task| (fleet.known_id(task), Arc::clone(task)));
                group.iter().map(|ended| task(ended.task)).collect()
            });
            let check = || {
                for (ended, task) in group.iter_mut().zip(&tasks) {
                    // What is not known is stale.
                    if let Some((id, task)) = task {
                        self.check_result(&compiled, &asker, (&agent, *id, task), ended);
                    }
                }
            };
            self.in_turn(Event::Result, check).await;
        }
    }

    /// Decides about the subtasks that an agent's attempts ask for as about submissions of that agent, and redacts
    /// their inputs. If one is refused, or would need an approval, the attempt has failed for good.
    pub async fn check_subtasks(&self, agent: AgentId, completions: &mut [Completion]) {
        let asks = |ended: &Completion| matches!(ended.outcome, Outcome::Suspended(_));
        if !completions.iter().any(asks) {
            return;
        }
        let Some(compiled) = self.active(Event::Submission) else { return };
        let Some(agent) = self.0.state.look(|fleet| fleet.agent(agent).cloned()) else { return };
        let asker = Asker::agent(role_name(&agent), &agent.name);
        for ended in completions.iter_mut() {
            let Outcome::Suspended(suspension) = &mut ended.outcome else { continue };
            let mut problem = None;
            for group in suspension.subtasks.chunks_mut(MAX_IN_TURN) {
                let check = || group.iter_mut().find_map(|task| self.check_new(&compiled, &asker, task));
                problem = self.in_turn(Event::Submission, check).await;
                if problem.is_some() {
                    break;
                }
            }
            if let Some(held) = problem {
                let message = match held {
                    Held::Answered(Err(refusal)) => format!("a subtask is refused: {}", refusal.message),
                    Held::Answered(Ok(_)) => "a subtask is a task that was submitted before".to_owned(),
                    Held::Approval(_, reason) => format!("a subtask would need an approval: {reason}"),
                };
                let refused = PolicyRefusal { needs_approval: false, message, approval: None };
                ended.outcome = Outcome::Failed(denied(refused)).within_limits();
            }
        }
    }

    fn check_result(
        &self,
        compiled: &Compiled,
        asker: &Asker,
        (agent, id, task): (&Agent, TaskId, &Task),
        ended: &mut Completion,
    ) {
        let (failure, output) = match &ended.outcome {
            Outcome::Succeeded(output) => (None, output.clone()),
            Outcome::Failed(failure) => (Some(failure), Bytes::new()),
            Outcome::Stored(_) => (None, Bytes::new()),
            // Outputs are compared after this.
            Outcome::Answered { .. } | Outcome::Stopped | Outcome::HandedBack | Outcome::Suspended(_) => return,
        };
        let kind = failure.map(|failure| convert::failure_kind_name(failure.kind));
        let failure = failure.zip(kind.as_deref());
        let id = id.to_string();
        let object = Object::Result(TaskResult {
            task_id: &id,
            // That of attempts that divide its input is another one.
            kind: task.kind_to_run(),
            agent: &agent.name,
            role: role_name(agent),
            pool: agent.pool.as_deref().unwrap_or_default(),
            attempt: u64::from(ended.attempt),
            failure: failure.map(|(failure, kind)| robeing_policy::Failure { kind, message: &failure.message }),
            stored: matches!(ended.outcome, Outcome::Stored(_)),
            output: &output,
        });
        let outcome = match (self.check(compiled, asker, object, &output), &ended.outcome) {
            (Checked::Refused(refused), _) => Outcome::Failed(denied(refused)).within_limits(),
            (Checked::Redacted(output), Outcome::Succeeded(_)) => Outcome::Succeeded(output).within_limits(),
            (Checked::Redacted(_), Outcome::Stored(_)) => {
                Outcome::Failed(denied(not_redacted("output"))).within_limits()
            }
            // A failure has no output.
            (Checked::Allowed | Checked::Redacted(_), _) => return,
        };
        ended.outcome = outcome;
    }

    /// Decides about a message that goes through the coordinators. A sealed payload can't be read here: don't call this
    /// for one, its receiver decides about it. Redaction changes the payload, so it comes before the letter's digest.
    /// `request.rights` are those of the sender's role, as the receivers of messages see them.
    pub async fn check_message(&self, message: Message<'_>, payload: &Bytes) -> Checked {
        let Some(compiled) = self.active(Event::Message) else { return Checked::Allowed };
        let asker = Asker {
            user: match message.sender_role {
                "client" => client(message.sender),
                // Its role is not known, but it is no client, and must not be taken for one.
                "" => member("agent", message.sender),
                role => member(role, message.sender),
            },
            rights: rights_of_role(message.sender_role).to_vec(),
        };
        let object = Object::Message(Message { payload, ..message });
        self.in_turn(Event::Message, || self.check(&compiled, &asker, object, payload)).await
    }

    fn check(&self, compiled: &Compiled, asker: &Asker, object: Object<'_>, payload: &Bytes) -> Checked {
        let input = Input { user: &asker.user, rights: &asker.rights, object };
        let (checked, deeds) = compiled.policies.check(&input, payload);
        self.0.deeds.count(&asker.user, input.event(), deeds);
        checked
    }
}

/// Returns what policies see of a submission, or of a task of another kind that it entails.
fn submission<'a>(id: &'a str, task: &'a SubmitTask, kind: &'a str, specialization: Option<&'a str>) -> Object<'a> {
    Object::Submission(Submission {
        task_id: id,
        submitter: &task.submitter,
        kind,
        specialization: specialization.unwrap_or_default(),
        priority: u32::from(task.priority),
        labels: &[],
        stored: task.input_ref.is_some(),
        input: &task.input,
    })
}

/// Returns the refusal of what would have to be redacted where policies don't see it.
fn not_redacted(what: &str) -> PolicyRefusal {
    let message = format!("a policy redacts the {what}, and can't, because it is in the object store");
    PolicyRefusal { needs_approval: false, message, approval: None }
}

/// Replaces the input of a submission. Returns its refusal if it is too large then, or in the object store.
fn redact(task: &mut SubmitTask, input: Bytes) -> Option<Held> {
    if task.input_ref.is_some() {
        return Some(Held::Answered(Err(api_refusal(&not_redacted("input")))));
    }
    task.input = input;
    task.check().err().map(|refusal: Refusal| Held::Answered(Err(convert::refusal(&refusal))))
}

/// Returns the name of an agent's role, as in certificates and expressions.
fn role_name(agent: &Agent) -> &'static str {
    match agent.role {
        Role::Worker => "worker",
        Role::Specialist => "specialist",
        Role::Messenger => "messenger",
        Role::Guardian => "guardian",
    }
}
