//! Decodes a manifest the way kubectl does: UTF-8 or UTF-16, byte order marks at the start of documents, consecutive
//! JSON documents, and characters in them that YAML does not allow. Changes made for the parser are recorded, so that
//! errors can be reported with their location in the file.

use std::{io, ops::Range};

use robeing_crds::{Location, ManifestError};
use serde::de::IgnoredAny;

use crate::encoding::{MARK, decode};

/// Separator that is inserted before the next YAML document; JSON is a subset of YAML.
const SEPARATOR: &str = "\n--- ";
const START: Location = Location { line: 1, column: 1 };
/// Replacement for half of a surrogate pair, of the same length.
const NO_CHARACTER: &str = r"\ufffd";

/// A text that the YAML parser accepts.
#[derive(Debug)]
pub(super) struct ManifestText {
    pub(super) text: String,
    joints: Vec<Joint>,
}

/// Maps a location in the text to the file, where the two diverge: after an inserted separator or a replaced character.
#[derive(Debug)]
struct Joint {
    /// The location in the text.
    here: Location,
    /// The location in the file.
    there: Location,
}

impl ManifestText {
    /// Decodes the bytes of a file.
    ///
    /// # Errors
    /// If they are not valid text.
    pub(super) fn of(bytes: Vec<u8>) -> io::Result<Self> {
        Ok(Self::separated(&without_marks(&decode(bytes)?)))
    }

    /// Converts a file to YAML: separates consecutive JSON documents and replaces characters that YAML does not allow.
    fn separated(file: &str) -> Self {
        let begins = |text: &str| text.trim_start().starts_with('{');
        let (mut text, mut joints) = (String::with_capacity(file.len()), Vec::new());
        let (mut here, mut there) = (START, START);
        let mut rest = file;
        let mut add = |here: &mut Location, there: &mut Location, new: &str, old: &str| {
            text.push_str(new);
            *here = after_text(*here, new);
            *there = after_text(*there, old);
            if new != old {
                joints.push(Joint { here: *here, there: *there });
            }
        };
        while begins(rest) {
            let mut values = serde_json::Deserializer::from_str(rest).into_iter::<IgnoredAny>();
            // Text that is not valid JSON can still be YAML.
            let Some(Ok(_)) = values.next() else { break };
            let (document, after) = rest.split_at(values.byte_offset());
            let mut begin = 0;
            for (range, instead) in no_yaml(document) {
                let Range { start, end } = range;
                add(&mut here, &mut there, &document[begin..start], &document[begin..start]);
                add(&mut here, &mut there, &instead, &document[start..end]);
                begin = end;
            }
            add(&mut here, &mut there, &document[begin..], &document[begin..]);
            rest = after;
            let next = after.trim_start_matches(|c: char| c.is_whitespace() || c == MARK);
            if !begins(next) {
                break;
            }
            add(&mut here, &mut there, SEPARATOR, &after[..after.len() - next.len()]);
            rest = next;
        }
        text.push_str(rest);
        Self { text, joints }
    }

    /// Converts the locations in an error to locations in the file.
    pub(super) fn in_file(&self, mut error: ManifestError) -> ManifestError {
        let correct = |place: &mut Option<Location>| {
            if let Some(place) = place {
                *place = self.place_in_file(*place);
            }
        };
        match &mut error {
            ManifestError::Syntax { place, .. } => correct(place),
            ManifestError::Invalid { problems } => problems.iter_mut().for_each(|problem| correct(&mut problem.place)),
            ManifestError::TooLarge | ManifestError::Empty | ManifestError::Several { .. } => {}
        }
        error
    }

    fn place_in_file(&self, place: Location) -> Location {
        let Some(Joint { here, there }) = self.joints.iter().rfind(|joint| joint.here <= place) else { return place };
        let column = if place.line == here.line { place.column - here.column + there.column } else { place.column };
        Location { line: place.line - here.line + there.line, column }
    }
}

