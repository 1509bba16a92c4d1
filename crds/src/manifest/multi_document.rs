//! Finds the single `RobeingCluster` in a manifest that may contain other resources too.

use std::fmt;

use serde_json::Value;

use super::{
    ManifestError, check_document, parse_manifest,
    problem::Report,
    yaml::{self, Document, Places},
};
use crate::{KIND, RobeingCluster};

/// A manifest with one `RobeingCluster`. It remembers where the cluster's fields are in the text, so that later checks
/// can report problems in the same form.
#[derive(Debug)]
pub struct Manifest {
    /// The cluster, with the schema's defaults filled in.
    pub cluster: RobeingCluster,
    /// The other resources, in the order of the text. They are ignored.
    pub ignored: Vec<Ignored>,
    document: Option<usize>,
    places: Places,
}

/// A resource of another kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Number of the document in the manifest, from 1.
    pub document: usize,
    /// The kind of the resource, such as `ConfigMap`.
    pub kind: String,
    /// The name of the resource; empty if it has none.
    pub name: String,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {} ({}", self.document, self.kind)?;
        if !self.name.is_empty() {
            write!(f, " {}", self.name)?;
        }
        f.write_str(")")
    }
}

impl Manifest {
    /// Returns an error that refuses the cluster for these problems, at least one, each given as the path of a field
    /// and a sentence.
    pub fn refusal(&self, problems: impl IntoIterator<Item = (String, String)>) -> ManifestError {
        let mut report = Report::new(self.document, &self.places);
        for (path, message) in problems {
            report.add(&path, message);
        }
        ManifestError::Invalid { problems: report.into_problems() }
    }
}

/// Reads the single `RobeingCluster` of a manifest; resources of other kinds are skipped and listed in
/// [`Manifest::ignored`].
///
/// # Errors
/// Those of [`parse_manifest`]. Problems of other resources are not checked.
pub fn find_cluster(text: &str) -> Result<Manifest, ManifestError> {
    let documents = yaml::read(text)?;
    let many = documents.len() > 1;
    let mut ignored = Vec::new();
    let mut clusters = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        match other_resource(index + 1, &document) {
            Some(other) => ignored.push(other),
            None => clusters.push((index + 1, document)),
        }
    }
    let is_cluster = |document: &Document| document.value.get("kind").is_some_and(|kind| kind == KIND);
    if clusters.len() > 1 && clusters.iter().all(|(_, document)| is_cluster(document)) {
        return Err(ManifestError::Several { names: clusters.iter().map(|(_, found)| name_of(found)).collect() });
    }
    let (Some((number, document)), true) = (clusters.pop(), clusters.is_empty()) else {
        // None of the documents is a cluster, or not all are resources: report a problem for every document.
        let cluster = parse_manifest(text)?;
        return Ok(Manifest { cluster, ignored, document: None, places: Places::default() });
    };
    let number = many.then_some(number);
    let mut report = Report::new(number, &document.places);
    match check_document(&document, &mut report) {
        Some(cluster) if report.is_empty() => {
            Ok(Manifest { cluster, ignored, document: number, places: document.places })
        }
        _ => Err(ManifestError::Invalid { problems: report.into_problems() }),
    }
}

/// Returns the resource of a document if it is a resource but not a `RobeingCluster`.
fn other_resource(document: usize, read: &Document) -> Option<Ignored> {
    read.value.get("apiVersion")?.as_str()?;
    let kind = read.value.get("kind")?.as_str()?;
    (kind != KIND).then(|| Ignored { document, kind: kind.to_owned(), name: name_of(read) })
}

fn name_of(document: &Document) -> String {
    document.value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default().to_owned()
}
