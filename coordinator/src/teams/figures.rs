//! The metrics of teams and their members, from what the log counts: every coordinator exports the same. Only so many
//! teams have metrics of their own, and what is gone is removed without the others being missed meanwhile.

use std::{
    collections::BTreeSet,
    sync::{Arc, atomic::AtomicU64},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use robeing_fleet::{Team, limits::MAX_PAGE};
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_telemetry::Metrics;

use crate::{metrics::gauged, read::StateReader};

/// Most teams that have metrics of their own: those that were formed first, so that they are the same ones for long.
pub const MAX_SHOWN: usize = 100;
/// How attempts end.
const OUTCOMES: [&str; 2] = ["succeeded", "failed"];

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct OfTeam {
    team: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
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
    posted: Family<OfMember, Gauge>,
    left_out: Gauge,
    shown: Mutex<Shown>,
}

/// Of whom there are metrics.
#[derive(Default)]
struct Shown {
    teams: BTreeSet<OfTeam>,
    members: BTreeSet<OfMember>,
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
        let help = "Messages through the coordinators to the team that were posted for a member";
        metrics.register("team_member_messages", help, figures.posted.clone());
        let help = "Teams that have no metrics of their own, because there are too many";
        metrics.register("teams_left_out", help, figures.left_out.clone());
        figures
    }

    /// Brings the metrics up to date.
    pub fn refresh(&self, state: &StateReader) {
        let teams: Vec<Arc<Team>> =
            state.look(|fleet| fleet.teams(None, MAX_PAGE, true).into_iter().cloned().collect());
        self.show(&teams);
    }

    /// Shows the oldest of these teams, the last of which is the oldest one.
    fn show(&self, teams: &[Arc<Team>]) {
        self.left_out.set(gauged(teams.len().saturating_sub(MAX_SHOWN) as u64));
        let mut now = Shown::default();
        for team in teams.iter().rev().take(MAX_SHOWN) {
            let of_team = OfTeam { team: team.id.to_string() };
            self.show_team(&of_team, team);
            self.show_members(team, &mut now.members);
            now.teams.insert(of_team);
        }
        let mut before = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        self.remove(&before, &now);
        *before = now;
    }

    /// Forgets the teams and members that there are no more.
    fn remove(&self, before: &Shown, now: &Shown) {
        for team in before.teams.difference(&now.teams) {
            for family in [&self.tasks, &self.succeeded, &self.failed, &self.messages] {
                family.remove(team);
            }
            self.latency.remove(team);
        }
        for member in before.members.difference(&now.members) {
            self.busy.remove(member);
            self.posted.remove(member);
            for outcome in OUTCOMES {
                self.attempts.remove(&attempts_of(member, outcome));
            }
        }
    }

    fn show_team(&self, of_team: &OfTeam, team: &Team) {
        let totals = team.totals;
        for (family, count) in [
            (&self.tasks, totals.tasks),
            (&self.succeeded, totals.succeeded),
            (&self.failed, totals.failed),
            (&self.messages, totals.messages),
        ] {
            family.get_or_create(of_team).set(gauged(count));
        }
        // For people, so that it need not be exact.
        let latency = totals.latency_ms as f64 / totals.succeeded.max(1) as f64;
        self.latency.get_or_create(of_team).set(latency);
    }

    fn show_members(&self, team: &Team, shown: &mut BTreeSet<OfMember>) {
        let id = team.id.to_string();
        for member in &team.members {
            let (work, of_member) = (member.work, OfMember { team: id.clone(), agent: member.name.to_string() });
            for (outcome, count) in OUTCOMES.into_iter().zip([work.succeeded, work.failed]) {
                self.attempts.get_or_create(&attempts_of(&of_member, outcome)).set(gauged(count));
            }
            self.busy.get_or_create(&of_member).set(gauged(work.busy_ms));
            self.posted.get_or_create(&of_member).set(gauged(work.messages));
            shown.insert(of_member);
        }
    }
}

fn attempts_of(member: &OfMember, outcome: &'static str) -> OfAttempts {
    let OfMember { team, agent } = member.clone();
    OfAttempts { team, agent, outcome }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{
        AgentCommand, Command, ControlCommand, Fleet, FleetConfig, FormTeam, Reply, Stamp, TeamCommand, TeamId,
        TeamNeeds, known_version,
    };

    use super::*;
    use crate::fixture;

    fn join(n: usize) -> Command {
        Command::Agent(AgentCommand::Joined(fixture::join(&format!("a{n}"), 1)))
    }

    fn form(n: usize) -> Command {
        Command::Team(TeamCommand::Form(FormTeam {
            id: TeamId(n as u128),
            formed_by: "client:c".to_owned(),
            purpose: "review".to_owned(),
            size: 1,
            partial: false,
            needs: TeamNeeds::default(),
        }))
    }

    /// So many teams, the newest in front.
    fn teams(count: usize) -> Vec<Arc<Team>> {
        let mut fleet = Fleet::new(FleetConfig::default());
        let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
        assert_eq!(fleet.apply(Stamp::at(1), raise, &mut Vec::new()), Reply::Done);
        for command in (0..count).flat_map(|n| [join(n), form(n)]) {
            fleet.apply(Stamp::at(1), command, &mut Vec::new());
        }
        fleet.teams(None, MAX_PAGE, true).into_iter().cloned().collect()
    }

    #[test]
    fn so_many_teams_have_metrics_and_those_that_are_gone_have_none() {
        let metrics = Metrics::default();
        let figures = TeamFigures::register(&metrics);
        let has = |text: &str| metrics.encode().contains(text);
        let all = teams(MAX_SHOWN + 2);
        figures.show(&all);
        assert!(has("robeing_teams_left_out 2\n"));
        let series = |name: &str| metrics.encode().matches(&format!("{name}{{")).count();
        assert_eq!((series("robeing_team_tasks"), series("robeing_team_member_attempts")), (MAX_SHOWN, 2 * MAX_SHOWN));
        assert!(has("agent=\"a0\"") && has("agent=\"a99\"") && !has("agent=\"a100\""), "the oldest ones");
        let without_the_oldest = &all[..all.len() - 1];
        figures.show(without_the_oldest);
        assert!(!has("agent=\"a0\"") && has("agent=\"a100\"") && has("robeing_teams_left_out 1\n"));
        figures.show(&[]);
        for name in ["tasks", "tasks_succeeded", "tasks_failed", "latency_ms", "messages"] {
            assert_eq!(series(&format!("robeing_team_{name}")), 0, "{name}");
        }
        for name in ["attempts", "busy_ms", "messages"] {
            assert_eq!(series(&format!("robeing_team_member_{name}")), 0, "{name}");
        }
    }
}
