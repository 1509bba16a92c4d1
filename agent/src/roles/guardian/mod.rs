//! What guardians do: they watch for agents that behave unlike themselves, report them, and quarantine those that do so
//! severely and repeatedly.

mod denied;
mod departed;
pub mod feed;
pub mod outvoted;
pub mod spared;

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use robeing_net::limited;
use robeing_policy::anomaly::{Anomaly, Response, Severity, Signal};
use robeing_proto::v1::{self, admin_client::AdminClient, fleet_client::FleetClient};
use robeing_settings::OnAnomaly;
use robeing_telemetry::Metrics;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tracing::{debug, info, warn};

use self::{
    feed::{Feed, MAX_FLAGS, Seen, figures, reason},
    outvoted::Repeated,
};
use crate::upstream::SharedUpstream;

/// How often the coordinators are asked, in fleets of up to [`AGENTS_A_LOOK`] agents.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Number of agents for each of which many more [`LOOK_EVERY`] is longer.
const AGENTS_A_LOOK: usize = 1_000;
/// How long a look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of pages of a look, of agents and of audit records each.
const MAX_PAGES: usize = 1_000;
/// Number of audit records of a page, the most.
const PAGE: u32 = 1_000;
/// Maximum length of the reason of a quarantine, in bytes.
const MAX_REASON_BYTES: usize = 256;
/// Maximum number of agents that wait to be quarantined because the coordinators do not answer.
pub const MAX_ACCUSED: usize = 64;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    signal: &'static str,
    severity: &'static str,
}

/// The metrics of a guardian.
#[derive(Clone)]
pub struct GuardianMetrics {
    anomalies: Family<Labels, Counter>,
    quarantines: Counter,
    spared: Counter,
    judged: Gauge,
}

impl GuardianMetrics {
    /// Registers the metrics.
    pub fn new(metrics: &Metrics) -> Self {
        let anomalies = "Seconds in which an agent behaved unlike itself, by signal and severity";
        Self {
            anomalies: metrics.counters("agent_guardian_anomalies", anomalies),
            quarantines: metrics.counter("agent_guardian_quarantines", "Agents that this guardian has quarantined"),
            spared: metrics.counter("agent_guardian_spared", "Agents that were not quarantined because of a limit"),
            judged: metrics.gauge(
                "agent_guardian_judged",
                "Agents that were active for long enough to be compared with themselves, those among them that left in \
                 the last hour",
            ),
        }
    }
}

/// An agent that is to be flagged or quarantined.
#[derive(Clone, Debug)]
struct Accused {
    agent: String,
    reason: String,
}

impl Accused {
    fn new(agent: &str, mut reason: String) -> Self {
        reason.truncate(MAX_REASON_BYTES);
        Self { agent: agent.to_owned(), reason }
    }
}

/// A guardian.
pub struct Guardian {
    /// Its name.
    pub name: String,
    /// The coordinators that it asks.
    pub upstream: SharedUpstream,
    /// What it does about anomalies.
    pub on_anomaly: OnAnomaly,
    /// How long an agent has to be active before it is judged.
    pub warm_up: Duration,
    /// Its metrics.
    pub metrics: GuardianMetrics,
    /// Ends it.
    pub stop: CancellationToken,
}

