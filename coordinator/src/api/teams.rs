//! The Teams service. Any coordinator serves it.

use robeing_fleet::Fleet;
use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, DisbandTeamRequest, DisbandTeamResponse, FormTeamRequest, FormTeamResponse, GetTeamRequest, ListTeamsRequest,
    ListTeamsResponse, ReportPathsRequest, ReportPathsResponse,
};
use tonic::{Request, Response, Status};

use crate::{
    api::{convert, paging},
    mail::sender_name,
    teams::{Shown, Teams},
};

/// The Teams service. Cheap to clone.
#[derive(Clone)]
pub struct TeamsService {
    pub teams: Teams,
}

impl TeamsService {
    fn told(&self, shown: &Shown) -> v1::Team {
        convert::team(shown, self.teams.state.look(Fleet::now))
    }

    /// Returns a page of teams, as many as fit in one message. The next page begins after the last one in it.
    fn page(&self, found: &[Shown], has_more: bool) -> ListTeamsResponse {
        let (teams, cut) = paging::fitting(found.iter().map(|shown| (shown.team.seq, self.told(shown))));
        let next = cut.or_else(|| found.last().filter(|_| has_more).map(|shown| shown.team.seq));
        let next_page_token = next.map(|seq| seq.to_string()).unwrap_or_default();
        ListTeamsResponse { teams, next_page_token }
    }
}

#[tonic::async_trait]
impl v1::teams_server::Teams for TeamsService {
    async fn form_team(&self, request: Request<FormTeamRequest>) -> Result<Response<FormTeamResponse>, Status> {
        let by = sender_name(&Caller::of(request.extensions()));
        let shown = self.teams.form(&by, request.into_inner()).await?;
        Ok(Response::new(FormTeamResponse { team: Some(self.told(&shown)) }))
    }

    async fn disband_team(
        &self,
        request: Request<DisbandTeamRequest>,
    ) -> Result<Response<DisbandTeamResponse>, Status> {
        let caller = Caller::of(request.extensions());
        let shown = self.teams.disband(&caller, request.into_inner()).await?;
        Ok(Response::new(DisbandTeamResponse { team: Some(self.told(&shown)) }))
    }

    async fn get_team(&self, request: Request<GetTeamRequest>) -> Result<Response<v1::Team>, Status> {
        let id = convert::team_id("id", &request.into_inner().id)?;
        let shown = self.teams.get(id).await?;
        Ok(Response::new(self.told(&shown)))
    }

    async fn list_teams(&self, request: Request<ListTeamsRequest>) -> Result<Response<ListTeamsResponse>, Status> {
        let ListTeamsRequest { open, limit, page_token } = request.into_inner();
        let (found, has_more) = self.teams.list(paging::page_number(&page_token)?, limit as usize, open).await?;
        Ok(Response::new(self.page(&found, has_more)))
    }

    async fn report_paths(
        &self,
        request: Request<ReportPathsRequest>,
    ) -> Result<Response<ReportPathsResponse>, Status> {
        let caller = Caller::of(request.extensions());
        self.teams.report(&caller, request.into_inner()).await?;
        Ok(Response::new(ReportPathsResponse {}))
    }
}
