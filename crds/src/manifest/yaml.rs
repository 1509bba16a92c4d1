//! Parses text into JSON values with their positions in the text. YAML is read with tight limits, because a few lines
//! of aliases can expand to gigabytes.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Number, Value};
use serde_yaml::{Options, Spanned};

use super::{Location, ManifestError};
use crate::limits::{MAX_MANIFEST_ALIASED, MAX_MANIFEST_BYTES, MAX_MANIFEST_DEPTH, MAX_MANIFEST_DOCUMENTS};

/// One document of a manifest.
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) places: Places,
}

/// The positions of a document's fields in its text, by path.
#[derive(Debug, Default)]
pub(super) struct Places(HashMap<String, Location>);

impl Places {
    /// Returns the position of the field at `path`, or of the nearest enclosing field.
    pub(super) fn nearest(&self, path: &str) -> Option<Location> {
        let mut path = path;
        loop {
            match (self.0.get(path), path.rfind(['.', '['])) {
                (Some(place), _) => return Some(*place),
                (None, Some(end)) => path = &path[..end],
                (None, None) => return self.0.get("").copied(),
            }
        }
    }

    /// Returns the positions within the field at `path`, with paths relative to it.
    fn within(&self, path: &str) -> Self {
        let inner = self.0.iter().filter_map(|(field, place)| {
            let rest = field.strip_prefix(path)?;
            let rest = if rest.starts_with('[') || rest.is_empty() { rest } else { rest.strip_prefix('.')? };
            Some((rest.to_owned(), *place))
        });
        Self(inner.collect())
    }
}

/// The maximum number of bare dashes in flow sequences that are accepted; each costs a further parse.
const MAX_DASHES: usize = 32;

/// Kinds whose documents contain other documents.
const LISTS: [&str; 2] = ["List", "RobeingClusterList"];

/// Returns whether a document is a list of other documents.
pub(super) fn is_list(document: &Value) -> bool {
    document.get("kind").and_then(Value::as_str).is_some_and(|kind| LISTS.contains(&kind))
}

/// All whole numbers up to this one can be represented exactly as a float.
const MAX_WHOLE_FLOAT: f64 = (1_u64 << 53) as f64;

/// Reads the documents of `text`, including those in lists; empty documents are left out.
pub(super) fn read(text: &str) -> Result<Vec<Document>, ManifestError> {
    if text.len() > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooLarge);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (nodes, quoted) = parse(text)?;
    if nodes.is_empty() {
        return Err(ManifestError::Empty);
    }
    let mut documents: Vec<Document> = nodes.into_iter().map(document).flat_map(items).collect();
    let places = documents.iter_mut().flat_map(|document| document.places.0.values_mut());
    places.for_each(|place| *place = quoted.original(*place));
    Ok(documents)
}

/// Parses the text. A dash that is a whole word, as in `[cat, -]`, is put in quotes first, because kubectl takes it and the
/// parser, which follows the YAML specification, does not. At most [`MAX_DASHES`] of them are. Also returns where.
fn parse(text: &str) -> Result<(Vec<Node>, Quoted), ManifestError> {
    let mut text = Cow::Borrowed(text);
    let mut quoted = Quoted::default();
    loop {
        match serde_yaml::from_multiple_with_options(&text, options()) {
            Ok(nodes) => return Ok((nodes, quoted)),
            Err(error) => match dash(&text, &error).filter(|_| quoted.0.len() < MAX_DASHES) {
                Some((at, place)) => {
                    text.to_mut().replace_range(at..=at, "\"-\"");
                    quoted.0.push(place);
                }
                None => return Err(syntax(&error, &quoted)),
            },
        }
    }
}

/// Where dashes were put in quotes, in the order of the text, each as the text was then.
#[derive(Debug, Default)]
struct Quoted(Vec<Location>);

impl Quoted {
    /// Returns the position in the original text.
    fn original(&self, place: Location) -> Location {
        let before = self.0.iter().filter(|dash| dash.line == place.line && dash.column < place.column).count();
        Location { line: place.line, column: place.column.saturating_sub(2 * before as u64) }
    }
}

/// Returns where the dash is that the parser refuses as the beginning of a word.
fn dash(text: &str, error: &serde_yaml::Error) -> Option<(usize, Location)> {
    let error = error.without_snippet();
    let at = error.location().filter(|_| error.to_string().contains("plain scalar cannot start with '-'"))?;
    let line = usize::try_from(at.line()).ok()?.checked_sub(1)?;
    let column = usize::try_from(at.column()).ok()?.checked_sub(1)?;
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let byte = start + text.get(start..)?.char_indices().nth(column)?.0;
    text[byte..].starts_with('-').then_some((byte, Location { line: at.line(), column: at.column() }))
}

/// Returns the documents in a list, as `kubectl get -o yaml` prints it, or the document itself if it is not a list.
fn items(document: Document) -> Vec<Document> {
    let items = document.value.get("items").and_then(Value::as_array);
    let Some(items) = items.filter(|_| is_list(&document.value)) else {
        return vec![document];
    };
    let item = |(index, value): (usize, &Value)| {
        let places = document.places.within(&format!("items[{index}]"));
        Document { value: value.clone(), places }
    };
    items.iter().enumerate().map(item).flat_map(self::items).collect()
}

