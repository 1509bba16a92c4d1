//! Submission of tasks: validation, detection of repeated submissions, and limits of the storage.

use std::sync::Arc;

use bytes::Bytes;

use super::{approvals::check_approval, links::Links};
use crate::{
    Approval, Effect, Feature, Fleet, Places, Refusal, Reply, Role, SubmitTask, Task, TaskId, TaskState,
    config::{check_duration, check_length, check_name, invalid},
    limits::{DEFAULT_PRIORITY, MAX_INPUT_BYTES, MAX_KEY_BYTES, MAX_NAME_BYTES, MAX_PRIORITY, QUEUE_PLACES_PER_KEPT},
    steps::Jobs,
};

impl SubmitTask {
    /// Returns a submission with defaults for all other fields and an empty submitter.
    pub fn new(id: TaskId, kind: impl Into<String>, input: Bytes) -> Self {
        Self {
            id,
            kind: kind.into(),
            input,
            priority: DEFAULT_PRIORITY,
            deadline_in: None,
            delay: None,
            attempt_timeout: None,
            retry: None,
            required_role: None,
            required_specialization: None,
            idempotency_key: None,
            result_ttl: None,
            submitter: String::new(),
            approval: None,
            verify: None,
            #[cfg(feature = "trial")]
            trial: false,
            timing: None,
            team: None,
            team_term: None,
            resources: None,
            links: None,
            lane: None,
            demand: None,
            input_ref: None,
        }
    }

    /// Refuses a submission that is out of bounds, whatever the fleet's state.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name("kind", &self.kind)?;
        if self.input.len() > MAX_INPUT_BYTES {
            return Err(Refusal::InputTooLarge { bytes: self.input.len() as u64, limit: MAX_INPUT_BYTES as u64 });
        }
        if !(1..=MAX_PRIORITY).contains(&self.priority) {
            let problem = format!("is {}, must be 1 to {MAX_PRIORITY}", self.priority);
            return Err(invalid("priority", problem));
        }
        check_duration("deadline", self.deadline_in, 1)?;
        check_duration("delay", self.delay, 0)?;
        check_duration("attempt_timeout", self.attempt_timeout, 1)?;
        check_duration("result_ttl", self.result_ttl, 0)?;
        if let Some(retry) = &self.retry {
            retry.check("retry")?;
        }
        if let Some(name) = &self.required_specialization {
            check_name("required_specialization", name)?;
        }
        if let Some(key) = &self.idempotency_key {
            if key.is_empty() {
                return Err(invalid("idempotency_key", "must not be empty; leave it out"));
            }
            check_length("idempotency_key", key, MAX_KEY_BYTES)?;
        }
        check_length("submitter", &self.submitter, MAX_NAME_BYTES)?;
        self.check_input_ref()?;
        self.check_lane()?;
        self.check_verify()?;
        self.check_links()?;
        if let Some(timing) = &self.timing {
            timing.check()?;
        }
        self.check_demand()?;
        if let Some(resources) = &self.resources {
            resources.check()?;
        }
        self.approval.as_ref().map_or(Ok(()), |ballot| check_approval(self.id, ballot))
    }

    /// Returns the bytes that count against the fleet's budget once the task is accepted.
    pub(super) fn stored_bytes(&self) -> u64 {
        let links = self.links.as_ref().map_or(0, |links| links.stored_bytes());
        let lane = self.lane.as_ref().map_or(0, |lane| lane.stored_bytes());
        let demand = self.demand.as_ref().map_or(0, |demand| demand.stored_bytes());
        let timing = self.timing.as_ref().map_or(0, |timing| timing.stored_bytes());
        (self.input.len() + links + lane + demand + timing) as u64
    }

    fn is_same_as(&self, task: &Task) -> bool {
        let part = task.child_of().map(|of| (of.task, of.index));
        self.kind == task.kind
            && self.input == task.input
            && self.input_ref == task.input_ref
            && self.team == task.team
            && self.part_of().map(|of| (of.task, of.index)) == part
    }
}

