//! Ballots as a client asks for them.

use std::time::Duration;

use robeing_platform::Random;
use robeing_proto::v1::{self, ElectorAddress, OpenBallotRequest, ballot::Member};
use robeing_settings::AgentRole;

use super::recount::Threshold;
use crate::{
    clients::below,
    hosts::{POOL, WORKERS},
    mail::agents,
    profile::between,
    tasks::{self, SPECIALIZATION},
};

/// People who vote; the client that opens ballots votes for them.
pub const PEOPLE: [&str; 3] = ["client:ada", "client:bob", "client:cyd"];
/// Begins the names of people.
pub const PERSON: &str = "client:";
/// The thresholds.
const THRESHOLDS: [Threshold; 8] = [
    Threshold { text: "", numerator: 2, denominator: 3 },
    Threshold { text: "2/3", numerator: 2, denominator: 3 },
    Threshold { text: "1/2", numerator: 1, denominator: 2 },
    Threshold { text: "100%", numerator: 1, denominator: 1 },
    Threshold { text: "66%", numerator: 33, denominator: 50 },
    Threshold { text: "0.51", numerator: 51, denominator: 100 },
    Threshold { text: "1/3", numerator: 1, denominator: 3 },
    Threshold { text: "0.000000001", numerator: 1, denominator: 1_000_000_000 },
];
/// How long ballots are open, in milliseconds: shorter than an election and the recovery from it, or longer.
const SHORT: (u64, u64) = (200, 2_500);
const LONG: (u64, u64) = (4_000, 14_000);
/// One of this many ballots has the short time.
const SHORT_ONE_OF: u64 = 3;
/// One of this many ballots has options.
const OPTIONS_ONE_OF: u64 = 3;
/// The number of addresses of agents, from the first bound to the second, exclusive.
const ADDRESSES: (u64, u64) = (1, 4);
/// One of this many addresses has no weight, which means 1; the others have up to [`MOST_WEIGHT`].
const NO_WEIGHT_ONE_OF: u64 = 3;
const MOST_WEIGHT: u64 = 5;

/// An address of an electorate.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Addressed {
    /// As a client writes it.
    pub address: String,
    /// The weight of each member, 0 for the default of 1.
    pub weight: u32,
    /// Whom it may stand for.
    pub names: Vec<String>,
    /// Whether it names one member, which is there even if it is away.
    pub is_name: bool,
}

/// A ballot as a client asks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Draft {
    /// The question.
    pub question: String,
    /// Whether a task with the ballot's id waits for it. Then the question comes after one that names the task.
    pub is_of_task: bool,
    /// The options.
    pub options: Vec<String>,
    /// Who votes.
    pub electorate: Vec<Addressed>,
    /// The share that must approve.
    pub threshold: Threshold,
    /// How long it is open at most.
    pub ttl: Duration,
}

impl Addressed {
    fn draw(random: &dyn Random, address: String, names: Vec<String>, is_name: bool) -> Self {
        let weight = match below(random, NO_WEIGHT_ONE_OF) {
            0 => 0,
            _ => 1 + below(random, MOST_WEIGHT) as u32,
        };
        Self { address, weight, names, is_name }
    }

    /// Draws an address of agents, the last of which has this role.
    fn of_agents(random: &dyn Random, odd_role: AgentRole) -> Self {
        let all = agents();
        let named = all[below(random, all.len() as u64) as usize].clone();
        let specialists = all.len() - usize::from(odd_role != AgentRole::Specialist);
        let (address, names) = match below(random, 7) {
            0 => (named.clone(), vec![named]),
            1 => (format!("agent:{named}"), vec![named]),
            2 => ("everyone".to_owned(), all),
            3 => ("role:worker".to_owned(), all[..WORKERS].to_vec()),
            4 => (format!("pool:{POOL}"), all[..WORKERS].to_vec()),
            5 => (format!("skill:{SPECIALIZATION}"), all[WORKERS..].to_vec()),
            _ => ("role:specialist".to_owned(), all[WORKERS..specialists].to_vec()),
        };
        let is_name = names.iter().any(|name| address.ends_with(name));
        Self::draw(random, address, names, is_name)
    }
}

impl Draft {
    /// Draws the ballot of this number. The first one has people alone, so that there is always one that can be opened.
    /// `odd_role` is the role of the last agent.
    pub fn draw(random: &dyn Random, number: usize, odd_role: AgentRole) -> Self {
        let of_agents = if number == 0 { 0 } else { between(random, ADDRESSES) };
        let mut electorate: Vec<Addressed> = (0..of_agents).map(|_| Addressed::of_agents(random, odd_role)).collect();
        for person in PEOPLE {
            if number == 0 || below(random, 2) == 0 {
                electorate.push(Addressed::draw(random, person.to_owned(), vec![person.to_owned()], true));
            }
        }
        let options = if below(random, OPTIONS_ONE_OF) == 0 { 2 + below(random, 3) } else { 0 };
        let ttl = between(random, if below(random, SHORT_ONE_OF) == 0 { SHORT } else { LONG });
        Self {
            question: format!("Shall it be done, for the time number {number}?"),
            is_of_task: false,
            options: (1..=options).map(|option| format!("option {option}")).collect(),
            electorate,
            threshold: THRESHOLDS[below(random, THRESHOLDS.len() as u64) as usize],
            ttl: Duration::from_millis(ttl),
        }
    }

    /// Draws the ballot that the task of this number waits for, as [`Draft::draw`] does.
    pub fn of_task(random: &dyn Random, number: usize, odd_role: AgentRole) -> Self {
        Self { options: Vec::new(), is_of_task: true, ..Self::draw(random, number, odd_role) }
    }

