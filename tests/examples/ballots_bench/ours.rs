//! Ballots at a fleet of three coordinators.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Error, Result, ensure};
use futures::future::try_join_all;
use robeing::dev::plan::ProcessKind;
use robeing_client::{ClientError, FleetClient, Settings, Voting, new_ballot_id};
use robeing_proto::v1::BallotState;
use robeing_tests::local_fleet::{LocalFleet, Location};
use tokio::time::{Instant, sleep};
use tonic::Code;

use crate::voters::{FleetAuthority, Voter, opening};

/// How long the fleet may take to start, and to support ballots.
const READY: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// One agent, because a fleet has some; it is no member of the ballots.
const MANIFEST: &str = "apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: bench}
spec:
  coordinators: {replicas: 3}
  pools:
  - {name: echo, role: Worker, replicas: 1, slots: 1, executor: {echo: {}}}
";

/// A fleet, and the members of its ballots.
pub struct Ours {
    fleet: LocalFleet,
    voters: Vec<Voter>,
    /// What votes for each member: as agents do, in one call at a time, with those votes that are due when it begins.
    voting: Vec<Voting>,
    next: AtomicUsize,
}

impl Ours {
    /// Starts a fleet, and waits until a ballot is decided in it.
    ///
    /// # Errors
    /// If the fleet does not start.
    pub async fn start(place: &Location) -> Result<Self> {
        let mut fleet = LocalFleet::start(MANIFEST, place).await?;
        let members = Self::members(&fleet, place.plaintext).await;
        match members {
            Ok((voters, voting)) => {
                let ours = Self { fleet, voters, voting, next: AtomicUsize::new(0) };
                ours.decides().await?;
                Ok(ours)
            }
            Err(error) => {
                let kept = fleet.keep_directory().display().to_string();
                Err(error.context(format!("logs are kept in {kept}")))
            }
        }
    }

    /// Creates the members, each with a client of the leader.
    async fn members(fleet: &LocalFleet, plaintext: bool) -> Result<(Vec<Voter>, Vec<Voting>)> {
        let status = fleet.whole(&fleet.client()?, READY).await?;
        let leader = status.coordinators.iter().find(|one| one.name == status.leader).context("there is no leader")?;
        let endpoint = format!("http://{}", leader.address);
        let authority = (!plaintext).then(|| FleetAuthority::read(fleet.directory())).transpose()?;
        let voters = Voter::all(authority.as_ref())?;
        let voting = |voter: &Voter| {
            let security = voter.security().clone();
            let settings = Settings { request_timeout: CALL_TIMEOUT, security, ..Settings::default() };
            Voting::new(FleetClient::new(&[&endpoint], settings)?)
        };
        let voting = voters.iter().map(voting).collect::<Result<Vec<_>, ClientError>>()?;
        Ok((voters, voting))
    }

    /// Waits until a ballot is decided: the fleet's version may only be about to have ballots.
    async fn decides(&self) -> Result<()> {
        let deadline = Instant::now() + READY;
        loop {
            match self.ballot().await {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() < deadline && is_early(&error) => sleep(POLL).await,
                Err(error) => return Err(error.context("no ballot is decided")),
            }
        }
    }

    /// Opens a ballot, casts the votes of all members at once, and checks that it is decided by the last one.
    ///
    /// # Errors
    /// If anything of that fails.
    pub async fn ballot(&self) -> Result<()> {
        let id = new_ballot_id();
        // One may open only a part of the ballots.
        let opener = self.next.fetch_add(1, Ordering::Relaxed) % self.voting.len();
        let opened = self.voting[opener].open(opening(&id, &self.voters)).await?;
        let votes = self.voters.iter().zip(&self.voting).map(|(voter, voting)| voting.cast(&opened, voter.vote(&id)));
        let counted = try_join_all(votes).await?;
        ensure!(counted.iter().any(|result| result.state() == BallotState::Approved), "ballot {id} is not decided");
        Ok(())
    }

    /// Returns the data directory.
    pub fn directory(&self) -> &Path {
        self.fleet.directory()
    }

    /// Returns the process ids of the coordinators.
    pub fn pids(&self) -> Vec<u32> {
        let processes = self.fleet.processes().processes().into_iter();
        processes.filter(|process| process.kind == ProcessKind::Coordinator).filter_map(|process| process.pid).collect()
    }
}

/// Returns whether a ballot was refused because the fleet does not support ballots yet.
fn is_early(error: &Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Refused { code: Code::FailedPrecondition, .. }))
}
