//! The example in `examples/review`, used with the commands of its README, on any fleet.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;

use crate::{
    documented,
    terminal::{Ended, Terminal},
    wait::{check, eventually_within},
};

/// The README of the example.
pub const README: &str = "examples/review/README.md";
/// The time within which the commands of one step must end, also on Kubernetes on a busy machine.
const STEP: Duration = Duration::from_secs(120);
/// The time within which something must happen that takes several such steps.
const STEPS: Duration = Duration::from_secs(360);
/// How often the liar is outvoted at least before it is quarantined.
const OUTVOTES: u64 = 10;

/// The user of a fleet that reviews documents.
#[derive(Debug)]
pub struct Review {
    terminal: Terminal,
    /// Begins all scripts.
    setup: String,
}

/// Who plays which part: the agents that lie and die, and the member of the ballot that is the user.
#[derive(Clone, Debug)]
struct Parts {
    liar: String,
    victim: String,
    user: String,
}

impl Review {
    /// Creates the user of a fleet for which these commands are to be run before all others.
    pub fn new(terminal: Terminal, setup: &str) -> Self {
        Self { terminal, setup: setup.to_owned() }
    }

    /// Returns where the commands run.
    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    /// Returns a script that can be run in any folder.
    pub fn anywhere(script: &str) -> String {
        script.replace("examples/", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/"))
    }

    async fn run(&self, script: &str) -> Ended {
        let script = Self::anywhere(&format!("{}\n{script}", self.setup));
        self.terminal.shell_within(STEP, &script).await
    }

    async fn json(&self, command: &str) -> Vec<Value> {
        let ended = self.run(command).await;
        let json = ended.success().lines().collect::<Vec<_>>().join(" ");
        let values = serde_json::Deserializer::from_str(&json).into_iter::<Value>();
        let values: Result<Vec<Value>, _> = values.collect();
        let values = values.unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        values.into_iter().flat_map(|value| value.as_array().cloned().unwrap_or_else(|| vec![value])).collect()
    }

    /// Goes through all that the README shows.
    ///
    /// # Panics
    /// If something does not come out as it says.
    pub async fn is_as_documented(&self) {
        let blocks = documented::commands(README, "The commands");
        let [review, dies, lies, again, release] = &blocks[..] else { panic!("five steps: {blocks:?}") };
        let parts = self.parts().await;
        self.is_reviewed_right(review, |_| true).await;
        self.is_reviewed_right(dies, |_| true).await;
        self.who_said_what(lies, &parts).await;
        let is_quarantined = |stdout: &str| {
            stdout.lines().any(|line| line.starts_with(&*parts.liar) && line.contains("(in quarantine)"))
        };
        self.is_reviewed_right(again, is_quarantined).await;
        self.is_reported(&parts).await;
        self.is_released(release, &parts).await;
    }

    async fn parts(&self) -> Parts {
        let ended = self.run("echo $liar $victim $me").await;
        let names: Vec<&str> = ended.success().split_whitespace().collect();
        let [liar, victim, user] = names[..] else { panic!("three names: {ended:?}") };
        Parts { liar: liar.to_owned(), victim: victim.to_owned(), user: user.to_owned() }
    }

    /// Runs a step that reviews all documents, until `holds` returns true for what it prints. The numbers of open
    /// points are right each time. A fleet that has just started may refuse a step, because its version is about to be
    /// raised.
    async fn is_reviewed_right(&self, step: &str, holds: impl Fn(&str) -> bool) {
        let expected = open_points_of_documents();
        eventually_within(STEPS, step, async || {
            let ended = self.run(step).await;
            let is_accepted = ended.code == Some(0) && !ended.stderr.contains(" was refused (");
            if is_accepted {
                assert_eq!(open_points(&ended.stdout), expected, "{ended:#?}");
            }
            check(is_accepted && holds(&ended.stdout), (), ended)
        })
        .await;
    }

    /// An agent is bribed, and outvoted, which the task and the audit log tell.
    async fn who_said_what(&self, step: &str, parts: &Parts) {
        let ended = self.run(step).await;
        let shown = ended.success();
        assert!(shown.contains("4 of 6 agents must give the same output at \"/open\""), "{ended:#?}");
        assert!(shown.contains(&format!("{} (Outvoted)", parts.liar)), "{ended:#?}");
        assert!(shown.matches(" (Succeeded)\n").count() >= 4, "{ended:#?}");
        assert!(shown.contains("{\"open\": 1,"), "{ended:#?}");
        let is_told = |line: &str| line.contains("result.outvoted") && line.contains(&*parts.liar);
        assert!(shown.lines().any(is_told), "{ended:#?}");
    }

    /// The guardian has flagged and quarantined the liar, and nobody else, and its record is the worst.
    async fn is_reported(&self, parts: &Parts) {
        let records = self.json("robeing audit -o json").await;
        let by_guardians = |action: &str| -> Vec<&Value> {
            let is_it = |record: &&Value| record["action"] == action && text(record, "actor").starts_with("guardian/");
            records.iter().filter(is_it).collect()
        };
        let (flags, quarantines) = (by_guardians("agent.flag"), by_guardians("agent.quarantine"));
        for found in [&flags, &quarantines] {
            assert!(!found.is_empty(), "{records:#?}");
            assert!(found.iter().all(|record| text(record, "subject") == parts.liar), "{records:#?}");
        }
        assert!(text(quarantines[0], "detail").contains("outvoted "), "{records:#?}");

        let agents = self.json("robeing agents --all -o json").await;
        let liar = agents.iter().find(|agent| text(agent, "name") == parts.liar);
        let liar = liar.unwrap_or_else(|| panic!("it is listed: {agents:#?}"));
        assert!(number(liar, "failed") >= OUTVOTES, "{liar:#}");
        let is_other = |agent: &&Value| {
            let name = text(agent, "name");
            number(agent, "succeeded") > 0 && name != parts.liar && name != parts.victim
        };
        let others: Vec<&Value> = agents.iter().filter(is_other).collect();
        assert!(others.len() >= 4, "the others have worked: {agents:#?}");
        assert!(others.iter().all(|other| performance(liar) < performance(other)), "{agents:#?}");
    }

    /// A release waits for the user, and is made when the user approves it.
    async fn is_released(&self, step: &str, parts: &Parts) {
        let ended = self.run(step).await;
        let shown = ended.success();
        assert!(shown.contains("Waiting for:    approval by ballot "), "{ended:#?}");
        let is_approved = |line: &str| line.starts_with("State:") && line.ends_with("Approved");
        assert!(shown.lines().any(is_approved), "{ended:#?}");
        assert!(shown.contains(&*parts.user) && shown.contains("I have read the notes"), "{ended:#?}");
        let result = shown.lines().last().unwrap_or_default();
        let digest = result.strip_prefix("released ").unwrap_or_default();
        assert!(digest.len() == 16 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{ended:#?}");
    }
}

/// Returns a text of an object; an empty one if it has none.
fn text<'a>(object: &'a Value, name: &str) -> &'a str {
    object[name].as_str().unwrap_or_default()
}

/// Returns a number of an object, which the JSON form of the API writes as text and leaves out if it is 0.
fn number(object: &Value, name: &str) -> u64 {
    text(object, name).parse().unwrap_or_default()
}

fn performance(agent: &Value) -> f64 {
    agent["performance"].as_f64().unwrap_or_default()
}

/// Returns the numbers of open points in what `robeing submit --wait` prints of many reviews, in their order.
fn open_points(printed: &str) -> Vec<usize> {
    let number = |rest: &str| rest.split(',').next().and_then(|number| number.parse().ok());
    printed.split("{\"open\": ").skip(1).filter_map(number).collect()
}

/// Returns how many points are open in each document.
fn open_points_of_documents() -> Vec<usize> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/review/documents.jsonl");
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let document = |line: &str| serde_json::from_str::<String>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let open = |document: String| document.lines().filter(|line| line.contains("TODO")).count();
    text.lines().map(|line| open(document(line))).collect()
}
