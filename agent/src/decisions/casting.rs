//! Signs this agent's votes, and casts them at the coordinators. Votes that are due while a call is under way are signed
//! together and cast in the next call.

use std::{
    collections::VecDeque,
    sync::{Arc, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use robeing_net::{
    Transport,
    batches::Batches,
    limited,
    security::{Credentials, Tls},
};
use robeing_platform::{Random, jittered, sync::Mutex};
use robeing_proto::v1::{CastVoteRequest, CastVoteResult, CastVotesRequest, ballots_client::BallotsClient};
use robeing_votes::{BoundKey, MAX_SIGNED_TOGETHER, VoteError, VoteStatement, VotingKey};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status};
use tracing::debug;
use uuid::Uuid;

use super::{Decision, Notice};
use crate::upstream::SharedUpstream;

/// How long one coordinator may take to count votes.
const TRY_WITHIN: Duration = Duration::from_secs(12);
/// Shortest pause before a vote is cast again; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before a vote is cast again.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// How long a vote is cast again, at most until the ballot's deadline, that a coordinator refuses for what another one
/// may know better. An election, or an enrolment, may take so long.
pub(super) const DOUBTED_FOR: Duration = Duration::from_secs(60);
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

/// What a handler has decided, and on what.
#[derive(Debug)]
pub(super) struct Decided {
    pub notice: Notice,
    pub decision: Decision,
}

/// Votes for this agent.
pub struct Voter {
    upstream: SharedUpstream,
    transport: Transport,
    random: Arc<dyn Random>,
    me: Arc<str>,
    /// Signs the votes of this process; `None` if the agent runs without TLS.
    key: Option<BoundKey>,
    batches: Batches<Arc<Decided>, Result<(), Status>>,
    /// Votes that are not known to be counted, the oldest first. The handler decides once, however often the notice
    /// comes.
    decided: Mutex<VecDeque<Arc<Decided>>>,
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
        let key = transport.tls().map(|_| VotingKey::generate()).transpose()?.map(BoundKey::new);
        // Coordinators take as many in one call.
        let batches = Batches::new(MAX_SIGNED_TOGETHER);
        Ok(Self { upstream, transport, random, me, key, batches, decided: Mutex::new(VecDeque::new()) })
    }

    /// Returns the credentials with a certificate. A process that may run without one has none until it is certified.
    pub(super) async fn credentials(&self) -> Option<Arc<Credentials>> {
        let tls = self.transport.tls()?;
        if !tls.is_permissive() {
            tls.certified().await;
        }
        Some(tls.credentials()).filter(|credentials| credentials.own().is_some())
    }

    /// Returns what was decided for a ballot and is not known to be counted.
    pub(super) fn decided(&self, ballot: Uuid) -> Option<Arc<Decided>> {
        let decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        decided.iter().find(|known| known.notice.ballot == ballot).cloned()
    }

    /// Keeps a decision until it is counted.
    pub(super) fn decide(&self, notice: Notice, decision: Decision) -> Arc<Decided> {
        let new = Arc::new(Decided { notice, decision });
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        if decided.len() >= MAX_DECISIONS {
            decided.pop_front();
        }
        decided.push_back(Arc::clone(&new));
        new
    }

    fn forget(&self, ballot: Uuid) {
        self.decided.lock().unwrap_or_else(PoisonError::into_inner).retain(|known| known.notice.ballot != ballot);
    }

    /// Casts a vote until it is counted or refused for good. If the future is dropped, the vote is cast again when the
    /// notice comes again.
    pub(super) async fn cast(&self, decided: &Arc<Decided>) -> Result<(), NotCounted> {
        let (ballot, patience) = (decided.notice.ballot, DOUBTED_FOR.min(decided.notice.ttl));
        let (mut pause, mut doubted_since) = (MIN_PAUSE, None);
        loop {
            let status = match self.try_one(decided).await {
                Ok(()) => {
                    self.forget(ballot);
                    return Ok(());
                }
                Err(status) => status,
            };
            if !may_be_repeated(status.code()) {
                let since = *doubted_since.get_or_insert_with(Instant::now);
                if !self.is_doubtful(status.code()) || since.elapsed() >= patience {
                    self.forget(ballot);
                    return Err(not_counted(&status));
                }
            }
            debug!(%ballot, problem = status.message(), "a vote is not counted yet; casting it again");
            sleep(jittered(&*self.random, pause)).await;
            pause = (2 * pause).min(MAX_PAUSE);
        }
    }

    /// Returns whether another coordinator, or the same one a little later, may know better: one that is behind does
    /// not know the ballot yet, or the authority of the agent's certificate, or that the agent has enrolled.
    fn is_doubtful(&self, code: Code) -> bool {
        match code {
            Code::NotFound | Code::PermissionDenied | Code::Unauthenticated => true,
            // A signed vote on a connection that was made before the agent had a certificate.
            Code::InvalidArgument => self.transport.tls().is_some_and(Tls::is_permissive),
            _ => false,
        }
    }

    /// Casts a vote once, with others that are due.
    async fn try_one(&self, decided: &Arc<Decided>) -> Result<(), Status> {
        let cast = self.batches.send(Arc::clone(decided), |votes| self.cast_together(votes)).await;
        cast.unwrap_or_else(|error| Err(Status::unavailable(error.to_string())))
    }

    /// Casts votes at one coordinator, in one call. After a failure, the next one is tried.
    async fn cast_together(&self, votes: Vec<Arc<Decided>>) -> Vec<Result<(), Status>> {
        let request = match self.request(&votes).await {
            Ok(request) => request,
            Err(error) => return vec![Err(Status::unavailable(error.to_string())); votes.len()],
        };
        let Some((generation, channel)) = self.upstream.channel() else {
            return vec![Err(Status::unavailable("no coordinator has a usable address")); votes.len()];
        };
        let mut client = limited!(BallotsClient::new(channel));
        let answered = timeout(TRY_WITHIN, client.cast_votes(request)).await;
        let answered = answered.unwrap_or_else(|_| Err(Status::unavailable("a coordinator did not answer in time")));
        let results: Vec<Result<(), Status>> = match answered {
            Ok(response) => response.into_inner().results.into_iter().map(counted).collect(),
            Err(status) => {
                self.upstream.enrol_again_if_unknown(&status);
                vec![Err(status); votes.len()]
            }
        };
        let is_for_another = |status: &Status| {
            let code = status.code();
            self.is_doubtful(code) || is_worth_another_coordinator(code)
        };
        if results.iter().filter_map(|result| result.as_ref().err()).any(is_for_another) {
            self.upstream.failed(generation);
        }
        results
    }

    /// Returns votes with what proves them, as of now: the agent may have got a certificate since they were decided, or
    /// another one. As long as the key of the process is the same, they are the same votes.
    pub(super) async fn request(&self, votes: &[Arc<Decided>]) -> Result<CastVotesRequest, VoteError> {
        let credentials = self.credentials().await;
        let signing = credentials
            .as_ref()
            .and_then(|credentials| Some((self.key.as_ref()?, credentials.own()?, credentials.signer()?)));
        let Some((key, own, signer)) = signing else {
            // Without a certificate, the agent says who it is.
            let vote = |decided: &Arc<Decided>| CastVoteRequest { member: self.me.to_string(), ..decided.vote() };
            return Ok(CastVotesRequest { votes: votes.iter().map(vote).collect(), ..CastVotesRequest::default() });
        };
        let statements: Vec<VoteStatement> = votes.iter().map(|decided| decided.statement(&self.me)).collect();
        let mut request = CastVotesRequest::default();
        for (decided, envelope) in votes.iter().zip(key.key().sign_all(&statements)) {
            let (binding, certificate) = key.binding(&decided.notice.fleet, &self.me, &own.certificate, signer)?;
            if request.votes.is_empty() {
                (request.binding, request.certificate) = (binding.clone(), certificate);
            }
            // As a rule, all have the same one.
            let binding = if binding == request.binding { Bytes::new() } else { binding };
            request.votes.push(CastVoteRequest { envelope: envelope.to_bytes(), binding, ..decided.vote() });
        }
        Ok(request)
    }
}

