//! What can be wrong with a manifest, in sentences.

use std::fmt;

use super::yaml::Places;
use crate::limits::{MAX_MANIFEST_BYTES, MAX_PROBLEMS};

/// A place in the text of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// The line, from 1.
    pub line: u64,
    /// The column in characters, from 1.
    pub column: u64,
}

/// One thing that is wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which document of the manifest, from 1. Not set when there is only one.
    pub document: Option<usize>,
    /// The path of the field, such as `spec.pools[1].executor`. Empty for the document as a whole.
    pub path: String,
    /// Where in the text the field is, or the nearest field around it.
    pub place: Option<Location>,
    /// A sentence that says what is wrong and what to change.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(document) = self.document {
            write!(f, "document {document}, ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{} ", self.path)?;
        }
        if let Some(place) = self.place {
            write!(f, "(line {}, column {})", place.line, place.column)?;
        }
        let leads = self.document.is_some() || !self.path.is_empty() || self.place.is_some();
        write!(f, "{}{}", if leads { ": " } else { "" }, self.message)
    }
}

/// A manifest was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The text is larger than [`MAX_MANIFEST_BYTES`].
    #[error("The manifest has more than {} MiB, which is the most that is read; is it the right file?", MAX_MANIFEST_BYTES >> 20)]
    TooLarge,
    /// There is no document in the text.
    #[error("The manifest is empty; it must hold a RobeingCluster.")]
    Empty,
    /// There is more than one cluster where one was expected.
    #[error("The manifest holds {} RobeingClusters ({}), but only one can be used here; keep one.", names.len(), names.join(", "))]
    Several {
        /// The names of the clusters.
        names: Vec<String>,
    },
    /// The text is not YAML, or more of it than is read.
    #[error("The manifest cannot be read as YAML{}: {reason}", place.map(|p| format!(" (line {}, column {})", p.line, p.column)).unwrap_or_default())]
    Syntax {
        /// Where the reading ended.
        place: Option<Location>,
        /// Why.
        reason: String,
    },
    /// The text is YAML, but not a `RobeingCluster` that the API server would take.
    #[error("{}", list(problems))]
    Invalid {
        /// What is wrong, in the order of the text; never empty.
        problems: Vec<Problem>,
    },
}

impl ManifestError {
    /// The problems of a manifest that is YAML; empty when it is not.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Invalid { problems } => problems,
            _ => &[],
        }
    }
}

fn list(problems: &[Problem]) -> String {
    let mut text = match problems.len() {
        1 => "The manifest has a problem:".to_owned(),
        MAX_PROBLEMS => format!("The manifest has {MAX_PROBLEMS} problems or more:"),
        count => format!("The manifest has {count} problems:"),
    };
    for problem in problems {
        text.push_str(&format!("\n  - {problem}"));
    }
    text
}

/// Gathers the problems of one document.
pub(super) struct Report<'a> {
    document: Option<usize>,
    places: &'a Places,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(document: Option<usize>, places: &'a Places) -> Self {
        Self { document, places, problems: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.problems.is_empty()
    }

    /// Whether there is a problem of the field at `path` itself.
    pub(super) fn names(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| problem.path == path)
    }

    /// Adds a problem, unless there are already as many as are reported.
    pub(super) fn add(&mut self, path: &str, message: String) {
        if self.problems.len() < MAX_PROBLEMS {
            let problem =
                Problem { document: self.document, path: path.to_owned(), place: self.places.nearest(path), message };
            self.problems.push(problem);
        }
    }

    /// The problems in the order of the text.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by(|a, b| (a.place, &a.path).cmp(&(b.place, &b.path)));
        self.problems
    }
}
