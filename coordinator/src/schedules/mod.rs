//! Schedules, through any coordinator.
//!
//! The fleet's state knows no calendars. So the coordinator that takes a call computes when a schedule is due next, and the
//! leader fires it ([`firing`]). What the state then decides is the same, whoever has computed it.

pub mod firing;
mod plan;

use std::sync::Arc;

use robeing_cron::{CronError, Timetable};
use robeing_fleet::{
    Command, Fleet, Refusal, Reply, Schedule, ScheduleCommand, ScheduleSpec, SetSchedule, Setter, SubmitTask, TaskId,
    TaskState, UnixMillis, limits,
};
use robeing_net::gate::Caller;
use robeing_platform::{Platform, uuid_v7};
use robeing_proto::v1;
use tokio::time::Instant;

use crate::{
    api::{
        convert::{self, BadField},
        preparing::identify,
    },
    clock::FleetClock,
    disk_space::Rooms,
    identity::rights::Right,
    mail::sender_name,
    policies::{CallerRights, Held, Policies, UNKNOWN_RIGHTS},
    propose::{ProposeError, Proposer},
    read::StateReader,
};

/// Maximum number of schedules on a page.
pub const MAX_PAGE: usize = 1_000;
/// Default number of schedules on a page.
const DEFAULT_PAGE: usize = 100;
/// How often a change is tried that was computed for another state of the schedule: it was fired meanwhile.
const MAX_TRIES: usize = 4;

// What the state keeps can be read.
const _: () = {
    assert!(limits::MAX_CRON_BYTES == robeing_cron::MAX_CRON_BYTES);
    assert!(limits::MAX_ZONE_BYTES == robeing_cron::MAX_ZONE_BYTES);
    assert!(limits::MAX_SCHEDULES <= MAX_PAGE);
};

