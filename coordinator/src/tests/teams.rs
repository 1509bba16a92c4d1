//! Teams that are formed, shown and disbanded at any coordinator.

use robeing_fleet::{Command, LetterId, Refusal, TaskCommand, TaskId, TeamId};
use robeing_identity::PeerRole;
use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, DisbandTeamRequest, FormTeamRequest, GetTeamRequest, ListTeamsRequest, ReportPathsRequest,
    SendMessageRequest, TeamState, teams_server::Teams as _,
};
use tonic::{Code, Request, Status};

use crate::{
    fixture,
    identity::fixture::{ann_administers, member},
    teams::{TeamError, Teams},
    tests::{
        access::enrol_of,
        agent::TestAgent,
        fleet::TestFleet,
        mail::mailbox::{message, send, start},
        member::code,
    },
};

fn asked(id: u128, size: u32) -> FormTeamRequest {
    FormTeamRequest { id: TeamId(id).to_string(), purpose: "review".into(), size, ..FormTeamRequest::default() }
}

async fn form(fleet: &TestFleet, at: usize, request: FormTeamRequest) -> Result<v1::Team, Status> {
    let formed = fleet.tested(at).teams.form_team(Request::new(request)).await?;
    Ok(formed.into_inner().team.expect("it says which"))
}

async fn get(fleet: &TestFleet, at: usize, id: u128) -> Result<v1::Team, Status> {
    let request = GetTeamRequest { id: TeamId(id).to_string() };
    Ok(fleet.tested(at).teams.get_team(Request::new(request)).await?.into_inner())
}

async fn report(fleet: &TestFleet, at: usize, agent: &str, reaches: &[&str]) -> Result<(), Status> {
    let reaches = reaches.iter().map(ToString::to_string).collect();
    let request = ReportPathsRequest { team: TeamId(7).to_string(), reaches, agent: agent.into() };
    fleet.tested(at).teams.report_paths(Request::new(request)).await.map(drop)
}

