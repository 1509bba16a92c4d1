//! The Ballots service. Any coordinator serves it.

use std::{sync::Arc, time::Duration};

use robeing_fleet::{Ballot, BallotOutcome, Fleet};
use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, CastVoteRequest, CastVoteResponse, CastVoteResult, CastVotesRequest, CastVotesResponse, GetBallotRequest,
    ListBallotsRequest, ListBallotsResponse, OpenBallotRequest, OpenBallotResponse, OpenBallotResult,
    OpenBallotsRequest, OpenBallotsResponse,
};
use tonic::{Request, Response, Status};

use crate::{
    api::{convert, paging},
    ballots::{BallotError, Ballots, reading::Authorities},
    mail::sender_name,
};

/// The Ballots service. Cheap to clone.
#[derive(Clone)]
pub struct BallotsService {
    pub ballots: Ballots,
}

impl BallotsService {
    fn shown(&self, ballot: &Ballot, authorities: Option<&Authorities>) -> v1::Ballot {
        let now = self.ballots.state.look(Fleet::now);
        convert::ballot(ballot, now, authorities)
    }

    fn opened(&self, opened: Result<Arc<Ballot>, BallotError>) -> OpenBallotResult {
        match opened {
            Ok(ballot) => OpenBallotResult { ballot: Some(self.shown(&ballot, None)), ..OpenBallotResult::default() },
            Err(error) => {
                let (code, message) = refused(error);
                OpenBallotResult { code, message, ballot: None }
            }
        }
    }

    /// Returns a page of ballots, as many as fit in one message. The next page begins after the last one in it.
    fn page(&self, found: &[Arc<Ballot>], has_more: bool) -> ListBallotsResponse {
        let (ballots, cut) = paging::fitting(found.iter().map(|ballot| (ballot.seq, self.shown(ballot, None))));
        let next = cut.or_else(|| found.last().filter(|_| has_more).map(|ballot| ballot.seq));
        let next_page_token = next.map(|seq| seq.to_string()).unwrap_or_default();
        ListBallotsResponse { ballots, next_page_token }
    }
}

/// Returns the status code and the message of a refusal.
fn refused(error: BallotError) -> (i32, String) {
    let status = Status::from(error);
    (status.code().into(), status.message().to_owned())
}

fn counted(counted: Result<Option<BallotOutcome>, BallotError>) -> CastVoteResult {
    match counted {
        Ok(outcome) => {
            let (state, option) = convert::ballot_state(outcome);
            CastVoteResult { state: state.into(), option, ..CastVoteResult::default() }
        }
        Err(error) => {
            let (code, message) = refused(error);
            CastVoteResult { code, message, ..CastVoteResult::default() }
        }
    }
}

#[tonic::async_trait]
impl v1::ballots_server::Ballots for BallotsService {
    async fn open_ballot(&self, request: Request<OpenBallotRequest>) -> Result<Response<OpenBallotResponse>, Status> {
        let opener = sender_name(&Caller::of(request.extensions()));
        let ballot = self.ballots.open(&opener, request.into_inner()).await?;
        Ok(Response::new(OpenBallotResponse { ballot: Some(self.shown(&ballot, None)) }))
    }

    async fn open_ballots(
        &self,
        request: Request<OpenBallotsRequest>,
    ) -> Result<Response<OpenBallotsResponse>, Status> {
        let opener = sender_name(&Caller::of(request.extensions()));
        let opened = self.ballots.open_all(&opener, request.into_inner().ballots).await?;
        let results = opened.into_iter().map(|opened| self.opened(opened)).collect();
        Ok(Response::new(OpenBallotsResponse { results }))
    }

    async fn cast_vote(&self, request: Request<CastVoteRequest>) -> Result<Response<CastVoteResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let ballot = self.ballots.cast(&caller, request.into_inner()).await?;
        Ok(Response::new(CastVoteResponse { ballot: Some(self.shown(&ballot, None)) }))
    }

    async fn cast_votes(&self, request: Request<CastVotesRequest>) -> Result<Response<CastVotesResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let cast = self.ballots.cast_all(&caller, request.into_inner()).await?;
        Ok(Response::new(CastVotesResponse { results: cast.into_iter().map(counted).collect() }))
    }

    async fn get_ballot(&self, request: Request<GetBallotRequest>) -> Result<Response<v1::Ballot>, Status> {
        let GetBallotRequest { id, wait, evidence } = request.into_inner();
        let id = convert::ballot_id("id", &id)?;
        let wait = Duration::from_millis(convert::millis("wait", wait)?.unwrap_or(0));
        let ballot = self.ballots.get(id, wait).await?;
        let authorities = evidence.then(|| self.ballots.authorities_of(&ballot));
        Ok(Response::new(self.shown(&ballot, authorities.as_ref())))
    }

    async fn list_ballots(
        &self,
        request: Request<ListBallotsRequest>,
    ) -> Result<Response<ListBallotsResponse>, Status> {
        let ListBallotsRequest { open, limit, page_token } = request.into_inner();
        let (found, has_more) = self.ballots.list(paging::page_number(&page_token)?, limit as usize, open).await?;
        Ok(Response::new(self.page(&found, has_more)))
    }
}
