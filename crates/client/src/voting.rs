//! Opens many ballots, and casts many votes, of one client. What is due while a call is under way goes together in the next
//! one, and votes that are cast together have one signature: so do the votes of agents.

use robeing_net::batches::{Batches, NotSent};
use robeing_proto::v1::{
    Ballot, CastVoteRequest, CastVoteResult, CastVotesRequest, OpenBallotRequest, OpenBallotResult, OpenBallotsRequest,
};
use robeing_votes::{BoundKey, MAX_OPENED_TOGETHER, MAX_SIGNED_TOGETHER, VoteStatement, VotingKey, cut_reason};
use tonic::{Code, Status};

use super::{
    ClientError, FleetClient,
    ballots::{checked_opened, not_signed, statement},
};

/// Maximum number of times that an item is sent, if the calls that carry it are given up.
const MAX_SENT: usize = 8;

/// A vote that is to be cast.
#[derive(Clone)]
struct Due {
    vote: CastVoteRequest,
    /// What is signed of it; `None` if the client had no certificate when it was cast.
    statement: Option<VoteStatement>,
}

/// A client that votes often: with one key, and in as few calls as it can without waiting.
pub struct Voting {
    client: FleetClient,
    key: BoundKey,
    openings: Batches<OpenBallotRequest, Result<Ballot, ClientError>>,
    votes: Batches<Due, Result<CastVoteResult, ClientError>>,
}

impl Voting {
    /// Creates what votes as this client.
    ///
    /// # Errors
    /// [`ClientError::NotSigned`] if the operating system has no random numbers.
    pub fn new(client: FleetClient) -> Result<Self, ClientError> {
        let key = BoundKey::new(VotingKey::generate().map_err(not_signed)?);
        let (openings, votes) = (Batches::new(MAX_OPENED_TOGETHER), Batches::new(MAX_SIGNED_TOGETHER));
        Ok(Self { client, key, openings, votes })
    }

    /// Opens a ballot; see [`FleetClient::open_ballot`].
    ///
    /// # Errors
    /// [`ClientError`] if it is not opened, or not known to be.
    pub async fn open(&self, request: OpenBallotRequest) -> Result<Ballot, ClientError> {
        let opened = send(&self.openings, &request, |requests| self.open_together(requests)).await?;
        checked_opened(opened, &request)
    }

    /// Casts a vote in a ballot, as it was returned, and signs it if the client has a certificate. The result has the
    /// state of the ballot once it is counted. A reason that is too long is cut.
    ///
    /// # Errors
    /// [`ClientError`] if the vote is not counted, or not known to be.
    pub async fn cast(&self, ballot: &Ballot, mut vote: CastVoteRequest) -> Result<CastVoteResult, ClientError> {
        vote.reason.truncate(cut_reason(&vote.reason).len());
        let credentials = self.client.credentials();
        let own = credentials.as_ref().and_then(|credentials| credentials.own());
        let statement = own.map(|own| statement(&own.stated.id, ballot, &vote)).transpose()?;
        send(&self.votes, &Due { vote, statement }, |due| self.cast_together(due)).await
    }

    async fn open_together(&self, ballots: Vec<OpenBallotRequest>) -> Vec<Result<Ballot, ClientError>> {
        let count = ballots.len();
        let opened = |OpenBallotResult { code, message, ballot }| match Code::from(code) {
            Code::Ok => Ok(ballot.unwrap_or_default()),
            code => Err(ClientError::refused(&Status::new(code, message))),
        };
        match self.client.open_ballots(OpenBallotsRequest { ballots }).await {
            Ok(response) => response.results.into_iter().map(opened).collect(),
            Err(error) => vec![Err(error); count],
        }
    }

    async fn cast_together(&self, due: Vec<Due>) -> Vec<Result<CastVoteResult, ClientError>> {
        let count = due.len();
        let counted = |result: CastVoteResult| match Code::from(result.code) {
            Code::Ok => Ok(result),
            code => Err(ClientError::refused(&Status::new(code, result.message))),
        };
        let cast = match self.signed(due) {
            Ok(request) => self.client.cast_votes(request).await,
            Err(error) => Err(error),
        };
        match cast {
            Ok(response) => response.results.into_iter().map(counted).collect(),
            Err(error) => vec![Err(error); count],
        }
    }

    /// Signs votes together. All are of the fleet of the client's certificate.
    fn signed(&self, due: Vec<Due>) -> Result<CastVotesRequest, ClientError> {
        let statements: Vec<VoteStatement> = due.iter().filter_map(|due| due.statement.clone()).collect();
        let mut request = CastVotesRequest::default();
        let credentials = self.client.credentials();
        let certified = credentials.as_ref().and_then(|credentials| Some((credentials.own()?, credentials.signer()?)));
        let mut envelopes = Vec::new().into_iter();
        if let (Some((own, signer)), Some(VoteStatement { fleet, member, .. })) = (certified, statements.first()) {
            let bound = self.key.binding(fleet, member, &own.certificate, signer).map_err(not_signed)?;
            (request.binding, request.certificate) = bound;
            envelopes = self.key.key().sign_all(&statements).into_iter();
        }
        for Due { mut vote, statement } in due {
            if let Some(envelope) = statement.and_then(|_| envelopes.next()) {
                vote.envelope = envelope.to_bytes();
            }
            request.votes.push(vote);
        }
        Ok(request)
    }
}

