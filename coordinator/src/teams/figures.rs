//! The metrics of each team and member, from what the log counts: every coordinator exports the same.

use std::sync::{Arc, atomic::AtomicU64};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use robeing_fleet::{Team, limits::MAX_PAGE};
use robeing_telemetry::Metrics;

use crate::read::StateReader;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfTeam {
    team: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfMember {
    team: String,
    agent: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfAttempts {
    team: String,
    agent: String,
    outcome: &'static str,
}

/// The metrics of the teams that are not disbanded.
#[derive(Default)]
pub struct TeamFigures {
    tasks: Family<OfTeam, Gauge>,
    succeeded: Family<OfTeam, Gauge>,
    failed: Family<OfTeam, Gauge>,
    latency: Family<OfTeam, Gauge<f64, AtomicU64>>,
    messages: Family<OfTeam, Gauge>,
    attempts: Family<OfAttempts, Gauge>,
    busy: Family<OfMember, Gauge>,
}

impl TeamFigures {
    /// Registers the metrics with those of a process.
    pub fn register(metrics: &Metrics) -> Self {
        let figures = Self::default();
        metrics.register("team_tasks", "Tasks that were addressed to a team", figures.tasks.clone());
        metrics.register("team_tasks_succeeded", "Tasks of a team that succeeded", figures.succeeded.clone());
        metrics.register("team_tasks_failed", "Tasks of a team that ended otherwise", figures.failed.clone());
        let help = "Mean time from the acceptance of a team's task that succeeded to its end, milliseconds";
        metrics.register("team_latency_ms", help, figures.latency.clone());
        let help = "Messages through the coordinators to a team, one for each member";
        metrics.register("team_messages", help, figures.messages.clone());
        let help = "Attempts of a member at the tasks of its team, by outcome";
        metrics.register("team_member_attempts", help, figures.attempts.clone());
        let help = "How long the attempts of a member at the tasks of its team took together, milliseconds";
        metrics.register("team_member_busy_ms", help, figures.busy.clone());
        figures
    }

    /// Brings the metrics up to date.
    pub fn refresh(&self, state: &StateReader) {
        let teams: Vec<Arc<Team>> =
            state.look(|fleet| fleet.teams(None, MAX_PAGE, true).into_iter().cloned().collect());
        self.clear();
        teams.iter().for_each(|team| self.show(team));
    }

    /// Forgets teams and members that there are no more.
    fn clear(&self) {
        for family in [&self.tasks, &self.succeeded, &self.failed, &self.messages] {
            family.clear();
        }
        self.latency.clear();
        self.attempts.clear();
        self.busy.clear();
    }

    fn show(&self, team: &Team) {
        let (id, totals) = (team.id.to_string(), team.totals);
        let of_team = OfTeam { team: id.clone() };
        for (family, count) in [
            (&self.tasks, totals.tasks),
            (&self.succeeded, totals.succeeded),
            (&self.failed, totals.failed),
            (&self.messages, totals.messages),
        ] {
            family.get_or_create(&of_team).set(gauged(count));
        }
        // For people, so that it need not be exact.
        let latency = totals.latency_ms as f64 / totals.succeeded.max(1) as f64;
        self.latency.get_or_create(&of_team).set(latency);
        for member in &team.members {
            let agent = member.name.to_string();
            for (outcome, count) in [("succeeded", member.work.succeeded), ("failed", member.work.failed)] {
                let of = OfAttempts { team: id.clone(), agent: agent.clone(), outcome };
                self.attempts.get_or_create(&of).set(gauged(count));
            }
            self.busy.get_or_create(&OfMember { team: id.clone(), agent }).set(gauged(member.work.busy_ms));
        }
    }
}

fn gauged(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
