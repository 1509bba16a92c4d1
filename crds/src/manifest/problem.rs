//! The problems of a manifest, as sentences.

use std::fmt;

use super::yaml::Places;
use crate::limits::{MAX_MANIFEST_BYTES, MAX_PROBLEMS};

/// A position in the text of a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    /// Line number, from 1.
    pub line: u64,
    /// Column number in characters, from 1.
    pub column: u64,
}

/// One problem of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Number of the document in the manifest, from 1. `None` if there is only one document.
    pub document: Option<usize>,
    /// Path of the field, such as `spec.pools[1].executor`. Empty for the document as a whole.
    pub path: String,
    /// Position of the field in the text, or of the nearest enclosing field.
    pub place: Option<Location>,
    /// A sentence that states what is wrong and what to change.
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

/// The reason a manifest was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The text is larger than [`MAX_MANIFEST_BYTES`].
    #[error("The manifest has more than {} MiB, which is the most that is read; is it the right file?", MAX_MANIFEST_BYTES >> 20)]
    TooLarge,
    /// The text contains no document.
    #[error("The manifest is empty; it must hold a RobeingCluster.")]
    Empty,
    /// The text contains several clusters where one was expected.
    #[error("The manifest holds {} RobeingClusters ({}), but only one can be used here; keep one.", names.len(), names.join(", "))]
    Several {
        /// The names of the clusters.
        names: Vec<String>,
    },
    /// The text is not YAML, or exceeds a limit.
    #[error("The manifest cannot be read as YAML{}: {reason}", place.map(|p| format!(" (line {}, column {})", p.line, p.column)).unwrap_or_default())]
    Syntax {
        /// Where parsing stopped.
        place: Option<Location>,
        /// The reason, as a sentence.
        reason: String,
    },
    /// The text is YAML, but not a `RobeingCluster` that the API server would accept.
    #[error("{}", list(problems))]
    Invalid {
        /// The problems, in the order of the text; never empty.
        problems: Vec<Problem>,
    },
}

impl ManifestError {
    /// Returns the problems of a manifest that is YAML; empty for other errors.
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

/// Collects the problems of one document.
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

    /// Returns whether a problem of the field at exactly this `path` was reported.
    pub(super) fn names(&self, path: &str) -> bool {
        self.problems.iter().any(|problem| problem.path == path)
    }

    /// Adds a problem, unless [`MAX_PROBLEMS`] are already reported.
    pub(super) fn add(&mut self, path: &str, message: String) {
        if self.problems.len() < MAX_PROBLEMS {
            let problem =
                Problem { document: self.document, path: path.to_owned(), place: self.places.nearest(path), message };
            self.problems.push(problem);
        }
    }

    /// Returns the problems in the order of the text.
    pub(super) fn into_problems(mut self) -> Vec<Problem> {
        self.problems.sort_by(|a, b| (a.place, &a.path).cmp(&(b.place, &b.path)));
        self.problems
    }
}