impl Decided {
    /// Returns the vote without anything that proves it.
    fn vote(&self) -> CastVoteRequest {
        let Decision { choice, option, reason } = &self.decision;
        CastVoteRequest {
            ballot: self.notice.ballot.to_string(),
            choice: choice.number().into(),
            option: *option,
            reason: reason.clone(),
            ..CastVoteRequest::default()
        }
    }

    /// Returns what the agent `me` signs.
    fn statement(&self, me: &str) -> VoteStatement {
        let Decision { choice, option, reason } = &self.decision;
        VoteStatement {
            fleet: self.notice.fleet.clone(),
            ballot: self.notice.ballot.into_bytes(),
            digest: self.notice.digest,
            member: me.to_owned(),
            choice: choice.number(),
            option: *option,
            reason: reason.clone(),
        }
    }
}

/// Returns whether a vote is counted.
fn counted(CastVoteResult { code, message, .. }: CastVoteResult) -> Result<(), Status> {
    match Code::from(code) {
        Code::Ok => Ok(()),
        code => Err(Status::new(code, message)),
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
        // There is too much to do.
        Code::ResourceExhausted | Code::Aborted => true,
        // The coordinator is older than this agent; another one may not be.
        Code::Unimplemented => true,
        _ => false,
    }
}

fn is_worth_another_coordinator(code: Code) -> bool {
    may_be_repeated(code) && !matches!(code, Code::ResourceExhausted | Code::Aborted)
}
