//! Calls of the Ballots service, and the signatures of this client's votes. Calls are retried like all others: the
//! caller draws the ids of ballots, and a vote that is cast again, with its signature, is counted once.

use std::{sync::Arc, time::Duration};

use robeing_identity::SpiffeId;
use robeing_net::security::{Credentials, Tls};
use robeing_proto::v1::{
    Ballot, CastVoteRequest, CastVotesRequest, CastVotesResponse, GetBallotRequest, ListBallotsRequest,
    ListBallotsResponse, OpenBallotRequest, OpenBallotsRequest, OpenBallotsResponse, ballots_client::BallotsClient,
};
use robeing_votes::{BallotContent, KeyBinding, VoteError, VoteStatement, VotingKey, cut_reason, member_name};
use tonic::{Code, Response, Status};
use uuid::Uuid;

use super::{
    ClientError, FleetClient, Wire,
    calls::{Repeat, too_old},
    limited,
    messages::{AFTER_WAIT, wait},
};

/// Generates an id for a ballot.
pub fn new_ballot_id() -> String {
    Uuid::now_v7().to_string()
}

/// Reads a threshold as ballots have it: a fraction such as `2/3`, above 0 and at most 1.
pub fn threshold(text: &str) -> Option<(u32, u32)> {
    let (numerator, denominator) = text.split_once('/')?;
    let (numerator, denominator) = (numerator.parse().ok()?, denominator.parse().ok()?);
    (0 < numerator && numerator <= denominator).then_some((numerator, denominator))
}

/// Returns the digest of what a ballot says; `None` if it is malformed.
pub(crate) fn digest(ballot: &Ballot) -> Option<[u8; 32]> {
    let content = BallotContent {
        fleet: &ballot.fleet,
        id: Uuid::try_parse(&ballot.id).ok()?.as_u128(),
        question: &ballot.question,
        options: &ballot.options,
        electorate: ballot.electorate.iter().map(|member| (member.name.as_str(), member.weight)).collect(),
        threshold: threshold(&ballot.threshold)?,
        ttl: ballot.ttl_ms,
    };
    Some(content.digest())
}

/// Returns a ballot if it is the one with this id, and what its digest says, which the votes are bound to.
///
/// # Errors
/// [`ClientError::WrongBallot`] if it is not.
fn checked(ballot: Ballot, id: &str) -> Result<Ballot, ClientError> {
    let wrong = |problem| Err(ClientError::WrongBallot { ballot: id.to_owned(), problem });
    if Uuid::try_parse(&ballot.id).ok() != Uuid::try_parse(id).ok() {
        return wrong("the coordinator has returned another one");
    }
    if digest(&ballot).is_none_or(|digest| ballot.digest != digest[..]) {
        return wrong("it has another digest than its content");
    }
    Ok(ballot)
}

/// Returns a ballot if it is the one that this request opens.
///
/// # Errors
/// [`ClientError::WrongBallot`] if it is not.
pub(crate) fn checked_opened(ballot: Ballot, request: &OpenBallotRequest) -> Result<Ballot, ClientError> {
    let ballot = checked(ballot, &request.id)?;
    if ballot.question != request.question || ballot.options != request.options {
        let problem = "the coordinator has opened one with another question or other options";
        return Err(ClientError::WrongBallot { ballot: request.id.clone(), problem });
    }
    Ok(ballot)
}

/// Returns the statement of a vote in a ballot, which the client or agent with this id signs. The digest of the ballot must
/// be that of its content.
///
/// # Errors
/// [`ClientError::NotSigned`] if the ballot was changed, or is of another fleet, or no member has such an id.
pub(crate) fn statement(id: &SpiffeId, ballot: &Ballot, vote: &CastVoteRequest) -> Result<VoteStatement, ClientError> {
    let problem = |problem: &str| ClientError::NotSigned { problem: problem.to_owned() };
    let member = member_name(id).ok_or_else(|| problem("your certificate is of no agent and no client"))?;
    let digest = digest(ballot).filter(|digest| ballot.digest == digest[..]);
    let digest = digest.ok_or_else(|| problem("the ballot has another digest than its content"))?;
    let fleet = id.realm().to_string();
    if ballot.fleet != fleet {
        return Err(problem("the ballot is of another fleet than your certificate"));
    }
    let ballot = Uuid::try_parse(&ballot.id).map_err(|_| problem("the id of the ballot is no UUID"))?;
    Ok(VoteStatement {
        fleet,
        ballot: ballot.into_bytes(),
        digest,
        member,
        choice: u8::try_from(vote.choice).unwrap_or_default(),
        option: vote.option,
        reason: vote.reason.clone(),
    })
}

