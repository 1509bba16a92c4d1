//! The timekeeper: a client that sets schedules at any coordinator. It suspends one for a while, removes one and sets it
//! again, and starts a run by hand. In the end it removes them, and every run has to end.

use std::time::Duration;

use futures::future::join_all;
use robeing_net::limited;
use robeing_proto::v1::{
    self, GetScheduleRequest, ListSchedulesRequest, RemoveScheduleRequest, RunScheduleRequest, SuspendScheduleRequest,
    schedules_client::SchedulesClient,
};
use tonic::{Code, Status};

use super::draft::{ALL, Draft, REMOVED, STARTED, SUSPENDED};
use crate::{
    calls::{Calls, PAUSE, is_refusal},
    checks::Check,
    tasks,
};

/// How long a schedule is suspended at most, in milliseconds.
const SUSPENDED_FOR: u64 = 3_000;

/// The timekeeper.
pub struct Timekeeper {
    /// Makes its calls.
    pub calls: Calls,
}

impl Timekeeper {
    /// Runs the timekeeper; returns when every schedule is removed, and every run has ended.
    pub async fn run(self) {
        join_all(ALL.into_iter().map(|draft| self.activity(draft))).await;
        self.calls.record.notes().schedules.close();
        while !self.calls.record.notes().schedules.is_over() {
            self.calls.pause(PAUSE).await;
        }
    }

    /// Runs through the life of one schedule. It is set as early as possible, so that it is due while there are faults.
    async fn activity(&self, draft: Draft) {
        self.set(draft).await;
        self.calls.record.notes().schedules.acknowledges(draft.name);
        if draft == STARTED {
            self.start(draft).await;
        }
        if draft == SUSPENDED {
            self.calls.pause_to_begin().await;
            self.suspend(draft, true).await;
            self.calls.pause(SUSPENDED_FOR).await;
            self.suspend(draft, false).await;
        }
        if draft == REMOVED {
            self.calls.pause_to_begin().await;
            self.remove(draft).await;
            // A removal that was given up may still come after this.
            self.set(draft).await;
        }
        self.calls.calm().await;
        while !self.read(draft).await {
            self.calls.pause(PAUSE).await;
        }
        self.remove(draft).await;
    }

    /// Records a refusal for which there is no reason. There may be too few coordinators yet that know schedules, and a
    /// schedule that was removed may be gone.
    fn refused(&self, draft: Draft, status: &Status) {
        let is_expected = match status.code() {
            Code::FailedPrecondition => true,
            Code::NotFound => draft == REMOVED,
            code => !is_refusal(code),
        };
        if !is_expected {
            let what = format!("schedule {}: a call was refused: {status}", draft.name);
            self.calls.record.violation(Check::Scheduled, what);
        }
    }

    fn told(&self, schedule: &v1::Schedule) {
        self.calls.record.schedule(|ledger| ledger.told(schedule));
    }

    /// Sets a schedule.
    async fn set(&self, draft: Draft) {
        loop {
            let request = draft.request(&self.calls.name);
            let setting = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(SchedulesClient::new(channel)).set_schedule(request).await
            });
            match setting.await {
                Ok(response) => return self.told(&response.schedule.unwrap_or_default()),
                Err(status) => self.refused(draft, &status),
            }
            self.calls.pause(PAUSE).await;
        }
    }

    /// Suspends a schedule, or lets it go on.
    async fn suspend(&self, draft: Draft, suspended: bool) {
        loop {
            let request = SuspendScheduleRequest { name: draft.name.to_owned(), suspended };
            let suspending = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(SchedulesClient::new(channel)).suspend_schedule(request).await
            });
            match suspending.await {
                Ok(response) => return self.told(&response.schedule.unwrap_or_default()),
                Err(status) => self.refused(draft, &status),
            }
            self.calls.pause(PAUSE).await;
        }
    }

    /// Removes a schedule.
    async fn remove(&self, draft: Draft) {
        self.calls.record.notes().schedules.removes(draft.name);
        loop {
            let request = RemoveScheduleRequest { name: draft.name.to_owned(), managed: false };
            let removing = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(SchedulesClient::new(channel)).remove_schedule(request).await
            });
            match removing.await {
                Ok(_) => return,
                Err(status) => self.refused(draft, &status),
            }
            self.calls.pause(PAUSE).await;
        }
    }

    /// Starts a run by hand, and starts it again, which must be the same run.
    async fn start(&self, draft: Draft) {
        let id = tasks::new_id(&self.calls.platform);
        self.calls.record.notes().schedules.starts(&id);
        self.try_to_start(draft, &id).await;
        let existing = self.try_to_start(draft, &id).await;
        self.calls.record.schedule(|ledger| ledger.started_again(draft.name, existing));
    }

    /// Starts a run with this id; returns whether an earlier call has started it.
    async fn try_to_start(&self, draft: Draft, id: &str) -> bool {
        loop {
            let request = RunScheduleRequest { name: draft.name.to_owned(), task_id: id.to_owned() };
            let starting = self.calls.call(self.calls.any(), Duration::ZERO, async |channel| {
                limited!(SchedulesClient::new(channel)).run_schedule(request).await
            });
            match starting.await {
                Ok(response) => return response.existing,
                Err(status) => self.refused(draft, &status),
            }
            self.calls.pause(PAUSE).await;
        }
    }

    /// Reads a schedule, alone or with all others; returns whether there was a response.
    async fn read(&self, draft: Draft) -> bool {
        let name = draft.name.to_owned();
        let any = self.calls.any();
        let read = if self.calls.below(2) == 0 {
            let reading = self.calls.call(any, Duration::ZERO, async |channel| {
                limited!(SchedulesClient::new(channel)).get_schedule(GetScheduleRequest { name }).await
            });
            reading.await.map(|schedule| vec![schedule])
        } else {
            let listing = self.calls.call(any, Duration::ZERO, async |channel| {
                limited!(SchedulesClient::new(channel)).list_schedules(ListSchedulesRequest::default()).await
            });
            listing.await.map(|page| page.schedules)
        };
        match read {
            Ok(schedules) => schedules.iter().for_each(|schedule| self.told(schedule)),
            // It may be gone for good.
            Err(status) if status.code() == Code::NotFound && draft == REMOVED => {}
            Err(status) => {
                self.refused(draft, &status);
                return false;
            }
        }
        true
    }
}
