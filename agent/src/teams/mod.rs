//! The paths of this agent to the other members of its team.
//!
//! The fleet's directory says which team an agent is in. Each member sends every other one a message of the type
//! [`PROBE_KIND`], which its process accepts without asking the handler of messages: whoever has accepted it can be
//! reached, and has proven its name as for any message. What was reached is reported to the coordinators, by which a
//! team becomes active once all of its members reach each other.

mod handler;
mod paths;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use robeing_net::limited;
use robeing_platform::Random;
use robeing_proto::v1::{ReportPathsRequest, teams_client::TeamsClient};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::debug;

pub use self::handler::{PROBE_KIND, PathHandler};
use self::paths::Paths;
use crate::{
    messaging::{Address, Directory, Messenger, Outcome, Outgoing, packet::Priority},
    upstream::SharedUpstream,
};

/// How long a member may take to accept a probe.
const PROBE_WITHIN: Duration = Duration::from_secs(5);
/// How long an agent without a team or alone in it waits if the directory reports no changes.
const IDLE: Duration = Duration::from_secs(3600);
/// How long one coordinator may take to take a report.
const REPORT_WITHIN: Duration = Duration::from_secs(5);
/// How long the directory may change on before the team is looked up again.
const SETTLE: Duration = Duration::from_millis(200);

/// A team as this agent knows it: its id, and the names of the other members.
type Team = (Arc<str>, BTreeSet<Arc<str>>);

/// Probes and reports the paths of this agent.
pub struct TeamPaths {
    /// The agent's name.
    pub me: Arc<str>,
    /// Sends the probes.
    pub messenger: Messenger,
    /// Knows the teams of agents.
    pub directory: Arc<dyn Directory>,
    /// The coordinators.
    pub upstream: SharedUpstream,
    /// Spreads the probes of many agents.
    pub random: Arc<dyn Random>,
}

impl TeamPaths {
    /// Keeps the paths known to the coordinators until `stop` is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        tokio::select! {
            () = self.probe_on() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn probe_on(&self) {
        let mut changes = self.directory.changes();
        let (mut team, mut paths): (Option<Arc<str>>, _) = (None, Paths::default());
        loop {
            let next = paths.next_due().unwrap_or_else(|| Instant::now() + IDLE);
            tokio::select! {
                () = changed(&mut changes) => sleep(SETTLE).await,
                () = sleep_until(next) => {}
            }
            let (id, others) = self.team().unzip();
            if id != team {
                (team, paths) = (id, Paths::default());
            }
            paths.follow(&others.unwrap_or_default(), Instant::now());
            if let Some(id) = &team {
                self.round(id, &mut paths).await;
            }
        }
    }

    /// Returns the team that this agent is in; `None` if it is in none.
    fn team(&self) -> Option<Team> {
        let snapshot = self.directory.snapshot();
        let id = snapshot.get(&self.me).map(|entry| Arc::clone(&entry.team)).filter(|team| !team.is_empty())?;
        let others = snapshot.members(&id).filter(|entry| entry.name != self.me);
        let others = others.map(|entry| Arc::clone(&entry.name)).collect();
        Some((id, others))
    }

    /// Probes the members that are due, and reports who is reached.
    async fn round(&self, team: &str, paths: &mut Paths) {
        let now = Instant::now();
        let due = paths.due(now);
        if due.is_empty() && !paths.is_report_due(now) {
            return;
        }
        let answers = join_all(due.iter().map(|name| has_answered(&self.messenger, name))).await;
        let now = Instant::now();
        for (name, has_answered) in due.iter().zip(answers) {
            paths.note(name, has_answered, now, &*self.random);
        }
        let reported = self.report(team, paths.reached()).await;
        if let Err(status) = &reported {
            debug!(team, problem = status.message(), "the paths of this agent are not reported yet");
        }
        paths.note_report(reported.is_ok(), Instant::now(), &*self.random);
    }

    /// Reports the paths to one coordinator. After a failure, the next one is used.
    async fn report(&self, team: &str, reaches: Vec<String>) -> Result<(), Status> {
        let unusable = || Status::unavailable("no coordinator has a usable address");
        let (generation, channel) = self.upstream.channel().ok_or_else(unusable)?;
        let report = ReportPathsRequest { team: team.to_owned(), reaches, agent: self.me.to_string() };
        let mut client = limited!(TeamsClient::new(channel));
        let answered = timeout(REPORT_WITHIN, client.report_paths(report)).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::unavailable("a coordinator did not answer in time")));
        if answered.as_ref().is_err_and(|status| matches!(status.code(), Code::Unavailable | Code::Unimplemented)) {
            self.upstream.failed(generation);
        }
        answered.map(drop)
    }
}

/// Probes a member. The highest priority has a lane of its own and a share of what is handled at once, so that a member
/// that is busy with other messages answers.
async fn has_answered(messenger: &Messenger, name: &Arc<str>) -> bool {
    let to = Address::Agent(Arc::clone(name));
    let probe =
        Outgoing { priority: Priority::HIGHEST, deadline: PROBE_WITHIN, ..Outgoing::new(to, PROBE_KIND, Bytes::new()) };
    matches!(messenger.send(probe).await, Outcome::Accepted { .. })
}

/// Waits for a change of the directory, if it reports changes.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    let is_open = match changes {
        Some(changes) => changes.changed().await.is_ok(),
        None => false,
    };
    if !is_open {
        pending::<()>().await;
    }
}