impl FleetClient {
    /// Opens a ballot. `request.id` must be set, so that a retry is the same ballot; see [`new_ballot_id`].
    ///
    /// # Errors
    /// [`ClientError::WrongBallot`] if the fleet says that it has opened another one.
    pub async fn open_ballot(&self, request: OpenBallotRequest) -> Result<Ballot, ClientError> {
        let opened = self.call_ballots(Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.open_ballot(request).await }
        });
        checked_opened(opened.await?.ballot.unwrap_or_default(), &request)
    }

    /// Casts a vote as it is, and returns the ballot after it. Whoever has a certificate signs it before; see
    /// [`FleetClient::signed`].
    pub async fn cast_vote(&self, request: CastVoteRequest) -> Result<Ballot, ClientError> {
        let cast = self.call_ballots(Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.cast_vote(request).await }
        });
        Ok(cast.await?.ballot.unwrap_or_default())
    }

    /// Signs a vote in a ballot with the key of this client's certificate. Without a certificate, the vote remains as
    /// it is, and the coordinators only attest whose it is. What is signed is what `ballot` says, which must be what
    /// its digest says.
    ///
    /// # Errors
    /// [`ClientError::NotSigned`] if the ballot was changed, or the key can't sign.
    pub fn signed(&self, ballot: &Ballot, mut vote: CastVoteRequest) -> Result<CastVoteRequest, ClientError> {
        vote.reason.truncate(cut_reason(&vote.reason).len());
        let Some(credentials) = self.credentials() else { return Ok(vote) };
        let (Some(own), Some(signer)) = (credentials.own(), credentials.signer()) else { return Ok(vote) };
        let statement = statement(&own.stated.id, ballot, &vote)?;
        let key = VotingKey::generate().map_err(not_signed)?;
        let binding = KeyBinding::make(&statement.fleet, &statement.member, &key, signer).map_err(not_signed)?;
        vote.envelope = key.sign(&statement).to_bytes();
        vote.binding = binding.to_bytes();
        vote.certificate = own.certificate.to_vec().into();
        Ok(vote)
    }

    /// Returns what this client proves with who it is; `None` without TLS.
    pub(crate) fn credentials(&self) -> Option<Arc<Credentials>> {
        self.inner.settings.security.tls().map(Tls::credentials)
    }

    /// Opens ballots in one call, at most [`MAX_OPENED_TOGETHER`](robeing_votes::MAX_OPENED_TOGETHER), which all have
    /// ids. The response has a result for each, whose ballot is not checked.
    pub(crate) async fn open_ballots(&self, request: OpenBallotsRequest) -> Result<OpenBallotsResponse, ClientError> {
        self.call_ballots(Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move {
                let opened = rpc.open_ballots(request).await?;
                let results = opened.get_ref().results.iter().map(|result| (result.code, &*result.message));
                all_judged(results).map(|()| opened)
            }
        })
        .await
    }

    /// Casts votes in one call, at most [`MAX_SIGNED_TOGETHER`](robeing_votes::MAX_SIGNED_TOGETHER). The response has a
    /// result for each.
    pub(crate) async fn cast_votes(&self, request: CastVotesRequest) -> Result<CastVotesResponse, ClientError> {
        self.call_ballots(Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move {
                let cast = rpc.cast_votes(request).await?;
                let results = cast.get_ref().results.iter().map(|result| (result.code, &*result.message));
                all_judged(results).map(|()| cast)
            }
        })
        .await
    }

    /// Returns a ballot. [`ClientError::NotFound`] if the fleet does not know it, or not any more, and
    /// [`ClientError::WrongBallot`] if its digest is another one than that of its content.
    pub async fn get_ballot(&self, request: GetBallotRequest) -> Result<Ballot, ClientError> {
        let extra = wait(request.wait);
        let found = self.call_ballots(extra, |mut rpc| {
            let request = request.clone();
            async move { rpc.get_ballot(request).await }
        });
        checked(found.await?, &request.id)
    }

    /// Returns a page of the ballots, newest first.
    pub async fn list_ballots(&self, request: ListBallotsRequest) -> Result<ListBallotsResponse, ClientError> {
        self.call_ballots(Duration::ZERO, |mut rpc| {
            let request = request.clone();
            async move { rpc.list_ballots(request).await }
        })
        .await
    }

    /// Makes a call of the Ballots service, as [`FleetClient::call`] does, that may take `extra` longer.
    async fn call_ballots<T, F, A>(&self, extra: Duration, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(BallotsClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        let extra = if extra.is_zero() { extra } else { extra + AFTER_WAIT };
        self.call_for(Repeat::AtOnce, extra, |target| {
            let call = attempt(limited!(BallotsClient::new(self.wire(target))));
            async move { call.await.map_err(|status| too_old(status, "has no ballots")) }
        })
        .await
    }
}

/// Returns an error if a coordinator could not judge one of these results, by their codes and messages: another one may be
/// able to, or the same one a little later. What it has opened or counted is known when it is asked again.
fn all_judged<'a>(mut results: impl Iterator<Item = (i32, &'a str)>) -> Result<(), Status> {
    match results.find(|(code, _)| Code::from(*code) == Code::Unavailable) {
        Some((_, message)) => Err(Status::unavailable(message)),
        None => Ok(()),
    }
}

pub(crate) fn not_signed(error: VoteError) -> ClientError {
    ClientError::NotSigned { problem: error.to_string() }
}