impl Fleet {
    /// Returns the refusal that this submission would get now, if it is out of bounds or the state has no room for it.
    /// A submission whose id or key is known needs no room: its reply names the known task.
    pub fn refusal_of(&self, submission: &SubmitTask) -> Option<Refusal> {
        if let Err(refusal) = submission.check() {
            return Some(refusal);
        }
        let filled = self.with_defaults(submission);
        let refusal = self.check_room(&filled, self.has_place(submission)).err()?;
        self.submitted_before(submission).is_none().then_some(refusal)
    }

    pub(crate) fn submit(&mut self, mut submission: SubmitTask, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = submission.check() {
            return Reply::Refused(refusal);
        }
        if let Some(reply) = self.submitted_before(&submission) {
            return reply;
        }
        self.fill_defaults(&mut submission);
        let checked = self.check_room(&submission, self.has_place(&submission));
        let links = match checked.and_then(|()| self.links_of(&submission)) {
            Ok(links) => links,
            Err(refusal) => return Reply::Refused(refusal),
        };
        let (task, ballot) = (submission.id, submission.approval.take());
        let approval = ballot.as_ref().map(|ballot| Approval { ballot: ballot.id, approved: false });
        self.accept(submission, approval, links, effects);
        if let Some(ballot) = ballot {
            self.open_approval(*ballot, jobs, effects);
        }
        Reply::Submitted { task, existing: false }
    }

    /// Accepts a task for which there is room, and gives it to an agent if it is ready and there is one.
    pub(super) fn accept(
        &mut self,
        submission: SubmitTask,
        approval: Option<Approval>,
        links: Option<Box<Links>>,
        effects: &mut Vec<Effect>,
    ) {
        self.count_team_task(submission.team);
        self.state.totals.submitted = self.state.totals.submitted.saturating_add(1);
        let seq = self.state.tasks.next_seq;
        self.state.tasks.next_seq += 1;
        let floor = self.indexes.agents.stopping.highest(submission.id);
        let now = self.state.now;
        let mut task = Task::accept(submission, seq, now, &self.state.config, floor);
        (task.approval, task.links) = (approval, links);
        self.set_lane(&mut task);
        if task.awaits_tasks() {
            task.stop_waiting();
        }
        if task.is_ready() {
            self.assign_new(&mut task, effects);
        }
        task.revision = self.next_revision();
        self.indexes.add_task(&task);
        self.indexes.link(&task, &self.state);
        let (lacks_members, is_linked) = (task.lacks_members(), task.links.is_some());
        self.state.tasks.kept.insert(seq, Arc::new(task));
        if lacks_members {
            self.launch(seq, effects);
        }
        if is_linked {
            self.note_accepted(seq);
        }
    }

    /// Returns whether the id or idempotency key of this submission belongs to a known task.
    pub fn knows(&self, submission: &SubmitTask) -> bool {
        self.submitted_before(submission).is_some()
    }

    /// Returns the reply to a submission whose id or idempotency key is known; `None` if it is new.
    pub fn submitted_before(&self, submission: &SubmitTask) -> Option<Reply> {
        if let Some(row) = self.archived(submission.id) {
            return Some(self.submitted_as(&row, submission, "the id"));
        }
        let by_id = self.indexes.tasks.ids.get(&submission.id);
        let by_key = || self.indexes.tasks.keys.get(submission.idempotency_key.as_ref()?);
        let (seq, what) = match by_id {
            Some(seq) => (seq, "the id"),
            None => match by_key() {
                Some(seq) => (seq, "the idempotency key"),
                None => return self.spent_before(submission),
            },
        };
        let task = self.state.tasks.kept.get(seq)?;
        if submission.is_same_as(task) && task.member_of.is_none() && !self.is_part_of_earlier(task) {
            return Some(Reply::Submitted { task: task.id, existing: true });
        }
        Some(Reply::Refused(Refusal::Conflict { what: what.to_owned(), task: task.id }))
    }

