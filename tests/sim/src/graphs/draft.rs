//! Graphs as the organizer submits them.

use bytes::Bytes;
use robeing_fleet::{TaskId, child_id};
use robeing_platform::Platform;
use robeing_proto::v1::{self, Join, OnFailure};

use super::work::{Does, Labelled, Piece, labelled};
use crate::{clients::below, executor::Needs, profile::between, tasks};

/// The number of tasks of a graph, without parts and subtasks.
const TASKS: (u64, u64) = (3, 6);
/// The number of parts of a task that is split.
const PARTS: (u64, u64) = (2, 5);
/// A task depends on one of this many earlier ones.
const DEPENDS_ONE_OF: u64 = 2;
/// One of this many tasks is cancelled.
const CANCELLED_ONE_OF: u64 = 6;
/// The priority: the highest, so that other tasks do not delay it.
const PRIORITY: u32 = 10;

/// What is done for a task.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// It is run.
    Runs(Piece),
    /// It is split.
    Split {
        /// What it makes of its parts.
        join: Join,
        /// How many parts have to succeed for [`Join::Quorum`].
        quorum: u32,
        /// Its parts.
        parts: Vec<Piece>,
    },
}

/// A task of a graph.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its id.
    pub id: String,
    /// The tasks that it depends on, and what their failures mean for it.
    pub depends_on: Vec<(String, OnFailure)>,
    /// What is done for it.
    pub work: Work,
    /// Whether it is cancelled after a while.
    pub is_cancelled: bool,
}

/// Draws a graph. The tasks are in an order in which each depends on earlier ones alone.
pub fn draw(platform: &Platform) -> Vec<Node> {
    let random = &*platform.random;
    let mut nodes: Vec<Node> = Vec::new();
    for n in 0..between(random, TASKS) {
        let depends = nodes.iter().filter(|_| below(random, DEPENDS_ONE_OF) == 0);
        let depends_on = depends.map(|node| {
            let on_failure = match below(random, 4) {
                0 => OnFailure::Skip,
                1 => OnFailure::Run,
                _ => OnFailure::Fail,
            };
            (node.id.clone(), on_failure)
        });
        let depends_on: Vec<(String, OnFailure)> = depends_on.collect();
        nodes.push(Node {
            id: tasks::new_id(platform),
            depends_on,
            work: Work::draw(platform, n),
            is_cancelled: below(random, CANCELLED_ONE_OF) == 0,
        });
    }
    nodes
}

impl Work {
    /// Draws what is done for the task with this number. Each graph has some that are split, and some that ask.
    fn draw(platform: &Platform, number: u64) -> Self {
        let random = &*platform.random;
        let piece = Piece::draw(random);
        match (number, below(random, 6)) {
            (0, _) | (2.., 0 | 1) => {
                let parts: Vec<Piece> = (0..between(random, PARTS)).map(|_| Piece::draw(random)).collect();
                let joins = [Join::All, Join::Settled, Join::Any, Join::Quorum, Join::Reduce];
                let join = joins[below(random, joins.len() as u64) as usize];
                let quorum = if join == Join::Quorum { 1 + below(random, parts.len() as u64) as u32 } else { 0 };
                Self::Split { join, quorum, parts }
            }
            (1, _) | (2.., 2) => Self::Runs(Piece { does: Does::Ask, ..piece }),
            _ => Self::Runs(piece),
        }
    }
}

impl Node {
    /// Returns its parts, if it is split.
    pub fn parts(&self) -> Labelled {
        match &self.work {
            Work::Runs(_) => Vec::new(),
            Work::Split { parts, .. } => labelled(&self.id, parts),
        }
    }

    /// Returns the parts as tasks of their own, which depend on the same tasks.
    pub fn parts_as_nodes(&self) -> Vec<Self> {
        let id = uuid::Uuid::parse_str(&self.id).expect("an id that was drawn").as_u128();
        let part = |(index, (piece, _)): (u32, (Piece, String))| Self {
            id: child_id(TaskId(id), index).to_string(),
            depends_on: self.depends_on.clone(),
            work: Work::Runs(piece),
            is_cancelled: false,
        };
        (0..).zip(self.parts()).map(part).collect()
    }

    /// Returns the submission.
    pub fn spec(&self, submitter: &str) -> v1::TaskSpec {
        let dependency = |(task, on_failure): &(String, OnFailure)| v1::Dependency {
            task: task.clone(),
            on_failure: (*on_failure).into(),
        };
        let inputs: Vec<Bytes> = self.parts().iter().map(|(piece, label)| piece.input(label)).collect();
        let (piece, split) = match &self.work {
            Work::Runs(piece) => (*piece, None),
            Work::Split { join, quorum, .. } => {
                let split = v1::Split { join: (*join).into(), quorum: *quorum, ..v1::Split::default() };
                (Piece { does: Does::Succeed, ms: 0 }, Some(split))
            }
        };
        v1::TaskSpec {
            id: self.id.clone(),
            kind: Needs::Nothing.kind(),
            input: piece.input(&self.id),
            priority: PRIORITY,
            submitter: submitter.to_owned(),
            depends_on: self.depends_on.iter().map(dependency).collect(),
            split,
            inputs,
            ..v1::TaskSpec::default()
        }
    }
}
