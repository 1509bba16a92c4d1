//! The paths of this agent to the other members of its team.
//!
//! The fleet's directory says which team an agent is in. Each member sends every other one a message of the type
//! [`PROBE_KIND`], which its process accepts without asking the handler of messages: whoever has accepted it can be
//! reached, and has proven its name as for any message. What was reached is reported to the coordinators, by which a
//! team becomes active once all of its members reach each other.

mod handler;

use std::{collections::BTreeSet, future::pending, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use robeing_net::limited;
use robeing_platform::{Random, jittered};
use robeing_proto::v1::{ReportPathsRequest, teams_client::TeamsClient};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::debug;

pub use self::handler::{PROBE_KIND, PathHandler};
use crate::{
    messaging::{Address, Directory, Messenger, Outcome, Outgoing},
    upstream::SharedUpstream,
};

/// How often the other members are probed while nothing changes.
const PROBE_EVERY: Duration = Duration::from_secs(15);
/// How soon they are probed again if not all were reached, or that was not reported.
const PROBE_AGAIN: Duration = Duration::from_secs(2);
/// How long a member may take to accept a probe.
const PROBE_WITHIN: Duration = Duration::from_secs(5);
/// How long an agent in no team waits if the directory reports no changes.
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
        let (mut last, mut next): (Option<Team>, Instant) = (None, Instant::now() + IDLE);
        loop {
            tokio::select! {
                () = changed(&mut changes) => sleep(SETTLE).await,
                () = sleep_until(next) => {}
            }
            let team = self.team();
            if team == last && Instant::now() < next {
                continue;
            }
            let pause = match &team {
                Some((id, others)) if self.round(id, others).await => jittered(&*self.random, PROBE_EVERY),
                Some(_) => jittered(&*self.random, PROBE_AGAIN),
                None => IDLE,
            };
            next = Instant::now() + pause;
            last = team;
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

    /// Probes the other members and reports who was reached. Returns whether all were, and the report was taken.
    async fn round(&self, team: &str, others: &BTreeSet<Arc<str>>) -> bool {
        let probes = others.iter().map(|name| async move { self.reaches(name).await.then(|| name.to_string()) });
        let reached: Vec<String> = join_all(probes).await.into_iter().flatten().collect();
        let is_complete = reached.len() == others.len();
        match self.report(team, reached).await {
            Ok(()) => is_complete,
            Err(status) => {
                debug!(team, problem = status.message(), "the paths of this agent are not reported yet");
                false
            }
        }
    }

    async fn reaches(&self, name: &Arc<str>) -> bool {
        let to = Address::Agent(Arc::clone(name));
        let probe = Outgoing { deadline: PROBE_WITHIN, ..Outgoing::new(to, PROBE_KIND, Bytes::new()) };
        matches!(self.messenger.send(probe).await, Outcome::Accepted { .. })
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