    /// Returns whether a task is a part of one that is forgotten, whose id another one has now. It is none of that one's,
    /// which would wait for it in vain.
    fn is_part_of_earlier(&self, task: &Task) -> bool {
        task.child_of().is_some_and(|of| self.kept_seq(of.task).is_some_and(|now| now != of.seq))
    }

    /// Returns how many unfinished tasks there may be before one that requires this role is refused. A task that
    /// requires none counts as one for workers.
    pub fn queue_places(&self, required: Option<Role>) -> u32 {
        let most = self.state.config.max_queued;
        let kept = if self.version() >= Feature::RolePriority.since() { most / QUEUE_PLACES_PER_KEPT } else { 0 };
        Places { most, kept }.of(required.unwrap_or(Role::Worker))
    }

    /// Refuses a submission for which there is no room. `has_place`: a place is kept for the task.
    pub(super) fn check_room(&self, submission: &SubmitTask, has_place: bool) -> Result<(), Refusal> {
        if let Some(team) = submission.team {
            self.open_team(team)?;
            self.check_term(team, submission.team_term)?;
        }
        let runs = submission.verify.as_ref().map_or(0, |verify| verify.most_runs());
        let more = if has_place { None } else { Some(u64::from(runs) + u64::from(submission.parts())) };
        self.check_places(submission.required_role, more, submission.stored_bytes())?;
        self.check_lane_room(submission, self.more_in_queue(submission, more))?;
        self.check_verify_room(submission)?;
        match submission.resources {
            Some(_) => self.check_task_resources(submission)?,
            None => self.check_demand_room(
                submission.needs(),
                submission.team,
                (submission.queue(), submission.limit_key()),
            )?,
        }
        self.check_key_room(submission)?;
        submission.approval.as_ref().map_or(Ok(()), |ballot| self.check_approval_room(ballot))
    }

    /// Returns how many come with a task in its queue, as `more` says for all: a place that is kept for a part is one in
    /// the queue of its task.
    fn more_in_queue(&self, submission: &SubmitTask, more: Option<u64>) -> Option<u64> {
        let of = submission.part_of().and_then(|part| self.task(part.task));
        let is_elsewhere = of.is_some_and(|of| of.queue() != submission.queue());
        more.or_else(|| is_elsewhere.then_some(0))
    }

    /// Refuses a task that requires this role, and `more` others that come with it, if there are no places for all of
    /// them; `None`: one is kept for it. Refuses it also if there is no room for its `bytes`.
    pub(super) fn check_places(&self, role: Option<Role>, more: Option<u64>, bytes: u64) -> Result<(), Refusal> {
        let config = &self.state.config;
        if let Some(more) = more {
            self.check_queue_places(role, more)?;
            let more = more.saturating_add(self.indexes.links.expected);
            if (self.kept_count() as u64).saturating_add(more) >= u64::from(config.max_tasks) {
                return Err(Refusal::TooManyTasks { limit: config.max_tasks });
            }
        }
        if self.stored_bytes().saturating_add(bytes) > config.max_bytes {
            return Err(Refusal::StorageFull { limit: config.max_bytes });
        }
        Ok(())
    }

    /// Refuses another unfinished task that requires this role, and `more` others that come with it, if there are too
    /// many beside those for which places are kept.
    pub(super) fn check_queue_places(&self, role: Option<Role>, more: u64) -> Result<(), Refusal> {
        let count = |state: TaskState| u64::from(self.indexes.tasks.counts[state as usize]);
        let (limit, more) = (self.queue_places(role), more.saturating_add(self.indexes.links.expected));
        match (count(TaskState::Queued) + count(TaskState::Assigned)).saturating_add(more) >= u64::from(limit) {
            true => Err(Refusal::QueueFull { limit }),
            false => Ok(()),
        }
    }
}
