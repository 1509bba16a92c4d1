//! What is known of every task whose result is verified, and the checks of how each has ended.

use std::collections::{BTreeMap, BTreeSet};

use robeing_proto::v1::{self, AttemptState, FailureKind, TaskState};

use super::{meaning, says};
use crate::checks::{Check, Wrong};

/// What the message of a task says of whose outputs two could not be compared.
const INCOMPARABLE: &str = "could not be compared";

/// A task that a client has asked for.
struct Known {
    /// The number of agents that run it, and how many of them must agree.
    agents: usize,
    agree: usize,
    /// Whether other tasks say which outputs are equal.
    is_compared: bool,
    /// The agents whose executors had an answer.
    answered: BTreeSet<String>,
    ended: Option<TaskState>,
}

/// The tasks of a run whose results are verified.
#[derive(Default)]
pub struct VerifiedLedger {
    tasks: BTreeMap<String, Known>,
}

/// What the agents of a task have said.
struct Said<'a> {
    id: &'a str,
    /// Their names, in the order of their answers.
    agents: Vec<&'a str>,
}

impl Said<'_> {
    /// Returns how many have said so.
    fn count(&self, output: &str) -> usize {
        self.agents.iter().filter(|agent| says(self.id, agent) == output).count()
    }

    /// Returns how many agree on the output that most agree on.
    fn most(&self) -> usize {
        self.agents.iter().map(|agent| self.count(&says(self.id, agent))).max().unwrap_or(0)
    }
}

fn of_state<'a>(task: &'a v1::Task, states: &[AttemptState]) -> Vec<&'a str> {
    let attempts = task.attempts.iter().filter(|attempt| states.contains(&attempt.state()));
    attempts.map(|attempt| attempt.agent.as_str()).collect()
}

/// Returns what is wrong with what was found about the outputs of a task.
fn wrong_comparison(task: &v1::Task) -> Option<String> {
    let agent = |number: u32| {
        let attempt = task.attempts.iter().find(|attempt| attempt.number == number);
        attempt.map(|attempt| attempt.agent.as_str())
    };
    task.comparisons.iter().find_map(|found| {
        let (one, other) = (agent(found.one)?, agent(found.other)?);
        if [one, other].contains(&found.agent.as_str()) {
            return Some(format!("has had {one} and {other} compared by one of them"));
        }
        let is_equal = says(&task.id, one) == says(&task.id, other);
        let is_wrong = found.equal.is_some_and(|equal| equal != is_equal);
        is_wrong.then(|| format!("counts {one} and {other} as {:?}, and they are not", found.equal))
    })
}

impl Known {
    /// Returns what is wrong with the end of a task.
    fn wrong(&self, task: &v1::Task) -> Option<String> {
        let agents = of_state(task, &[AttemptState::Succeeded, AttemptState::Outvoted]);
        let different: BTreeSet<&str> = agents.iter().copied().collect();
        if different.len() != agents.len() || agents.len() > self.agents {
            return Some(format!("counts the answers of {agents:?}, of {} different agents", self.agents));
        }
        if let Some(silent) = agents.iter().find(|agent| !self.answered.contains(**agent)) {
            return Some(format!("counts an answer of {silent}, which gave none"));
        }
        if let Some(wrong) = wrong_comparison(task) {
            return Some(wrong);
        }
        let said = Said { id: &task.id, agents };
        match task.state() {
            TaskState::Succeeded => self.wrong_result(task, &said),
            TaskState::Failed => self.wrong_failure(task, &said),
            other => Some(format!("is {other:?}")),
        }
    }

    fn wrong_result(&self, task: &v1::Task, said: &Said<'_>) -> Option<String> {
        let output = String::from_utf8_lossy(&task.output);
        let output = meaning(&output);
        let agreeing = said.count(output);
        if agreeing < self.agree {
            return Some(format!("has the result {output:?}, which {agreeing} of {:?} gave", said.agents));
        }
        let outvoted = of_state(task, &[AttemptState::Outvoted]);
        let mut agents = said.agents.iter();
        let miscounted = agents.find(|agent| (says(&task.id, agent) == output) == outvoted.contains(agent));
        miscounted.map(|agent| format!("has the result {output:?}, and counts {agent} on the other side"))
    }