#[cfg(test)]
mod tests {
    use robeing_identity::{Authority, PeerRole, TrustBundle};
    use robeing_votes::{Choice, Evidence, Expect, issuer_in, verify};

    use super::*;
    use crate::{
        Settings,
        fixture::{ballot, client, now, realm, vote},
    };

    #[tokio::test]
    async fn a_vote_is_signed_with_the_clients_certificate() {
        let authority = Authority::create(&realm(), now()).expect("an authority");
        let client = client(&authority, PeerRole::Client);
        let long = CastVoteRequest { reason: "é".repeat(1_000), ..vote() };
        let signed = client.signed(&ballot(), long).expect("it is signed");
        assert_eq!(signed.reason, "é".repeat(512), "what is signed is what the fleet keeps");
        let bundle = TrustBundle::from_pem(authority.certificate_pem()).expect("a bundle");
        let evidence = Evidence {
            authority: issuer_in(&bundle, &signed.certificate, now()).expect("it has issued it").to_vec().into(),
            envelope: signed.envelope,
            binding: signed.binding,
            certificate: signed.certificate,
        };
        let expect = Expect {
            fleet: &realm().to_string(),
            member: "client:ada",
            ballot: 7,
            digest: digest(&ballot()).expect("it is right"),
            choice: Choice::Approve.number(),
            option: 0,
            reason: &signed.reason,
            at_unix_ms: now(),
        };
        assert_eq!(verify(&evidence, &expect), Ok(()));
    }

    #[tokio::test]
    async fn no_vote_is_signed_in_a_ballot_that_was_changed() {
        let authority = Authority::create(&realm(), now()).expect("an authority");
        let client = client(&authority, PeerRole::Client);
        let refused = |ballot: Ballot| client.signed(&ballot, vote()).expect_err("it was changed").to_string();
        for changed in [
            Ballot { question: "delete?".into(), ..ballot() },
            Ballot { digest: vec![0; 32].into(), ..ballot() },
            Ballot { threshold: "66%".into(), ..ballot() },
            Ballot { id: "7".into(), ..ballot() },
        ] {
            let error = refused(changed);
            assert_eq!(error, "the vote is not signed and not cast: the ballot has another digest than its content");
        }
        let mut elsewhere = Ballot { fleet: "spiffe://robeing.local/ns/default/cluster/two".into(), ..ballot() };
        elsewhere.digest = digest(&elsewhere).expect("it is right").to_vec().into();
        assert!(refused(elsewhere).contains("of another fleet"));
        let operator = self::client(&authority, PeerRole::Operator);
        let error = operator.signed(&ballot(), vote()).expect_err("operators don't vote").to_string();
        assert!(error.contains("no agent and no client"), "{error}");
    }

    #[tokio::test]
    async fn without_a_certificate_a_vote_remains_as_it_is() {
        let client = FleetClient::new(&["127.0.0.1:1"], Settings::default()).expect("the endpoint is good");
        assert_eq!(client.signed(&Ballot::default(), vote()).expect("it is not signed"), vote());
    }

    #[test]
    fn a_ballot_is_believed_if_it_is_the_one_that_was_asked_for_and_what_its_digest_says() {
        let id = ballot().id;
        assert_eq!(checked(ballot(), &id).expect("it is right"), ballot());
        for wrong in [
            Ballot { question: "delete?".into(), ..ballot() },
            Ballot { digest: vec![0; 32].into(), ..ballot() },
            Ballot { fleet: "other".into(), ..ballot() },
            Ballot::default(),
        ] {
            assert!(matches!(checked(wrong, &id), Err(ClientError::WrongBallot { .. })));
        }
        assert!(matches!(checked(ballot(), &new_ballot_id()), Err(ClientError::WrongBallot { .. })));
        let request = OpenBallotRequest { id, question: "deploy?".into(), ..OpenBallotRequest::default() };
        assert!(checked_opened(ballot(), &request).is_ok());
        let other = OpenBallotRequest { question: "delete?".into(), ..request };
        assert!(matches!(checked_opened(ballot(), &other), Err(ClientError::WrongBallot { .. })));
    }

    #[test]
    fn a_call_is_made_again_if_one_of_its_results_is_open() {
        let of =
            |codes: &[Code]| all_judged(codes.iter().map(|code| (i32::from(*code), "why"))).map_err(|no| no.code());
        assert_eq!(of(&[Code::Ok, Code::NotFound, Code::PermissionDenied]), Ok(()));
        assert_eq!(of(&[Code::Ok, Code::Unavailable]), Err(Code::Unavailable));
    }

    #[test]
    fn a_threshold_is_a_fraction() {
        assert_eq!(["2/3", "1/1"].map(threshold), [Some((2, 3)), Some((1, 1))]);
        for text in ["", "2", "66%", "0/1", "4/3", "1/0", "1/4294967296", "-1/2", "1/2/3"] {
            assert_eq!(threshold(text), None, "{text}");
        }
    }
}
