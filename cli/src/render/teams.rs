//! Teams for people.

use std::fmt::Write;

use jiff::Timestamp;
use robeing_proto::v1::{Team, TeamState};

use super::{
    table::table,
    words::{age, camel, moment, printable, role_word},
};

/// Number of characters of a purpose in a list.
const SHOWN: usize = 48;

/// Formats a state: `Forming`, `Active`, …
fn state_word(state: TeamState) -> String {
    camel(state.as_str_name(), "TEAM_STATE_")
}

/// Formats the list of `robeing team list`.
pub fn teams_table(teams: &[Team], now: Timestamp) -> String {
    if teams.is_empty() {
        return "no teams\n".into();
    }
    table(
        ["ID", "STATE", "MEMBERS", "LEADER", "TERM", "TASKS", "AGE", "PURPOSE"],
        teams.iter().map(|team| {
            [
                team.id.clone(),
                state_word(team.state()),
                format!("{} of {}", team.members.len(), team.size),
                team.leader.clone(),
                team.term.to_string(),
                team.totals.map(|totals| totals.tasks).unwrap_or_default().to_string(),
                age(team.created_at.as_ref(), now),
                team.purpose.chars().take(SHOWN).collect(),
            ]
        }),
    )
}

/// Formats one team in full, with its members.
pub fn team_text(team: &Team, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{:<16}{}", format!("{name}:"), printable(&value));
        }
    };
    line("ID", team.id.clone());
    line("Purpose", team.purpose.clone());
    line("State", state_word(team.state()));
    line("Members", format!("{} of {} (asked for: {})", team.members.len(), team.size, team.asked));
    line("Role", if team.role == 0 { String::new() } else { role_word(team.role()) });
    line("Skills", team.skills.join(", "));
    line("Leader", leader(team));
    line("Tasks", tasks(team));
    line("Messages", team.totals.map(|totals| totals.messages.to_string()).unwrap_or_default());
    line("Replaced", team.totals.map(|totals| totals.replaced.to_string()).unwrap_or_default());
    line("Formed", format!("{} by {}", moment(team.created_at.as_ref(), now), team.formed_by));
    line("Disbanded", moment(team.disbanded_at.as_ref(), now));
    if !team.members.is_empty() {
        text.push('\n');
        text.push_str(&members_table(team));
    }
    text
}

fn leader(team: &Team) -> String {
    if team.leader.is_empty() {
        return String::new();
    }
    let score = team.leader_score.unwrap_or_default();
    format!(
        "{} in term {}, elected with {:.3} (experience {:.3}, reliability {:.3}, resources {:.3}, availability {:.3})",
        team.leader, team.term, score.total, score.experience, score.reliability, score.resources, score.availability
    )
}

fn tasks(team: &Team) -> String {
    let totals = team.totals.unwrap_or_default();
    format!(
        "{}: {} succeeded in {:.0} ms on average, {} failed, {} unfinished",
        totals.tasks, totals.succeeded, totals.mean_latency_ms, totals.failed, totals.unfinished
    )
}

fn members_table(team: &Team) -> String {
    let others = team.members.len().saturating_sub(1);
    table(
        ["MEMBER", "PATHS", "SUCCEEDED", "FAILED", "BUSY", "MESSAGES", "NO PATH TO"],
        team.members.iter().map(|member| {
            let is_missing = |name: &String| *name != member.name && !member.reaches.contains(name);
            let missing = team.members.iter().map(|other| &other.name).filter(|name| is_missing(name));
            [
                member.name.clone(),
                format!("{} of {others}", member.reaches.len()),
                member.succeeded.to_string(),
                member.failed.to_string(),
                format!("{:.1}%", member.utilisation * 100.0),
                member.messages.to_string(),
                missing.cloned().collect::<Vec<_>>().join(", "),
            ]
        }),
    )
}

#[cfg(test)]
mod tests {
    use prost_types::Timestamp as Time;
    use robeing_proto::v1::team::{LeaderScore, Member, Totals};

    use super::*;

    const NOW: i64 = 1_700_000_000;

    fn team() -> Team {
        let at = |seconds: i64| Some(Time { seconds: NOW + seconds, nanos: 0 });
        let member = |name: &str, reaches: &[&str]| Member {
            name: name.into(),
            reaches: reaches.iter().map(ToString::to_string).collect(),
            utilisation: 0.25,
            ..Member::default()
        };
        let score = LeaderScore { experience: 0.5, reliability: 1.0, resources: 1.0, availability: 0.5, total: 0.75 };
        Team {
            id: "0190163d-8694-739b-aea5-966c26f8ad91".into(),
            purpose: "review\x1b[1m".into(),
            state: TeamState::Forming.into(),
            leader: "data-0".into(),
            term: 2,
            leader_score: Some(score),
            members: vec![member("data-0", &["data-1"]), member("data-1", &[])],
            size: 2,
            asked: 3,
            partial: true,
            skills: vec!["ocr".into()],
            formed_by: "client:cli".into(),
            created_at: at(-5),
            totals: Some(Totals { tasks: 3, succeeded: 2, mean_latency_ms: 12.4, unfinished: 1, ..Totals::default() }),
            ..Team::default()
        }
    }

    fn now() -> Timestamp {
        Timestamp::new(NOW, 0).expect("a time")
    }

    #[test]
    fn a_team_lists_its_members_and_the_paths_that_are_missing() {
        let text = team_text(&team(), now());
        for line in [
            "Purpose:        review [1m\n",
            "State:          Forming\n",
            "Members:        2 of 2 (asked for: 3)\n",
            "Leader:         data-0 in term 2, elected with 0.750 (experience 0.500, ",
            "Tasks:          3: 2 succeeded in 12 ms on average, 0 failed, 1 unfinished\n",
        ] {
            assert!(text.contains(line), "{line:?} is not in {text}");
        }
        let last = text.lines().last().unwrap_or_default();
        assert!(last.starts_with("data-1   0 of 1 ") && last.ends_with("   data-0"), "{text}");
    }

    #[test]
    fn teams_are_a_table() {
        let text = teams_table(&[team()], now());
        assert!(text.starts_with("ID  ") && text.contains("   data-0   2 "), "{text}");
        assert_eq!(teams_table(&[], now()), "no teams\n");
    }
}