/// Returns what in a JSON document YAML does not allow, with replacements: escapes for control characters, and the
/// replacement character for the escape of half of a surrogate pair, as kubectl reads it.
fn no_yaml(json: &str) -> Vec<(Range<usize>, String)> {
    let is_no_yaml = |c: char| matches!(c, '\u{7f}'..='\u{84}' | '\u{86}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}');
    let unit = |at: usize| {
        let digits = json.get(at..)?.strip_prefix(r"\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some((start, c)) = json[at..].char_indices().find(|(_, c)| *c == '\\' || is_no_yaml(*c)) {
        let start = at + start;
        let (length, instead) = match unit(start) {
            _ if c != '\\' => (c.len_utf8(), Some(format!(r"\u{:04x}", u32::from(c)))),
            Some(0xD800..=0xDBFF) if matches!(unit(start + 6), Some(0xDC00..=0xDFFF)) => (12, None),
            Some(0xD800..=0xDFFF) => (6, Some(NO_CHARACTER.to_owned())),
            Some(_) => (6, None),
            None => (2, None),
        };
        at = start + length;
        found.extend(instead.map(|instead| (start..at, instead)));
    }
    found
}

/// Returns the location after a text that starts at `place`.
fn after_text(place: Location, text: &str) -> Location {
    let characters = |text: &str| text.chars().count() as u64;
    match text.rsplit_once('\n') {
        None => Location { column: place.column + characters(text), ..place },
        Some((before, last)) => {
            let lines = before.matches('\n').count() as u64 + 1;
            Location { line: place.line + lines, column: characters(last) + 1 }
        }
    }
}

/// Removes byte order marks at the start of lines: in concatenated files each document can start with one, and at the
/// start of a line the character has no other meaning.
fn without_marks(text: &str) -> String {
    text.split_inclusive('\n').map(|line| line.trim_start_matches(MARK)).collect()
}

#[cfg(test)]
mod tests {
    use robeing_crds::find_cluster;

    use super::*;

    const CLUSTER: &str = r#"{"apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "metadata": {"name": "a"},
  "spec": {"pools": [{"name": "p", "executor": {"echo": {}}}]}}"#;
    const OTHER: &str = r#"{"apiVersion": "v1", "kind": "ConfigMap"}"#;

    fn text_of(file: &str) -> ManifestText {
        ManifestText::of(file.as_bytes().to_vec()).expect("it is text")
    }

    /// Returns the name of the cluster, and the number of other documents.
    fn read(bytes: Vec<u8>) -> (String, usize) {
        let read = ManifestText::of(bytes).expect("it is text");
        let manifest = find_cluster(&read.text).unwrap_or_else(|error| panic!("{:?}: {error}", read.text));
        (manifest.cluster.metadata.name.unwrap_or_default(), manifest.ignored.len())
    }

    #[test]
    fn documents_of_json_may_follow_each_other() {
        for (file, others) in [
            (CLUSTER.to_owned(), 0),
            (format!("{OTHER}\n{CLUSTER}\n"), 1),
            (format!("\n {OTHER}{CLUSTER}{OTHER}"), 2),
            (format!("{CLUSTER} {OTHER}\n---\napiVersion: v1\nkind: ConfigMap\n"), 2),
            (format!("{OTHER}\n---\n{CLUSTER}"), 1),
            (format!("{OTHER}\n\u{feff}{CLUSTER}\u{feff}{OTHER}"), 2),
        ] {
            assert_eq!(read(file.clone().into_bytes()), ("a".into(), others), "{file}");
        }
        for not_json in ["{a: b}\n", "a: b\n", "", "{", "{} x", "[{}]"] {
            assert_eq!(text_of(not_json).text, not_json);
        }
    }

    #[test]
    fn a_character_that_only_json_may_have_is_read_as_kubectl_reads_it() {
        let named = |text: &str| {
            CLUSTER.replace("\"name\": \"a\"", &format!("\"name\": \"a\", \"labels\": {{\"l\": \"{text}\"}}"))
        };
        for (text, read) in [
            ("\u{7f}", "\u{7f}"),
            ("\u{80}\u{9f}\u{fffe}", "\u{80}\u{9f}\u{fffe}"),
            (r"\ud83d", "\u{fffd}"),
            (r"\uDE00x", "\u{fffd}x"),
            (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
            (r"\\ud83d\u00e9\/\n", "\\ud83dé/\n"),
        ] {
            for file in [named(text), format!("{OTHER}{}{OTHER}", named(text))] {
                let cluster =
                    find_cluster(&text_of(&file).text).unwrap_or_else(|error| panic!("{file:?}: {error}")).cluster;
                let labels = cluster.metadata.labels.unwrap_or_default();
                assert_eq!(labels.get("l").map(String::as_str), Some(read), "{file:?}");
            }
        }
        // In YAML, kubectl refuses such characters, too.
        assert!(find_cluster(&text_of("a: \"\u{7f}\"\n").text).is_err());
    }

    #[test]
    fn problems_are_told_where_they_are_in_the_file() {
        let wrong = CLUSTER.replace("echo", "ecko");
        let on_one_line = wrong.replace('\n', " ");
        for file in [
            wrong.clone(),
            format!("{OTHER}\n{wrong}"),
            format!("{OTHER}\n\n{OTHER}{wrong}"),
            format!("{OTHER}\n{on_one_line}"),
            format!("{OTHER}  {OTHER}  {on_one_line}"),
            on_one_line.replace("\"a\"", "\"\u{7f}é\u{7f}\""),
            format!("{OTHER} {}", on_one_line.replace("\"a\"", "\"\u{7f}\u{80}\"")),
        ] {
            let before = &file[..file.find("\"ecko").expect("it is there")];
            let Location { line, column } = after_text(START, before);
            let text = text_of(&file);
            let error = text.in_file(find_cluster(&text.text).expect_err("there is no ecko")).to_string();
            let place = format!("ecko (line {line}, column {column})");
            assert!(error.contains(&place), "{place} is not in {error} of {file}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_a_document() {
        let yaml = "apiVersion: robeing.io/v1alpha1\nkind: RobeingCluster\nmetadata: {name: a}\nspec: {pools: [{name: p, \
                    executor: {echo: {}}}]}\n";
        let other = "apiVersion: v1\nkind: ConfigMap\n";
        for file in [format!("\u{feff}{other}---\n\u{feff}{yaml}"), format!("\u{feff}{other}\u{feff}---\r\n{yaml}")] {
            assert_eq!(read(file.clone().into_bytes()), ("a".into(), 1), "{file}");
        }
    }

    #[test]
    fn utf_16_is_read_and_what_is_none_is_refused() {
        let units = || format!("{MARK}{CLUSTER}").encode_utf16().collect::<Vec<_>>();
        let little: Vec<u8> = units().into_iter().flat_map(u16::to_le_bytes).collect();
        assert_eq!(read(little.clone()), ("a".into(), 0));
        assert_eq!(read(units().into_iter().flat_map(u16::to_be_bytes).collect()), ("a".into(), 0));
        let refused = |bytes: &[u8]| ManifestText::of(bytes.to_vec()).expect_err("it is no text").to_string();
        let cut = refused(&little[..little.len() - 1]);
        assert_eq!(cut, "it is UTF-16 and has an odd number of bytes: its last character is cut");
        let lone = refused(&[0xFF, 0xFE, 0x00, 0xD8]);
        assert!(lone.starts_with("it starts like UTF-16 but is not valid UTF-16"), "{lone}");
        assert!(refused(b"a: \xFF").starts_with("invalid utf-8 sequence"));
    }
}
