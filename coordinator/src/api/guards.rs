//! Reports from agents' guards that nothing of a session runs any more, when the agent can't report it itself.
//! [`evidence`](crate::leader::evidence) explains why such a report is a proof.

use robeing_fleet::{AgentId, AgentState, Fleet, LossReason, SessionId};
use robeing_net::incarnation::incarnation_of;
use robeing_proto::internal::v1::{self as internal, GuardReport, GuardReportReply};
use tonic::{Request, Response, Status};
use tracing::info;

use crate::{
    leader::{failure_detector::FailureDetector, role::RaftRole},
    lifetime::Lifetime,
    member::Member,
};

/// The Guards service.
pub struct GuardReports {
    pub member: Member,
    /// Writes the losses that guards report.
    pub detector: FailureDetector,
    pub lifetime: Lifetime,
}

/// The result of checking a report against the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Finding {
    /// The agent is in that session.
    Present(AgentId),
    /// The agent is not in that session, or not any more.
    Over,
    /// The reporter does not know the session's secret.
    Forged,
}

fn find(fleet: &Fleet, report: &GuardReport) -> Finding {
    let session = SessionId(report.session);
    let agent = fleet.agent_by_name(&report.agent).filter(|agent| agent.session == session);
    match agent.filter(|agent| agent.state != AgentState::Lost) {
        None => Finding::Over,
        Some(agent) if agent.incarnation == incarnation_of(&report.secret) => Finding::Present(agent.id),
        Some(_) => Finding::Forged,
    }
}

#[tonic::async_trait]
impl internal::guards_server::Guards for GuardReports {
    async fn report(&self, request: Request<GuardReport>) -> Result<Response<GuardReportReply>, Status> {
        let (detector, report) = (&self.detector, request.into_inner());
        if report.cluster_id != self.member.cluster_id() {
            return Err(Status::permission_denied(format!("this is cluster {:?}", self.member.cluster_id())));
        }
        let settled = |settled| Ok(Response::new(GuardReportReply { settled, leader_address: String::new() }));
        let term = match detector.standing.role() {
            RaftRole::Leading { term, ready: true } => term,
            RaftRole::Following { peer, .. } => {
                return Ok(Response::new(GuardReportReply { settled: false, leader_address: peer.address }));
            }
            RaftRole::Leading { .. } | RaftRole::Leaderless => return settled(false),
        };
        let agent = match detector.state.look(|fleet| find(fleet, &report)) {
            Finding::Present(agent) => agent,
            Finding::Over => return settled(true),
            Finding::Forged => {
                return Err(Status::permission_denied("the report does not carry the secret of the session"));
            }
        };
        let session = SessionId(report.session);
        let reason = if report.stopped { LossReason::Silent } else { LossReason::Disconnected };
        info!(agent = report.agent, session = session.0, stopped = report.stopped, "the agent's guard reports its end");
        match detector.observer.sessions.reported(term, agent, session) {
            Some(true) => {
                // In a separate task, because the loss has to be proposed even if the guard disconnects.
                let detector = detector.clone();
                let losing = async move { detector.lose(term, agent, session, reason).await };
                settled(self.lifetime.tasks().spawn(losing).await.unwrap_or(false))
            }
            Some(false) => settled(true),
            None => settled(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{AgentCommand, Command, FleetConfig, Reply, Stamp};
    use robeing_net::incarnation::Secret;
    use robeing_platform::OsRandom;

    use super::*;
    use crate::fixture;

    #[test]
    fn only_who_knows_the_secret_of_the_session_that_is_can_report_its_end() {
        let secret = Secret::draw(&OsRandom);
        let mut fleet = Fleet::new(FleetConfig::default());
        let join = robeing_fleet::AgentJoin { incarnation: secret.incarnation(), ..fixture::join("agent", 1) };
        let joined = fleet.apply(Stamp::at(1), Command::Agent(AgentCommand::Joined(join)), &mut Vec::new());
        let Reply::Joined { agent, session } = joined else { panic!("{joined:?}") };
        let report = GuardReport {
            agent: "agent".into(),
            session: session.0,
            secret: secret.bytes().to_vec().into(),
            ..GuardReport::default()
        };
        assert_eq!(find(&fleet, &report), Finding::Present(agent));
        let other = Secret::draw(&OsRandom).bytes().to_vec().into();
        assert_eq!(find(&fleet, &GuardReport { secret: other, ..report.clone() }), Finding::Forged);
        let empty = GuardReport { secret: Vec::new().into(), ..report.clone() };
        assert_eq!(find(&fleet, &empty), Finding::Forged);
        for (name, session) in [("another", session.0), ("agent", session.0 + 1)] {
            let report = GuardReport { agent: name.into(), session, ..report.clone() };
            assert_eq!(find(&fleet, &report), Finding::Over, "{name} {session}");
        }
        let lost = Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Silent });
        fleet.apply(Stamp::at(2), lost, &mut Vec::new());
        assert_eq!(find(&fleet, &report), Finding::Over, "it is lost already");
    }
}
