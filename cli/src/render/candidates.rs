//! The agents that could take a task, and why they don't, for people.

use std::fmt::Write;

use robeing_proto::v1::{Candidate, Task};

use super::{
    table::table,
    words::{agent_word, plural},
};

/// Formats the agents that could take a task, those first that can take it now, with the terms of their scores and what keeps
/// the others from it; nothing if no agent was looked at.
pub(super) fn candidates_text(task: &Task) -> String {
    let Task { candidates, candidates_left, unfit_agents, .. } = task;
    if candidates.is_empty() && *unfit_agents == 0 {
        return String::new();
    }
    let mut text = String::from("\n");
    if candidates.is_empty() {
        text.push_str("No agent has what it requires.\n");
    } else {
        text.push_str("Agents that have what it requires:\n");
        text.push_str(&table(
            ["AGENT", "STATE", "SCORE", "SPECIALIZATION", "LOAD", "PERFORMANCE", "FREE SLOTS", "WHY NOT"],
            candidates.iter().map(row),
        ));
    }
    let mut rest = Vec::new();
    if *candidates_left > 0 {
        let (have, scores) = if *candidates_left == 1 { ("has", "a lower score") } else { ("have", "lower scores") };
        rest.push(format!("{} more {have} it, with {scores}", plural(*candidates_left as usize, "agent")));
    }
    if *unfit_agents > 0 {
        let lack = if *unfit_agents == 1 { "lacks" } else { "lack" };
        rest.push(format!("{} {lack} the role or a specialization", plural(*unfit_agents as usize, "agent")));
    }
    if !rest.is_empty() {
        // Writing to a string can't fail.
        let _ = writeln!(text, "{}.", rest.join("; "));
    }
    text
}

fn row(candidate: &Candidate) -> [String; 8] {
    let score = candidate.score.unwrap_or_default();
    [
        candidate.agent.clone(),
        agent_word(candidate.state()),
        format!("{:.1}", score.total),
        format!("{:+.1}", score.specialization),
        format!("{:+.1}", score.load),
        format!("{:+.1}", score.performance),
        candidate.free_slots.to_string(),
        if candidate.why_not.is_empty() { "it can".to_owned() } else { candidate.why_not.clone() },
    ]
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::{AgentState, Score};

    use super::*;

    #[test]
    fn candidates_are_shown_with_their_terms_and_what_keeps_them() {
        let candidate = |agent: &str, why_not: &str| Candidate {
            agent: agent.into(),
            state: AgentState::Live.into(),
            score: Some(Score { specialization: 50.0, load: -2.5, performance: 9.25, total: 56.75 }),
            why_not: why_not.into(),
            ..Candidate::default()
        };
        let candidates = vec![candidate("a", ""), candidate("b", "it is busy\nnow")];
        let text = candidates_text(&Task { candidates, candidates_left: 1, unfit_agents: 2, ..Task::default() });
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[3], ["a", "Live", "56.8", "+50.0", "-2.5", "+9.2", "0", "it", "can"]);
        assert_eq!(lines[4][7..], ["it", "is", "busy", "now"]);
        let last = "1 agent more has it, with a lower score; 2 agents lack the role or a specialization.\n";
        assert!(text.ends_with(last), "{text}");
    }

    #[test]
    fn that_no_agent_has_what_a_task_requires_is_said_if_agents_were_looked_at() {
        assert_eq!(candidates_text(&Task::default()), "");
        let text = candidates_text(&Task { unfit_agents: 1, ..Task::default() });
        assert_eq!(text, "\nNo agent has what it requires.\n1 agent lacks the role or a specialization.\n");
    }
}