    /// Returns the request that opens it under this id.
    pub fn request(&self, id: &str) -> OpenBallotRequest {
        let address = |of: &Addressed| ElectorAddress { address: of.address.clone(), weight: of.weight };
        OpenBallotRequest {
            id: id.to_owned(),
            question: self.question.clone(),
            options: self.options.clone(),
            electorate: self.electorate.iter().map(address).collect(),
            threshold: self.threshold.text.to_owned(),
            deadline: Some(tasks::millis(self.ttl.as_millis() as u64)),
            ..OpenBallotRequest::default()
        }
    }

    /// Returns what of a ballot is not what was asked for.
    pub fn wrong(&self, told: &v1::Ballot) -> Option<String> {
        let asks = match self.is_of_task {
            true => {
                let names_task = told.question.starts_with(&format!("May task {} of the kind ", told.id));
                names_task && told.question.ends_with(&format!("? {}", self.question))
            }
            false => told.question == self.question,
        };
        if !asks || told.options != self.options {
            return Some(format!("has the question {:?} with the options {:?}", told.question, told.options));
        }
        if !self.threshold.is(&told.threshold) || u128::from(told.ttl_ms) != self.ttl.as_millis() {
            return Some(format!("has the threshold {} and {} ms", told.threshold, told.ttl_ms));
        }
        None
    }

    /// Returns what of the members of a ballot is not what was asked for.
    pub fn wrong_members(&self, members: &[Member]) -> Option<String> {
        if members.is_empty() || !members.is_sorted_by(|one, next| one.name < next.name) {
            return Some("are not each there once".to_owned());
        }
        let is_there = |name: &String| members.iter().any(|member| member.name == *name);
        let mut named = self.electorate.iter().filter(|of| of.is_name).flat_map(|of| &of.names);
        if let Some(missing) = named.find(|name| !is_there(name)) {
            return Some(format!("are without {missing}"));
        }
        let odd = members.iter().find(|member| !self.has_asked_for(member));
        odd.map(|member| format!("have {member:?}, for which no address stands"))
    }

    fn has_asked_for(&self, member: &Member) -> bool {
        let fits = |of: &Addressed| of.names.contains(&member.name) && of.weight.max(1) == member.weight;
        // No agent has a certificate here.
        member.agent != member.name.starts_with(PERSON) && !member.signs && self.electorate.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use robeing_platform::simulated::SeededRandom;

    use super::*;

    fn member(name: &str, weight: u32) -> Member {
        Member { name: name.to_owned(), weight, agent: !name.starts_with(PERSON), signs: false }
    }

    #[test]
    fn some_ballots_have_each_kind_of_address_and_the_first_one_people_alone() {
        let random = SeededRandom::new(1);
        let all: Vec<Draft> = (0..200).map(|n| Draft::draw(&random, n % 8, AgentRole::Guardian)).collect();
        let kinds = all.iter().flat_map(|draft| &draft.electorate).map(|of| of.address.split('-').next());
        let kinds: BTreeSet<&str> = kinds.flatten().collect();
        for kind in ["agent", "agent:agent", "everyone", "role:worker", "role:specialist", "pool:work", "client:ada"] {
            assert!(kinds.contains(kind), "{kind} is not in {kinds:?}");
        }
        for first in all.iter().step_by(8) {
            assert_eq!(first.electorate.iter().map(|of| of.address.as_str()).collect::<Vec<_>>(), PEOPLE);
        }
        for of in all.iter().flat_map(|draft| &draft.electorate) {
            let is_group = ["everyone", "role:", "pool:", "skill:"].iter().any(|kind| of.address.starts_with(kind));
            assert_eq!(of.is_name, !is_group, "{of:?}");
            assert!(!of.names.is_empty(), "{of:?}");
        }
    }

    #[test]
    fn the_question_about_a_task_names_it() {
        let draft = Draft::of_task(&SeededRandom::new(1), 1, AgentRole::Guardian);
        let told = |question: String| v1::Ballot {
            id: "7".to_owned(),
            question,
            threshold: format!("{}/{}", draft.threshold.numerator, draft.threshold.denominator),
            ttl_ms: draft.ttl.as_millis() as u64,
            ..v1::Ballot::default()
        };
        let asked = |task: u32| format!("May task {task} of the kind \"k\" run with the input? {}", draft.question);
        assert_eq!(draft.wrong(&told(asked(7))), None);
        assert!(draft.wrong(&told(asked(8))).is_some());
        assert!(draft.wrong(&told(draft.question.clone())).is_some());
    }

    #[test]
    fn members_are_those_that_were_asked_for() {
        let of = |address: &str, weight, names: &[&str], is_name| Addressed {
            address: address.to_owned(),
            weight,
            names: names.iter().map(|name| (*name).to_owned()).collect(),
            is_name,
        };
        let mut draft = Draft::draw(&SeededRandom::new(1), 0, AgentRole::Guardian);
        draft.electorate =
            vec![of("pool:work", 2, &["agent-0", "agent-1"], false), of("client:ada", 0, &["client:ada"], true)];
        let wrong = |members: &[Member]| draft.wrong_members(members).is_some();
        assert!(!wrong(&[member("agent-0", 2), member("agent-1", 2), member("client:ada", 1)]));
        assert!(!wrong(&[member("agent-1", 2), member("client:ada", 1)]), "one may be on standby");
        assert!(wrong(&[member("agent-0", 2)]), "one who is named is missing");
        assert!(wrong(&[member("agent-0", 1), member("client:ada", 1)]), "the weight is another one");
        assert!(wrong(&[member("agent-3", 2), member("client:ada", 1)]), "it is in no pool");
        assert!(wrong(&[member("client:ada", 1), member("client:ada", 1)]));
        assert!(wrong(&[Member { signs: true, ..member("agent-0", 2) }, member("client:ada", 1)]));
    }
}