/// Plain scalars have the same meaning as for kubectl: 0400 is octal, as in file modes.
fn options() -> Options {
    serde_yaml::options! {
        legacy_octal_numbers: true,
        budget: serde_yaml::budget! {
            max_depth: MAX_MANIFEST_DEPTH,
            max_documents: MAX_MANIFEST_DOCUMENTS,
        },
        alias_limits: serde_yaml::alias_limits! {
            max_total_replayed_events: MAX_MANIFEST_ALIASED,
        },
        with_snippet: false,
    }
}

fn syntax(error: &serde_yaml::Error, quoted: &Quoted) -> ManifestError {
    let error = error.without_snippet();
    let place = error.location().map(|at| Location { line: at.line(), column: at.column() });
    ManifestError::Syntax { place: place.map(|place| quoted.original(place)), reason: reason(error, place) }
}

/// Returns a sentence that explains why the text could not be parsed. The parser's own message is used only where it is
/// about the text and not about the parser's options.
fn reason(error: &serde_yaml::Error, place: Option<Location>) -> String {
    use serde_yaml::{Error, budget::BudgetBreach};
    match error {
        Error::DuplicateMappingKey { key: Some(key), .. } => {
            format!("The field {key:?} is set twice here; keep one.")
        }
        Error::DuplicateMappingKey { .. } => "A field is set twice here; keep one.".to_owned(),
        Error::Unexpected { expected: "string scalar", .. } => {
            "A field's name must be plain text; put text that begins with '{' or '[' in quotes.".to_owned()
        }
        Error::AliasReplayCounterOverflow { .. }
        | Error::AliasReplayLimitExceeded { .. }
        | Error::AliasExpansionLimitExceeded { .. }
        | Error::AliasReplayStackDepthExceeded { .. }
        | Error::AliasError { .. } => {
            format!("The aliases stand for more than {MAX_MANIFEST_ALIASED} values; write them out instead.")
        }
        Error::Budget { breach: BudgetBreach::Depth { .. }, .. } => {
            format!("Maps and lists are nested more than {MAX_MANIFEST_DEPTH} deep; is it the right file?")
        }
        Error::Budget { breach: BudgetBreach::Documents { .. }, .. } => {
            format!("There are more than {MAX_MANIFEST_DOCUMENTS} documents; split the file.")
        }
        other => {
            let mut text = other.to_string().replace('\n', " ");
            if let Some(place) = place {
                // The parser's message ends with the position, which the error message already begins with.
                text = text.replace(&format!(" at line {}, column {}", place.line, place.column), "");
            }
            format!("The parser says: {}.", text.trim_end_matches('.'))
        }
    }
}

fn document(root: Node) -> Document {
    let mut places = Places::default();
    let value = flatten(root, String::new(), &mut places);
    Document { value, places }
}

/// Turns a node into its value, and records the positions of everything in it.
fn flatten(node: Node, path: String, places: &mut Places) -> Value {
    let (place, content) = node.into_parts();
    let value = match content {
        Content::Scalar(value) => value,
        Content::List(items) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| flatten(item, format!("{path}[{index}]"), places))
            .collect(),
        Content::Map(entries) => {
            let mut fields = serde_json::Map::new();
            for (key, item) in entries {
                let key_place = place_of(&key.referenced);
                let item_path = if path.is_empty() { key.value.clone() } else { format!("{path}.{}", key.value) };
                fields.insert(key.value, flatten(item, item_path.clone(), places));
                if let Some(at) = key_place {
                    // The key gives the best position for a field: a map that is its value starts a line later.
                    places.0.insert(item_path, at);
                }
            }
            Value::Object(fields)
        }
    };
    if let Some(at) = place {
        places.0.entry(path).or_insert(at);
    }
    value
}

fn place_of(at: &serde_yaml::Location) -> Option<Location> {
    (at.line() > 0).then(|| Location { line: at.line(), column: at.column() })
}

#[derive(Deserialize)]
struct Node(Spanned<Content>);

impl Node {
    fn into_parts(self) -> (Option<Location>, Content) {
        (place_of(&self.0.referenced), self.0.value)
    }
}

enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(Spanned<String>, Node)>),
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Content, D::Error> {
        Content::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Content, E> {
        Ok(Content::Scalar(Value::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<Content, E> {
        self.visit_f64(value as f64)
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<Content, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Content, E> {
        // The API server treats 4.0 and 1.00066e+09 as whole numbers.
        if value.fract() == 0.0 && value.abs() <= MAX_WHOLE_FLOAT {
            return Ok(Content::Scalar((value as i64).into()));
        }
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number must be finite"))?;
        Ok(Content::Scalar(Value::Number(number)))
    }

    fn visit_str<E>(self, value: &str) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Content, E> {
        Ok(Content::Scalar(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Content, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Content::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Content::Map(entries))
    }
}
