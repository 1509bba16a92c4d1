//! Signs this agent's votes, and casts them at the coordinators.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::Duration,
};

use robeing_net::{Transport, limited, security::Credentials};
use robeing_platform::{Random, jittered, sync::Mutex};
use robeing_proto::v1::{CastVoteRequest, ballots_client::BallotsClient};
use robeing_votes::{KeyBinding, VoteError, VoteStatement, VotingKey};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tracing::debug;
use uuid::Uuid;

use super::{Decision, Notice};
use crate::upstream::SharedUpstream;

/// How long one coordinator may take to count a vote.
const TRY_WITHIN: Duration = Duration::from_secs(12);
/// Shortest pause before a vote is cast again; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a vote is cast again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How often a vote is cast again that a coordinator refuses for what another one may know better: one that is behind
/// does not know the ballot yet, or the authority of the agent's certificate.
const MAX_DOUBTS: u32 = 5;
/// Maximum number of decisions that are kept until they are counted. The oldest is forgotten: the handler is asked
/// again.
pub const MAX_DECISIONS: usize = 256;

/// Why a vote is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NotCounted {
    /// The ballot is closed.
    Closed(String),
    /// A vote of this agent is counted.
    VotedBefore(String),
    /// It is refused otherwise.
    Refused(String),
}

/// Votes for this agent.
pub struct Voter {
    upstream: SharedUpstream,
    transport: Transport,
    random: Arc<dyn Random>,
    me: Arc<str>,
    /// Signs the votes of this process; `None` if the agent runs without TLS.
    key: Option<VotingKey>,
    /// Votes that are not known to be counted, the oldest first. The handler decides once, however often the notice
    /// comes.
    decided: Mutex<VecDeque<(Uuid, CastVoteRequest)>>,
}

impl Voter {
    /// Creates what casts the votes of the agent `me`, which are signed if the transport has TLS.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn new(
        me: Arc<str>,
        upstream: SharedUpstream,
        transport: Transport,
        random: Arc<dyn Random>,
    ) -> Result<Self, VoteError> {
        let key = transport.tls().map(|_| VotingKey::generate()).transpose()?;
        Ok(Self { upstream, transport, random, me, key, decided: Mutex::new(VecDeque::new()) })
    }

    /// Returns the credentials with a certificate. A process that may run without one has none until it is certified.
    pub(super) async fn credentials(&self) -> Option<Arc<Credentials>> {
        let tls = self.transport.tls()?;
        if !tls.is_permissive() {
            tls.certified().await;
        }
        Some(tls.credentials()).filter(|credentials| credentials.own().is_some())
    }

    /// Returns the vote that was decided for a ballot and is not known to be counted.
    pub(super) fn decided(&self, ballot: Uuid) -> Option<CastVoteRequest> {
        let decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decided.iter().find(|(known, _)| *known == ballot).map(|(_, vote)| vote.clone())
    }

    /// Makes a vote of a decision, and keeps it until it is counted.
    pub(super) fn decide(&self, notice: &Notice, decision: Decision, is_certified: bool) -> CastVoteRequest {
        let Decision { choice, option, reason } = decision;
        let signed = |key: &VotingKey| {
            let statement = VoteStatement {
                fleet: notice.fleet.clone(),
                ballot: notice.ballot.into_bytes(),
                digest: notice.digest,
                member: self.me.to_string(),
                choice: choice.number(),
                option,
                reason: reason.clone(),
            };
            key.sign(&statement).to_bytes()
        };
        let envelope = self.key.as_ref().filter(|_| is_certified).map(signed).unwrap_or_default();
        let vote = CastVoteRequest {
            ballot: notice.ballot.to_string(),
            choice: choice.number().into(),
            option,
            // Whoever has no certificate says who it is.
            member: if is_certified { String::new() } else { self.me.to_string() },
            envelope,
            reason,
            ..CastVoteRequest::default()
        };
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if decided.len() >= MAX_DECISIONS {
            decided.pop_front();
        }
        decided.push_back((notice.ballot, vote.clone()));
        vote
    }

    fn forget(&self, ballot: Uuid) {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner).retain(|(known, _)| *known != ballot);
    }

    /// Casts a vote until it is counted or refused for good. If the future is dropped, the vote is cast again when the
    /// notice comes again.
    pub(super) async fn cast(&self, ballot: Uuid, vote: &CastVoteRequest) -> Result<(), NotCounted> {
        let (mut pause, mut doubts) = (MIN_PAUSE, 0);
        loop {
            let status = match self.try_one(vote).await {
                Ok(()) => {
                    self.forget(ballot);
                    return Ok(());
                }
                Err(status) => status,
            };
            let is_doubtful = matches!(status.code(), Code::NotFound | Code::PermissionDenied);
            if is_doubtful {
                doubts += 1;
            }
            if !may_be_repeated(status.code()) && (!is_doubtful || doubts > MAX_DOUBTS) {
                self.forget(ballot);
                return Err(not_counted(&status));
            }
            debug!(%ballot, problem = status.message(), "a vote is not counted yet; casting it again");
            sleep(jittered(&*self.random, pause)).await;
            pause = (2 * pause).min(MAX_PAUSE);
        }
    }

    /// Casts a vote at one coordinator. After a failure, the next one is tried.
    async fn try_one(&self, vote: &CastVoteRequest) -> Result<(), Status> {
        let vote = self.proven(vote).await.map_err(|error| Status::unavailable(error.to_string()))?;
        let unusable = || Status::unavailable("no coordinator has a usable address");
        let (generation, channel) = self.upstream.channel().ok_or_else(unusable)?;
        let mut client = limited!(BallotsClient::new(channel));
        let answered = timeout(TRY_WITHIN, client.cast_vote(vote)).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::unavailable("a coordinator did not answer in time")));
        if answered.as_ref().is_err_and(|status| is_worth_another_coordinator(status.code())) {
            self.upstream.failed(generation);
        }
        answered.map(drop)
    }

    /// Adds what proves that the key of a signed vote is this agent's: the certificate is renewed every hour.
    async fn proven(&self, vote: &CastVoteRequest) -> Result<CastVoteRequest, VoteError> {
        let mut vote = vote.clone();
        if vote.envelope.is_empty() {
            return Ok(vote);
        }
        let Some(credentials) = self.credentials().await else { return Ok(vote) };
        if let (Some(key), Some(own), Some(signer)) = (&self.key, credentials.own(), credentials.signer()) {
            let fleet = own.stated.id.realm().to_string();
            vote.binding = KeyBinding::make(&fleet, &self.me, key, signer)?.to_bytes();
            vote.certificate = own.certificate.to_vec().into();
        }
        Ok(vote)
    }
}

/// Returns what a final refusal means.
fn not_counted(status: &Status) -> NotCounted {
    let message = status.message().to_owned();
    match status.code() {
        Code::FailedPrecondition => NotCounted::Closed(message),
        Code::AlreadyExists => NotCounted::VotedBefore(message),
        _ => NotCounted::Refused(message),
    }
}

/// Returns whether the same coordinator, or another one, may count the vote a little later.
fn may_be_repeated(code: Code) -> bool {
    match code {
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal => true,
        // Too much is going on.
        Code::ResourceExhausted | Code::Aborted => true,
        // The coordinator is older than this agent; another one may not be.
        Code::Unimplemented => true,
        _ => false,
    }
}

fn is_worth_another_coordinator(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::PermissionDenied)
        || (may_be_repeated(code) && !matches!(code, Code::ResourceExhausted | Code::Aborted))
}