fn names(team: &v1::Team) -> Vec<&str> {
    team.members.iter().map(|member| member.name.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_team_is_formed_at_one_coordinator_and_active_once_its_members_report_their_paths_at_others() {
    let (fleet, leader) = start().await;
    let _agents = (TestAgent::join(&fleet, leader, "a").await, TestAgent::join_from(&fleet, leader, "b", 2).await);
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    let formed = form(&fleet, one, asked(7, 2)).await.expect("it is formed");
    assert_eq!((formed.state(), formed.term, names(&formed)), (TeamState::Forming, 1, vec!["a", "b"]));
    assert!(formed.leader_score.is_some_and(|score| score.total > 0.0 && score.reliability == 1.0));
    let again = form(&fleet, other, asked(7, 2)).await.expect("it is the same");
    assert_eq!(again.created_at, formed.created_at);
    assert_eq!(code(form(&fleet, one, asked(7, 1)).await), Code::AlreadyExists);
    let none = form(&fleet, one, asked(8, 1)).await.expect_err("nobody is free");
    assert_eq!(none.code(), Code::ResourceExhausted, "{none}");
    assert_eq!(code(form(&fleet, one, asked(8, 65)).await), Code::InvalidArgument);

    report(&fleet, other, "a", &["b", "ghost"]).await.expect("it is taken");
    let half = get(&fleet, one, 7).await.expect("it is known");
    assert_eq!((half.state(), half.members[0].reaches.as_slice()), (TeamState::Forming, &["b".to_owned()][..]));
    for _ in 0..2 {
        report(&fleet, leader, "b", &["a"]).await.expect("it is taken");
    }
    assert_eq!(get(&fleet, other, 7).await.expect("it is known").state(), TeamState::Active);
    let list = ListTeamsRequest { open: true, ..ListTeamsRequest::default() };
    let listed = fleet.tested(one).teams.list_teams(Request::new(list)).await.expect("teams").into_inner();
    assert_eq!(listed.teams.iter().map(|team| team.state()).collect::<Vec<_>>(), [TeamState::Active]);

    let disband = |term| DisbandTeamRequest { id: TeamId(7).to_string(), term };
    let stale = fleet.tested(one).teams.disband_team(Request::new(disband(9))).await;
    assert_eq!(code(stale), Code::FailedPrecondition);
    let ended = fleet.tested(one).teams.disband_team(Request::new(disband(1))).await.expect("it is disbanded");
    let ended = ended.into_inner().team.expect("it says which");
    assert_eq!((ended.state(), ended.members.len(), ended.disbanded_at.is_some()), (TeamState::Disbanded, 0, true));
    assert_eq!(code(get(&fleet, one, 8).await), Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn tasks_and_messages_go_to_the_members_of_a_team() {
    let (fleet, leader) = start().await;
    let _agents = (TestAgent::join(&fleet, leader, "a").await, TestAgent::join_from(&fleet, leader, "b", 2).await);
    form(&fleet, leader, asked(7, 1)).await.expect("it is formed");
    let task = robeing_fleet::SubmitTask { team: Some(TeamId(7)), ..fixture::task(1, bytes::Bytes::new()) };
    let submit = Command::Task(TaskCommand::Submit(task));
    fleet.tested(leader).proposer.propose_one(submit).await.expect("somebody leads");
    let holder = fleet.tested(leader).state.look(|fleet| {
        let task = fleet.task(TaskId(1)).expect("it is known");
        task.current().map(|attempt| attempt.agent_name.to_string())
    });
    assert_eq!(holder.as_deref(), Some("a"));
    let to = format!("team:{}", TeamId(7));
    let deadline = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let all = SendMessageRequest { broadcast: true, id: LetterId(1).to_string(), deadline, ..message(&to) };
    let outcomes = send(&fleet, leader, all).await.expect("it is taken");
    assert_eq!(outcomes.iter().map(|status| status.agent.as_str()).collect::<Vec<_>>(), ["a"]);
}

/// The teams of a coordinator where TLS is on, and ann alone is an administrator.
fn with_tls(fleet: &TestFleet, at: usize) -> Teams {
    Teams { rights: ann_administers(), ..fleet.tested(at).teams.teams }
}

#[tokio::test(start_paused = true)]
async fn a_team_is_disbanded_by_whoever_formed_it_its_leader_in_its_term_and_administrators() {
    let (fleet, leader) = start().await;
    let _agents = (TestAgent::join(&fleet, leader, "a").await, TestAgent::join_from(&fleet, leader, "b", 2).await);
    let teams = with_tls(&fleet, leader);
    let [ann, bob, carol] = ["ann", "bob", "carol"].map(|name| member(PeerRole::Client, name));
    let form = async |id| {
        let formed = teams.form("client:carol", asked(id, 2)).await.expect("it is formed").team;
        let leads = |name: &&str| {
            formed.leader.is_some() && formed.member_named(name).map(|member| member.agent) == formed.leader
        };
        let others = ["a", "b"].into_iter().partition::<Vec<_>, _>(leads);
        (member(PeerRole::Worker, others.0[0]), member(PeerRole::Worker, others.1[0]))
    };
    let disband = async |by: &Caller, id, term| {
        let ended = teams.disband(by, DisbandTeamRequest { id: TeamId(id).to_string(), term }).await;
        ended.map(|shown| shown.team.is_open())
    };
    let (head, other) = form(1).await;
    for (by, term) in [(&bob, 0), (&bob, 1), (&other, 0), (&other, 1), (&head, 0), (&Caller::Anonymous, 1)] {
        let refused = disband(by, 1, term).await;
        assert!(matches!(refused, Err(TeamError::NotYours { .. })), "{by:?} {term}: {refused:?}");
    }
    for by in [&head, &carol, &ann] {
        let stale = Refusal::StaleTerm { team: TeamId(1), term: 2, current: 1 };
        assert_eq!(disband(by, 1, 2).await, Err(TeamError::Refused(stale)));
    }
    let last = || fleet.tested(leader).state.look(|fleet| fleet.audit_last());
    let before = last();
    assert_eq!(disband(&head, 1, 1).await, Ok(false));
    form(2).await;
    assert_eq!(disband(&carol, 2, 0).await, Ok(false));
    assert_eq!(last(), before);
    form(3).await;
    assert_eq!(disband(&ann, 3, 0).await, Ok(false));
    let record = fleet.tested(leader).state.look(|fleet| fleet.audit_records(before, 10).next().cloned());
    let record = record.map(|record| (record.actor.clone(), record.action.clone(), record.subject.clone()));
    assert_eq!(record, Some(("client/ann".to_owned(), "team.disband".to_owned(), TeamId(3).to_string())));
}

#[tokio::test(start_paused = true)]
async fn nobody_reports_in_plaintext_for_an_agent_that_has_a_certificate() {
    let (fleet, leader) = start().await;
    let _agent = TestAgent::join(&fleet, leader, "a").await;
    let teams = with_tls(&fleet, leader);
    teams.form("client:carol", asked(7, 1)).await.expect("it is formed");
    let report = async || {
        let team = TeamId(7).to_string();
        let request = ReportPathsRequest { team, agent: "a".into(), ..ReportPathsRequest::default() };
        teams.report(&Caller::Plaintext, request).await
    };
    assert_eq!(report().await, Ok(()), "it may not have enrolled yet");
    fleet.tested(leader).proposer.propose_one(enrol_of("a", [7; 32])).await.expect("somebody leads");
    let refused = report().await;
    assert!(matches!(refused, Err(TeamError::OtherAgent { .. })), "{refused:?}");
}
