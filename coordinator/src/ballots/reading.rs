//! Reads ballots, and waits for their ends.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use robeing_fleet::{Ballot, BallotId};
use tokio::time::{Instant, timeout_at};

use super::{BallotError, Ballots, MAX_WAITING};
use crate::apply::waiters::Waiting;

/// Longest wait of a call for the end of a ballot.
pub const MAX_WAIT: Duration = Duration::from_secs(600);
/// Maximum number of ballots on a page.
pub const MAX_PAGE: usize = 100;
/// Default number of ballots on a page.
const DEFAULT_PAGE: usize = 20;

/// The certificates of the authorities that the votes of a ballot refer to, DER, by number.
pub type Authorities = BTreeMap<u64, Bytes>;

impl Ballots {
    /// Returns a ballot, after waiting for its end for at most `wait`.
    ///
    /// # Errors
    /// [`BallotError`] if it is not known, or the state can't be read, or too many callers wait.
    pub async fn get(&self, id: BallotId, wait: Duration) -> Result<Arc<Ballot>, BallotError> {
        if wait.is_zero() {
            return self.current(id).await;
        }
        let until = Instant::now() + wait.min(MAX_WAIT);
        // Before the state is read, or the end may be missed.
        let waiting = self.observer.ballots.wait_for(id).ok_or(BallotError::TooManyWaiting { most: MAX_WAITING })?;
        let ballot = self.current(id).await?;
        if !ballot.is_open() {
            return Ok(ballot);
        }
        match timeout_at(until, self.end(id, waiting)).await {
            Ok(ended) => Ok(ended.unwrap_or(ballot)),
            Err(_) => Ok(self.known(id).unwrap_or(ballot)),
        }
    }

    /// Returns a ballot once it has closed; `None` if it has closed and is not kept any more.
    async fn end(&self, id: BallotId, mut waiting: Waiting<BallotId, Arc<Ballot>>) -> Option<Arc<Ballot>> {
        let mut installs = self.observer.installs();
        loop {
            tokio::select! {
                ballot = waiting.news() => return Some(ballot),
                // What has closed in a state that was installed as a whole is not reported.
                Ok(()) = installs.changed() => match self.known(id) {
                    Some(ballot) if ballot.is_open() => {}
                    known => return known,
                },
            }
        }
    }

    /// Returns a page of the newest ballots before the one with the number `before`, and whether there may be more. A
    /// `limit` of 0 means the default.
    ///
    /// # Errors
    /// [`BallotError`] if the state can't be read.
    pub async fn list(
        &self,
        before: Option<u64>,
        limit: usize,
        only_open: bool,
    ) -> Result<(Vec<Arc<Ballot>>, bool), BallotError> {
        let limit = if limit == 0 { DEFAULT_PAGE } else { limit.min(MAX_PAGE) };
        self.catch_up().await?;
        let ballots: Vec<Arc<Ballot>> =
            self.state.look(|fleet| fleet.ballots(before, limit, only_open).into_iter().cloned().collect());
        let is_full = ballots.len() >= limit;
        Ok((ballots, is_full))
    }

    /// Returns the authorities that the votes of a ballot refer to, as far as they are known here.
    pub fn authorities_of(&self, ballot: &Ballot) -> Authorities {
        let evidence = ballot.votes.iter().filter_map(|vote| vote.evidence.as_ref());
        let numbers: Vec<u64> = evidence.map(|evidence| evidence.authority).collect();
        self.state.look(|fleet| {
            let der = |number: u64| Some((number, fleet.authority(number)?.der.clone()));
            numbers.into_iter().filter_map(der).collect()
        })
    }
}