impl Guardian {
    /// Watches the agents of the fleet until it is stopped. Only a look that fails is repeated: nothing is lost, because
    /// the coordinators count.
    pub async fn run(self) {
        let (mut feed, mut accused, started) = (self.feed(), Vec::new(), Instant::now());
        let (mut is_first, mut pause) = (true, LOOK_EVERY);
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = sleep(pause) => {}
            }
            let Some((choice, channel)) = self.upstream.channel() else { continue };
            let look = timeout(LOOK_TIMEOUT, look(channel.clone(), feed.after()));
            let seen = match look.await.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer"))) {
                Ok(seen) => seen,
                Err(status) => {
                    debug!(%status, "a guardian could not look at the fleet");
                    self.upstream.failed(choice);
                    continue;
                }
            };
            let now = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            pause = LOOK_EVERY * u32::try_from(1 + seen.agents.len() / AGENTS_A_LOOK).unwrap_or(u32::MAX);
            seen.records.iter().for_each(|record| feed.record(record, is_first, now));
            feed.agents(&seen.agents, seen.activity.as_deref(), now);
            is_first = false;
            let (found, outvoted) = (feed.tick(now), feed.outvoted(&seen.agents, now));
            self.metrics.judged.set(i64::try_from(feed.judged()).unwrap_or(i64::MAX));
            let flags = outvoted.iter().map(|of| Accused::new(&of.agent, of.to_string()));
            let flags = flags.chain(found.iter().map(|of| Accused::new(&of.agent, figures(of))));
            self.flag(&mut feed, flags.collect(), &channel, now).await;
            outvoted.iter().for_each(|of| self.report_outvoted(of));
            found.iter().for_each(|of| self.report(of));
            if self.on_anomaly != OnAnomaly::Report {
                let outvoted = outvoted.iter().map(|of| Accused::new(&of.agent, of.to_string()));
                let severe = found.iter().filter(|of| of.response == Response::Quarantine);
                let severe = severe.map(|of| Accused::new(&of.agent, reason(of)));
                outvoted.chain(severe).for_each(|of| accuse(&mut accused, of));
            }
            self.quarantine(&mut feed, &seen.agents, &mut accused, &channel).await;
        }
    }

    fn feed(&self) -> Feed {
        Feed::new(self.warm_up, self.on_anomaly == OnAnomaly::QuarantineAll)
    }

    /// Records in the audit log which agents behave unlike themselves, the most severe anomalies first, each agent once in
    /// a while. What can't be recorded was logged and counted.
    async fn flag(&self, feed: &mut Feed, found: Vec<Accused>, channel: &Channel, now: u64) {
        let flagged: Vec<Accused> = found.into_iter().filter(|of| feed.flags(&of.agent, now)).take(MAX_FLAGS).collect();
        for Accused { agent, reason } in flagged {
            let request = v1::FlagAgentRequest { agent: agent.clone(), reason };
            let mut admin = limited!(AdminClient::new(channel.clone()));
            match timeout(LOOK_TIMEOUT, admin.flag_agent(request)).await {
                Ok(Ok(_)) => {}
                Ok(Err(status)) => debug!(agent, %status, "an agent could not be flagged"),
                Err(_) => debug!(agent, "an agent could not be flagged in time"),
            }
        }
    }

    fn report_outvoted(&self, of: &Repeated) {
        let Repeated { agent, times, within_ms } = of;
        let labels = Labels { signal: Signal::Disagreement.name(), severity: "severe" };
        self.metrics.anomalies.get_or_create(&labels).inc();
        warn!(agent, times, within_ms, "other agents outvote an agent again and again");
    }

    fn report(&self, anomaly: &Anomaly) {
        let Anomaly { agent, what, observed, expected, severity, .. } = anomaly;
        let signal = what.name();
        let severity = match severity {
            Severity::Unusual => "unusual",
            Severity::Severe => "severe",
        };
        self.metrics.anomalies.get_or_create(&Labels { signal, severity }).inc();
        warn!(agent, signal, observed, expected, severity, "an agent behaves unlike itself");
    }

    /// Quarantines the accused, as many as may be. Those for whom the coordinators do not answer stay accused.
    async fn quarantine(&self, feed: &mut Feed, agents: &[v1::Agent], accused: &mut Vec<Accused>, channel: &Channel) {
        let mut left = Vec::new();
        for of in accused.drain(..) {
            let Accused { agent, reason } = of.clone();
            if let Err(spared) = feed.may_quarantine(agents, &agent, &self.name) {
                warn!(agent, %spared, "an agent that behaves severely unlike itself is not quarantined");
                self.metrics.spared.inc();
                feed.spare(&agent);
                continue;
            }
            let kind = v1::BarKind::Quarantined.into();
            let (agent_name, told) = (agent.clone(), reason.clone());
            let request = v1::BarAgentRequest { agent: agent_name, kind, reason: told, known_only: false };
            let mut admin = limited!(AdminClient::new(channel.clone()));
            match timeout(LOOK_TIMEOUT, admin.bar_agent(request)).await {
                Ok(Ok(_)) => {
                    info!(agent, reason, "quarantined an agent");
                    self.metrics.quarantines.inc();
                    feed.note_quarantined(&agent);
                }
                Ok(Err(status)) => {
                    warn!(agent, %status, "an agent could not be quarantined; trying again");
                    left.push(of);
                }
                Err(_) => left.push(of),
            }
        }
        *accused = left;
    }
}