/// Sends an item with others that are due. One that was in a call that somebody else has given up is sent again: the same
/// ballot is opened once, and the same vote counts once.
async fn send<T, R, A>(
    batches: &Batches<T, Result<R, ClientError>>,
    item: &T,
    call: impl Fn(Vec<T>) -> A,
) -> Result<R, ClientError>
where
    T: Clone,
    A: Future<Output = Vec<Result<R, ClientError>>>,
{
    let mut sent = 1;
    loop {
        match batches.send(item.clone(), &call).await {
            Ok(result) => return result,
            Err(NotSent::Lost) if sent < MAX_SENT => sent += 1,
            Err(error) => return Err(not_sent(error)),
        }
    }
}

fn not_sent(error: NotSent) -> ClientError {
    let code = match error {
        NotSent::Full => Code::ResourceExhausted,
        NotSent::Lost => Code::Unavailable,
    };
    ClientError::Refused { code, message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use robeing_identity::{Authority, PeerRole, TrustBundle};
    use robeing_votes::{Envelope, Evidence, Expect, issuer_in, verify};
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::{
        Settings,
        fixture::{ballot, client, now, realm, vote},
    };

    fn due(voting: &Voting, reason: &str) -> Due {
        let vote = CastVoteRequest { reason: reason.to_owned(), ..vote() };
        let credentials = voting.client.credentials();
        let own = credentials.as_ref().and_then(|credentials| credentials.own());
        let statement = own.map(|own| statement(&own.stated.id, &ballot(), &vote).expect("the ballot is right"));
        Due { vote, statement }
    }

    #[tokio::test]
    async fn votes_that_are_cast_together_have_one_signature_and_one_binding() {
        let authority = Authority::create(&realm(), now()).expect("an authority");
        let voting = Voting::new(client(&authority, PeerRole::Client)).expect("there is a key");
        let request = voting.signed(vec![due(&voting, "one"), due(&voting, "two")]).expect("they are signed");
        let [first, second] = &request.votes[..] else { panic!("two votes") };
        let signature = |vote: &CastVoteRequest| Envelope::from_bytes(&vote.envelope).expect("it is one").signature;
        assert_eq!(signature(first), signature(second));
        assert!(first.binding.is_empty() && first.certificate.is_empty(), "all have the same ones");
        let bundle = TrustBundle::from_pem(authority.certificate_pem()).expect("a bundle");
        let authority = issuer_in(&bundle, &request.certificate, now()).expect("it has issued it").to_vec();
        for (vote, reason) in [(first, "one"), (second, "two")] {
            let evidence = Evidence {
                envelope: vote.envelope.clone(),
                binding: request.binding.clone(),
                certificate: request.certificate.clone(),
                authority: authority.clone().into(),
            };
            let expect = Expect {
                fleet: &realm().to_string(),
                member: "client:ada",
                ballot: 7,
                digest: (*ballot().digest).try_into().expect("it has 32 bytes"),
                choice: 1,
                option: 0,
                reason,
                at_unix_ms: now(),
            };
            assert_eq!(verify(&evidence, &expect), Ok(()));
        }
        let later = voting.signed(vec![due(&voting, "three")]).expect("it is signed");
        assert_eq!((later.binding, later.certificate), (request.binding, request.certificate), "the key is bound once");
    }

    #[tokio::test]
    async fn without_a_certificate_nothing_is_signed() {
        let client = FleetClient::new(&["127.0.0.1:1"], Settings::default()).expect("the endpoint is good");
        let voting = Voting::new(client).expect("there is a key");
        let request = voting.signed(vec![due(&voting, "one")]).expect("it is not signed");
        let votes = vec![CastVoteRequest { reason: "one".to_owned(), ..vote() }];
        assert_eq!(request, CastVotesRequest { votes, ..CastVotesRequest::default() });
    }

    #[tokio::test]
    async fn no_vote_is_cast_in_a_ballot_that_was_changed() {
        let authority = Authority::create(&realm(), now()).expect("an authority");
        let voting = Voting::new(client(&authority, PeerRole::Client)).expect("there is a key");
        let changed = Ballot { question: "delete?".into(), ..ballot() };
        let refused = voting.cast(&changed, vote()).await;
        assert!(matches!(refused, Err(ClientError::NotSigned { .. })), "{refused:?}");
    }

    /// How long a call takes.
    const CALL: Duration = Duration::from_secs(1);

    async fn called(numbers: Vec<u32>) -> Vec<Result<u32, ClientError>> {
        sleep(CALL).await;
        numbers.into_iter().map(Ok).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_in_a_call_that_somebody_else_has_given_up_is_sent_again() {
        let batches = Batches::new(3);
        let in_second = CALL + CALL / 2;
        let (first, second, third) = tokio::join!(
            send(&batches, &1, called),
            timeout(in_second, send(&batches, &2, called)),
            send(&batches, &3, called),
        );
        assert_eq!((first.expect("it is sent"), second.is_err(), third.expect("it is sent again")), (1, true, 3));
    }

    #[tokio::test]
    async fn what_never_has_a_result_is_sent_so_often() {
        let (batches, calls) = (Batches::<u32, Result<u32, ClientError>>::new(3), AtomicUsize::new(0));
        let lost = send(&batches, &1, |_| {
            calls.fetch_add(1, Ordering::Relaxed);
            async { Vec::new() }
        });
        let refused = lost.await;
        assert!(matches!(refused, Err(ClientError::Refused { code: Code::Unavailable, .. })), "{refused:?}");
        assert_eq!(calls.load(Ordering::Relaxed), MAX_SENT);
    }
}