/// Why a call about schedules has failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// A field of the request is invalid.
    #[error(transparent)]
    BadField(#[from] BadField),
    /// The expression or the time zone can't be read.
    #[error(transparent)]
    Cron(#[from] CronError),
    /// The state machine refuses it.
    #[error("{0}")]
    Refused(Refusal),
    /// A policy denies its task.
    #[error("the task of the schedule: {0}")]
    Denied(String),
    /// A policy requires an approval of its task.
    #[error("a policy requires an approval of the task, which nobody could give when a run is due: {0}")]
    NeedsApproval(String),
    /// It was not confirmed to be in the log.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The state can't be read now.
    #[error("{0}")]
    NotReadable(String),
    /// The caller would change what somebody else has set.
    #[error("{caller} can't change schedule {name:?}: {setter}, who has set it, can, and administrators")]
    NotYours {
        /// The caller.
        caller: String,
        /// The schedule.
        name: String,
        /// Who has set it.
        setter: String,
    },
    /// The caller would set what is the operator's.
    #[error("{caller} can't change what the fleet's RobeingCluster sets: that takes the right admin")]
    NotAdmin {
        /// The caller.
        caller: String,
    },
}

/// A schedule with the states of the tasks of its runs.
#[derive(Clone, Debug)]
pub struct Shown {
    pub schedule: Arc<Schedule>,
    /// In the order of the runs; `None` if the task is not known any more and its end is not either.
    pub states: Vec<Option<TaskState>>,
}

impl Shown {
    fn of(fleet: &Fleet, schedule: &Arc<Schedule>) -> Self {
        let now = |task: TaskId| fleet.state_of(task);
        let states = schedule.runs.iter().map(|run| run.end.map(|end| end.state).or_else(|| now(run.task))).collect();
        Self { schedule: Arc::clone(schedule), states }
    }
}

/// A page of schedules.
pub struct Page {
    pub schedules: Vec<Shown>,
    pub has_more: bool,
}

/// Sets, changes and reads schedules. Cheap to clone.
#[derive(Clone)]
pub struct Schedules {
    pub state: StateReader,
    pub proposer: Proposer,
    pub rooms: Arc<Rooms>,
    pub policies: Policies,
    /// Knows what callers may do.
    pub rights: CallerRights,
    pub clock: FleetClock,
    /// The source of ids.
    pub platform: Platform,
}

impl Schedules {
    /// Waits until everything that was accepted before the call is applied here.
    async fn catch_up(&self) -> Result<(), ScheduleError> {
        let ready = self.state.ready_to_read(v1::Consistency::Linearizable.into()).await;
        ready.map_err(|status| ScheduleError::NotReadable(status.message().to_owned()))
    }

    /// Returns a schedule as it is now.
    ///
    /// # Errors
    /// [`ScheduleError`] if there is none of this name, or the state can't be read.
    pub async fn get(&self, name: &str) -> Result<Shown, ScheduleError> {
        self.catch_up().await?;
        let found = self.state.look(|fleet| fleet.schedule(name).map(|schedule| Shown::of(fleet, schedule)));
        found
            .ok_or_else(|| ScheduleError::Refused(Refusal::UnknownSchedule { name: convert::excerpt(name).to_owned() }))
    }

    /// Returns a page of schedules with names after this one; only those that are parts of the fleet's resource, or all. A
    /// `limit` of 0 means the default.
    ///
    /// # Errors
    /// [`ScheduleError`] if the state can't be read.
    pub async fn list(&self, after: &str, limit: usize, only_managed: bool) -> Result<Page, ScheduleError> {
        let limit = if limit == 0 { DEFAULT_PAGE } else { limit.min(MAX_PAGE) };
        self.catch_up().await?;
        let mut schedules: Vec<Shown> = self.state.look(|fleet| {
            let found = fleet.schedules_after(after, MAX_PAGE).into_iter();
            let wanted = found.filter(|schedule| schedule.managed || !only_managed);
            wanted.take(limit + 1).map(|schedule| Shown::of(fleet, schedule)).collect()
        });
        let has_more = schedules.len() > limit;
        schedules.truncate(limit);
        Ok(Page { schedules, has_more })
    }

    /// Makes a schedule, or changes the one of its name, and returns it as it is then.
    ///
    /// # Errors
    /// [`ScheduleError`] if it was not set, or is not known to be.
    pub async fn set(&self, caller: &Caller, request: v1::SetScheduleRequest) -> Result<Shown, ScheduleError> {
        let v1::SetScheduleRequest { name, spec, managed } = request;
        let spec = spec.unwrap_or_default();
        let kind = spec.task.as_ref().map_or("", |task| task.kind.as_str());
        let default_retry = self.state.look(|fleet| fleet.default_retry(kind));
        let mut spec = convert::schedule_spec(spec, default_retry)?;
        spec.check().map_err(ScheduleError::Refused)?;
        let timetable = timetable(&spec)?;
        if managed {
            self.check_administers(caller).await?;
        }
        self.check_policies(caller, &mut spec.task).await?;
        identify(&self.state, caller, std::slice::from_mut(&mut spec.task));
        let by = self.setter(caller).await?;
        if let Some(reason) = self.rooms.refusal(Instant::now()) {
            return Err(ScheduleError::Refused(Refusal::NoRoom { reason }));
        }
        let draft = SetSchedule { name: name.clone(), spec, next: None, managed, by };
        self.change(caller, &name, |known| {
            let next = self.next(&timetable, known)?;
            Ok(ScheduleCommand::Set(Box::new(SetSchedule { next: Some(next), ..draft.clone() })))
        })
        .await?;
        self.get(&name).await
    }

    /// Removes a schedule. Returns whether there was one.
    ///
    /// # Errors
    /// [`ScheduleError`] if it was not removed, or is not known to be.
    pub async fn remove(&self, caller: &Caller, name: &str, managed: bool) -> Result<bool, ScheduleError> {
        if managed {
            self.check_administers(caller).await?;
        }
        let by = sender_name(caller);
        let removed = self.change(caller, name, |_| {
            let (name, by) = (name.to_owned(), by.clone());
            Ok(ScheduleCommand::Remove { name, managed, by })
        });
        match removed.await {
            Ok(()) => Ok(true),
            Err(ScheduleError::Refused(Refusal::UnknownSchedule { .. })) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Suspends a schedule, or lets it go on, and returns it as it is then.
    ///
    /// # Errors
    /// [`ScheduleError`] if nothing was changed, or is not known to be.
    pub async fn suspend(&self, caller: &Caller, name: &str, suspended: bool) -> Result<Shown, ScheduleError> {
        let by = sender_name(caller);
        self.change(caller, name, |known| {
            let next = match known {
                Some(known) if !suspended => Some(self.next(&timetable(&known.spec)?, Some(known))?),
                _ => None,
            };
            let (name, by) = (name.to_owned(), by.clone());
            Ok(ScheduleCommand::Suspend { name, suspended, next, by })
        })
        .await?;
        self.get(name).await
    }

    /// Starts a run of a schedule. Returns the id of its task, and whether an earlier call has started it.
    ///
    /// # Errors
    /// [`ScheduleError`] if it was not started, or is not known to be.
    pub async fn run(&self, caller: &Caller, request: v1::RunScheduleRequest) -> Result<(TaskId, bool), ScheduleError> {
        let v1::RunScheduleRequest { name, task_id } = request;
        let id = match task_id.as_str() {
            "" => TaskId(uuid_v7(&*self.platform.clock, &*self.platform.random)),
            text => convert::task_id(text)?,
        };
        let schedule = self.get(&name).await?.schedule;
        // What is allowed now does not matter for a run that has started. Another task of this id is refused below.
        if schedule.runs.iter().any(|run| run.task == id) {
            return Ok((id, true));
        }
        let mut task = SubmitTask { id, ..schedule.spec.task.clone() };
        self.check_policies(caller, &mut task).await?;
        if let Some(reason) = self.rooms.refusal(Instant::now()) {
            return Err(ScheduleError::Refused(Refusal::NoRoom { reason }));
        }
        let input = Some(task.input).filter(|input| *input != schedule.spec.task.input);
        match self.propose(ScheduleCommand::Run { name, task: id, input }).await? {
            Some(Reply::ScheduleFired { task: Some(task), existing }) => Ok((task, existing)),
            reply => Err(unexpected(reply)),
        }
    }

    /// Proposes a change of a schedule, which the caller must be allowed to make, as often as it was changed meanwhile.
    async fn change(
        &self,
        caller: &Caller,
        name: &str,
        command: impl Fn(Option<&Schedule>) -> Result<ScheduleCommand, ScheduleError>,
    ) -> Result<(), ScheduleError> {
        let mut moved = Refusal::ScheduleMoved { schedule: 0 };
        for _ in 0..MAX_TRIES {
            self.catch_up().await?;
            let known = self.state.look(|fleet| fleet.schedule(name).cloned());
            // The state machine refuses changes of what is managed.
            if let Some(known) = known.as_ref().filter(|known| !known.managed) {
                self.check_owns(caller, known).await?;
            }
            match self.propose(command(known.as_deref())?).await? {
                Some(Reply::ScheduleSet { .. } | Reply::Done) => return Ok(()),
                Some(Reply::Refused(refusal @ Refusal::ScheduleMoved { .. })) => moved = refusal,
                reply => return Err(unexpected(reply)),
            }
        }
        Err(ScheduleError::Refused(moved))
    }

    /// Returns when a schedule is due next: after now, also by what the leader has stamped, and after what is decided.
    fn next(&self, timetable: &Timetable, known: Option<&Schedule>) -> Result<UnixMillis, ScheduleError> {
        let stamped = self.state.look(|fleet| fleet.now().wall);
        let after = self.clock.estimate().wall.max(stamped).max(known.map_or(0, |known| known.decided));
        timetable
            .next_after(after)
            .ok_or_else(|| convert::bad("spec.cron", "it is never due again before the end of the year 9999").into())
    }

    /// Lets the policies decide about the task of a schedule as if the caller submitted it.
    async fn check_policies(&self, caller: &Caller, task: &mut SubmitTask) -> Result<(), ScheduleError> {
        match self.policies.check_scheduled(task, caller).await {
            None => Ok(()),
            Some(Held::Answered(Err(v1::Refusal { code, message }))) if code == UNKNOWN_RIGHTS => {
                Err(ScheduleError::NotReadable(message))
            }
            Some(Held::Answered(Err(refusal))) => Err(ScheduleError::Denied(refusal.message)),
            Some(Held::Answered(Ok(reply))) => Err(unexpected(Some(reply))),
            Some(Held::Approval(_, reason)) => Err(ScheduleError::NeedsApproval(reason)),
        }
    }

    async fn setter(&self, caller: &Caller) -> Result<Setter, ScheduleError> {
        let asker = self.rights.asker(caller, true, &self.state).await;
        let asker = asker.map_err(|status| ScheduleError::NotReadable(status.message().to_owned()))?;
        let rights = asker.rights.into_iter().map(str::to_owned).collect();
        Ok(Setter { name: sender_name(caller), user: asker.user, rights })
    }

    async fn is_admin(&self, caller: &Caller) -> Result<bool, ScheduleError> {
        let has = self.rights.has(caller, Right::Admin, &self.state).await;
        has.map_err(|status| ScheduleError::NotReadable(status.message().to_owned()))
    }

    async fn check_administers(&self, caller: &Caller) -> Result<(), ScheduleError> {
        match self.is_admin(caller).await? {
            true => Ok(()),
            false => Err(ScheduleError::NotAdmin { caller: sender_name(caller) }),
        }
    }

    /// Refuses a caller that has not set a schedule and is no administrator.
    async fn check_owns(&self, caller: &Caller, schedule: &Schedule) -> Result<(), ScheduleError> {
        let (caller_name, setter) = (sender_name(caller), &schedule.set_by.name);
        if caller_name == *setter || self.is_admin(caller).await? {
            return Ok(());
        }
        Err(ScheduleError::NotYours { caller: caller_name, name: schedule.name.clone(), setter: setter.clone() })
    }

    async fn propose(&self, command: ScheduleCommand) -> Result<Option<Reply>, ScheduleError> {
        let command = Command::Schedule(command);
        Ok(self.proposer.propose(self.proposer.sender(), [&command]).await?.pop())
    }
}

/// Returns the error for a reply that does not belong to the command.
fn unexpected(reply: Option<Reply>) -> ScheduleError {
    match reply {
        Some(Reply::Refused(refusal)) => ScheduleError::Refused(refusal),
        Some(Reply::Unreadable { problem }) => ScheduleError::NotReadable(format!(
            "this was done, but the coordinator can't decode the outcome ({problem}); get the schedule to see it"
        )),
        other => ScheduleError::NotReadable(format!("unexpected reply {other:?}")),
    }
}

/// Returns the timetable of a schedule.
///
/// # Errors
/// If this coordinator can't read the expression or does not know the time zone, as another version may.
fn timetable(spec: &ScheduleSpec) -> Result<Timetable, CronError> {
    Timetable::parse(&spec.cron, &spec.time_zone)
}
