//! The guard's report to the coordinators that its agent runs nothing any more.

use std::{sync::Arc, time::Duration};

use robeing_identity::TrustBundle;
use robeing_net::{
    Transport, limited,
    security::{Credentials, CredentialsError, Tls, TrustClock},
};
use robeing_platform::Platform;
use robeing_proto::internal::v1::{GuardReport, guards_client::GuardsClient};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout, timeout_at},
};

use super::records::SessionInfo;

/// How long one coordinator may take to answer. The leader commits the loss before it answers.
const ASK_WITHIN: Duration = Duration::from_secs(1);
/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_millis(300);
/// How long a guard tries at most, whatever the session timeout: no process of an ended fleet must remain.
const TRY_FOR: Duration = Duration::from_secs(5);
/// The first and the longest pause after a round in which no coordinator accepted the report.
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// How an agent ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// The agent's process is gone.
    Gone,
    /// The agent's process is stopped and its session revoked.
    Stopped,
}

/// Reports until a coordinator accepts the report or it is no longer useful. Blocks.
pub(super) fn report(info: &SessionInfo, ended: Ended) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Without a runtime nothing is reported, and the session timeout decides.
    if let Ok(runtime) = runtime {
        let until = Instant::now() + Duration::from_millis(info.within_ms.into()).min(TRY_FOR);
        runtime.block_on(async { drop(timeout_at(until, tell(info, ended)).await) });
    }
}

async fn tell(info: &SessionInfo, ended: Ended) {
    // Without its authorities nothing is reported, and the session timeout decides.
    let Ok(transport) = transport(info) else { return };
    let (mut pause, longest) = PAUSE;
    loop {
        let mut open: Vec<String> = info.coordinators.iter().rev().cloned().collect();
        let mut asked = Vec::new();
        while let Some(address) = open.pop() {
            if asked.contains(&address) {
                continue;
            }
            match timeout(ASK_WITHIN, ask(&transport, &address, info, ended)).await {
                Ok(Answer::Settled) => return,
                Ok(Answer::Ask(leader)) => open.push(leader),
                Ok(Answer::NotNow) | Err(_) => {}
            }
            asked.push(address);
        }
        sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

/// Returns the transport to the coordinators. A guard has no certificate: the session's secret proves what it reports.
fn transport(info: &SessionInfo) -> Result<Transport, CredentialsError> {
    let platform = Platform::real();
    let plain = Transport::new(platform.network);
    let Some(trust) = &info.trust else { return Ok(plain) };
    let clock = Arc::new(TrustClock::new(platform.clock));
    if trust.wall > 0 {
        clock.learn_at(trust.wall, trust.at);
    }
    let bundle = match trust.authorities.is_empty() {
        true => None,
        false => Some(TrustBundle::from_der(&trust.authorities)?),
    };
    let (_, credentials) = watch::channel(Arc::new(Credentials::new(&info.cluster_id, bundle, None, &clock)?));
    Ok(plain.with_tls(&Tls::new(credentials, trust.permissive)))
}

enum Answer {
    /// The session is over, or this report can never end it.
    Settled,
    /// The leader has this address.
    Ask(String),
    NotNow,
}

async fn ask(transport: &Transport, address: &str, info: &SessionInfo, ended: Ended) -> Answer {
    let Ok(channel) = transport.connect(address, CONNECT_WITHIN).await else { return Answer::NotNow };
    let report = GuardReport {
        cluster_id: info.cluster_id.clone(),
        agent: info.agent.clone(),
        session: info.session,
        secret: info.secret.clone().into(),
        stopped: ended == Ended::Stopped,
    };
    match limited!(GuardsClient::new(channel)).report(report).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            match (answer.settled, answer.leader_address) {
                (true, _) => Answer::Settled,
                (false, leader) if leader.is_empty() => Answer::NotNow,
                (false, leader) => Answer::Ask(leader),
            }
        }
        Err(status) if status.code() == tonic::Code::PermissionDenied => Answer::Settled,
        Err(_) => Answer::NotNow,
    }
}