    fn wrong_failure(&self, task: &v1::Task, said: &Said<'_>) -> Option<String> {
        let kind = task.failure.as_ref().map(|failure| failure.kind());
        let failed = of_state(task, &[AttemptState::Failed, AttemptState::TimedOut, AttemptState::Lost]).len();
        let left = self.agents.saturating_sub(said.agents.len() + failed);
        let most = said.most();
        let is_incomparable = |failure: &v1::Failure| failure.message.contains(INCOMPARABLE);
        let is_incomparable = self.is_compared && task.failure.as_ref().is_some_and(is_incomparable);
        match kind {
            Some(FailureKind::Disagreement) if is_incomparable => None,
            Some(FailureKind::Disagreement) if most + left >= self.agree => {
                Some(format!("has failed for disagreement, although {most} agreed and {left} could answer"))
            }
            // Nobody may have been there to compare their outputs.
            Some(FailureKind::Deadline) if most >= self.agree && !self.is_compared => {
                Some(format!("is late, although {most} agreed"))
            }
            Some(FailureKind::Disagreement | FailureKind::Deadline) => None,
            other => Some(format!("has failed for {other:?}")),
        }
    }
}

impl VerifiedLedger {
    /// Records that a client asks for a task that runs on so many agents, of which so many must agree, as other tasks say or
    /// not.
    pub fn asks(&mut self, id: &str, agents: usize, agree: usize, is_compared: bool) {
        let known = Known { agents, agree, is_compared, answered: BTreeSet::new(), ended: None };
        self.tasks.insert(id.to_owned(), known);
    }

    /// Records that an agent's executor has an answer.
    pub fn answers(&mut self, id: &str, agent: &str) {
        if let Some(known) = self.tasks.get_mut(id) {
            known.answered.insert(agent.to_owned());
        }
    }