/// Adds an agent to those that are to be quarantined, if there is room.
fn accuse(accused: &mut Vec<Accused>, of: Accused) {
    let is_known = accused.iter().any(|known| known.agent == of.agent);
    if !is_known && accused.len() < MAX_ACCUSED {
        accused.push(of);
    }
}

/// Returns what is known of the fleet's agents now, with the audit records after the given one.
async fn look(channel: Channel, after: u64) -> Result<Seen, Status> {
    let (mut fleet, mut admin) = (limited!(FleetClient::new(channel.clone())), limited!(AdminClient::new(channel)));
    let (mut agents, mut token) = (Vec::new(), String::new());
    for _ in 0..MAX_PAGES {
        let consistency = v1::Consistency::Local.into();
        let request = v1::ListAgentsRequest { consistency, page_token: token, ..v1::ListAgentsRequest::default() };
        let page = fleet.list_agents(request).await?.into_inner();
        agents.extend(page.agents);
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    let (mut records, mut after_seq): (Vec<v1::AuditRecord>, u64) = (Vec::new(), after);
    for _ in 0..MAX_PAGES {
        let request = v1::ListAuditRecordsRequest { after_seq, page_size: PAGE };
        let page = admin.list_audit_records(request).await?.into_inner().records;
        let is_last = page.len() < PAGE as usize;
        after_seq = page.last().map_or(after_seq, |last| last.seq);
        records.extend(page);
        if is_last {
            break;
        }
    }
    // While there is no leader, or one of an earlier version, the rest can be judged.
    let activity = activity(&mut admin).await;
    Ok(Seen { agents, activity: activity.ok(), records })
}

/// Returns how active the agents are, as the leader knows.
async fn activity(admin: &mut AdminClient<Channel>) -> Result<Vec<v1::AgentActivity>, Status> {
    let (mut activity, mut page_token) = (Vec::new(), String::new());
    for _ in 0..MAX_PAGES {
        let page = admin.list_activity(v1::ListActivityRequest { page_token }).await?.into_inner();
        activity.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(activity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_agents_wait_to_be_quarantined_each_once() {
        let mut accused = Vec::new();
        for n in 0..MAX_ACCUSED + 5 {
            accuse(&mut accused, Accused::new(&format!("a-{n}"), String::new()));
            accuse(&mut accused, Accused::new("a-0", String::new()));
        }
        assert_eq!(accused.len(), MAX_ACCUSED);
    }

    #[test]
    fn the_longest_reasons_are_within_their_limit() {
        let longest = Anomaly {
            agent: "a".to_owned(),
            what: Signal::FailedAuthentication,
            observed: 1e15,
            expected: 1e15,
            severity: Severity::Severe,
            response: Response::Quarantine,
        };
        assert!(reason(&longest).len() < MAX_REASON_BYTES, "{}", reason(&longest));
        let longest = Repeated { agent: "a".to_owned(), times: u64::MAX, within_ms: u64::MAX };
        assert!(longest.to_string().len() < MAX_REASON_BYTES, "{longest}");
    }
}