    /// Records how a task has ended, as a client reads it with all its attempts.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn ends(&mut self, task: &v1::Task) -> Result<(), Wrong> {
        let Some(known) = self.tasks.get_mut(&task.id) else { return Ok(()) };
        known.ended = Some(task.state());
        match known.wrong(task) {
            None => Ok(()),
            Some(what) => Err((Check::Verified, format!("task {}, whose result is verified, {what}", task.id))),
        }
    }

    /// Returns the number of tasks with a result, and of those that failed.
    pub fn counts(&self) -> [usize; 2] {
        let of = |state: TaskState| self.tasks.values().filter(|known| known.ended == Some(state)).count();
        [of(TaskState::Succeeded), of(TaskState::Failed)]
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_proto::v1::{Attempt, Failure};

    use super::*;
    use crate::verified::truth;

    const ID: &str = "task";

    /// Returns the names of agents of which so many tell the truth, so many lie alike, and so many each for itself.
    fn agents(right: usize, alike: usize, alone: usize) -> Vec<String> {
        let names = || (0..1_000).map(|n| format!("agent-{n}"));
        let lie = format!("{ID} is false");
        let honest = names().filter(|name| says(ID, name) == truth(ID)).take(right);
        let liars = names().filter(|name| says(ID, name) == lie).take(alike);
        let lone = names().filter(|name| says(ID, name) != lie && says(ID, name) != truth(ID)).take(alone);
        honest.chain(liars).chain(lone).collect()
    }

    /// Returns the end of a task that ran on these agents.
    fn ended(agents: &[String], output: Result<&str, FailureKind>) -> v1::Task {
        let attempt = |agent: &String| {
            let is_outvoted = output.is_ok_and(|output| says(ID, agent) != output);
            let state = if is_outvoted { AttemptState::Outvoted } else { AttemptState::Succeeded };
            Attempt { agent: agent.clone(), state: state.into(), ..Attempt::default() }
        };
        v1::Task {
            id: ID.to_owned(),
            state: if output.is_ok() { TaskState::Succeeded } else { TaskState::Failed }.into(),
            attempts: agents.iter().map(attempt).collect(),
            output: Bytes::copy_from_slice(output.unwrap_or_default().as_bytes()),
            failure: output.err().map(|kind| Failure { kind: kind.into(), ..Failure::default() }),
            ..v1::Task::default()
        }
    }

    fn is_right(agents: &[String], task: &v1::Task) -> bool {
        let mut ledger = VerifiedLedger::default();
        ledger.asks(ID, 3, 2, false);
        agents.iter().for_each(|agent| ledger.answers(ID, agent));
        ledger.ends(task).is_ok()
    }

    fn holds(agents: &[String], output: Result<&str, FailureKind>) -> bool {
        is_right(agents, &ended(agents, output))
    }

    #[test]
    fn a_result_is_what_enough_agents_gave() {
        let (right, lie) = (truth(ID), format!("{ID} is false"));
        assert!(holds(&agents(2, 0, 0), Ok(&right)) && holds(&agents(2, 1, 0), Ok(&right)));
        assert!(!holds(&agents(1, 0, 0), Ok(&right)), "one gave it");
        assert!(!holds(&agents(1, 1, 0), Ok(&lie)), "one gave it");
        assert!(holds(&agents(1, 2, 0), Ok(&lie)), "two liars say the same");
        assert!(!holds(&agents(2, 1, 0), Ok("other")), "nobody gave it");
    }

    #[test]
    fn an_agent_answers_once_and_only_what_it_has_run() {
        let right = truth(ID);
        let all = agents(2, 0, 0);
        let twice = [all[0].clone(), all[0].clone()];
        assert!(!holds(&twice, Ok(&right)));
        let more = agents(4, 0, 0);
        assert!(!holds(&more, Ok(&right)), "it is one too many");
        assert!(!is_right(&all[..1], &ended(&all, Ok(&right))), "one of them has not run it");
        let mut miscounted = ended(&agents(2, 1, 0), Ok(&right));
        miscounted.attempts[2].state = AttemptState::Succeeded.into();
        assert!(!is_right(&agents(2, 1, 0), &miscounted));
    }

    #[test]
    fn what_is_found_equal_means_the_same_and_nobody_judges_its_own_output() {
        let right = truth(ID);
        let all = agents(2, 1, 0);
        let holds = |one, other, agent: &str, equal| {
            let mut task = ended(&all, Ok(&format!("{right}, as {}", all[0])));
            for (number, attempt) in (1..).zip(&mut task.attempts) {
                attempt.number = number;
                let state = if number == 3 { AttemptState::Outvoted } else { AttemptState::Succeeded };
                attempt.state = state.into();
            }
            task.comparisons = vec![v1::Comparison { one, other, agent: agent.to_owned(), equal: Some(equal) }];
            is_right(&all, &task)
        };
        assert!(holds(1, 2, "judge", true) && holds(1, 3, "judge", false));
        assert!(!holds(1, 2, "judge", false) && !holds(1, 3, "judge", true));
        assert!(!holds(1, 2, &all[1], true));
    }

    #[test]
    fn a_task_fails_for_disagreement_only_if_too_few_can_agree() {
        use FailureKind::{AgentLost, Deadline, Disagreement};
        assert!(holds(&agents(1, 1, 1), Err(Disagreement)));
        assert!(!holds(&agents(1, 1, 0), Err(Disagreement)), "the third one can agree with either");
        assert!(!holds(&agents(2, 1, 0), Err(Disagreement)));
        assert!(holds(&agents(1, 1, 0), Err(Deadline)));
        assert!(!holds(&agents(2, 0, 0), Err(Deadline)));
        assert!(!holds(&agents(1, 0, 0), Err(AgentLost)));
        let cancelled = v1::Task { state: TaskState::Cancelled.into(), ..ended(&[], Err(Deadline)) };
        assert!(!is_right(&[], &cancelled));
    }
}
