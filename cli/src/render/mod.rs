//! Prints messages of the API: as documents for programs, and as tables for people. Pure: the current time is a
//! parameter.

mod audit;
mod ballot_report;
mod candidates;
mod dead;
mod document;
mod group_ballots;
mod group_status;
mod groups;
mod logs;
mod message;
mod parts;
mod policies;
mod queues;
mod resources;
mod schedules;
mod status;
mod table;
mod task;
mod teams;
mod tree;
mod votes;
mod words;

use std::io::{self, Write};

pub use audit::{audit_line, audit_table};
pub use ballot_report::report_document;
pub use dead::dead_table;
pub use document::{Document, Named, documents, write_document, write_line};
pub use group_ballots::{group_ballot_document, group_ballot_text, open_group_ballot_document, open_group_ballot_text};
pub use group_status::{GroupStatus, MemberState, MemberStatus, ProtocolStatus};
pub use groups::{decisions_document, decisions_table, group_text, log_report_document, log_report_text};
pub use logs::{log_line, progress_line, progress_text};
pub use message::{inbox_line, inbox_table, outcome_text, outcomes_table, unanswered_text};
pub use parts::{failed_by_parts, failed_parts_text, waiting_parts_text, waits_for_parts};
pub use policies::policy_table;
pub use queues::queues_table;
pub use resources::{allocation_text, allocations_table, amounts_text, queue_line, resources_text};
pub use schedules::{removed_text, run_text, schedule_text, schedules_table};
pub use status::{agent_text, agents_table, live_view, resource_text, status_text};
pub use table::table;
pub use task::{change_line, results_table, stored_text, task_text, tasks_table};
pub use teams::{team_text, teams_table};
pub use tree::tree_text;
pub use votes::{ballot_text, ballots_table, report_note, report_text};
pub(crate) use words::moment;
pub use words::{
    plural, preview, printable, printable_lines, printable_text, role_word, short_duration, state_in_sentence,
    state_word,
};

use crate::{args::Format, error::CliError};

/// Prints one message: as a document, or for people with `text`.
///
/// # Errors
/// If the output can't be written.
pub fn print_one<M: Named>(
    out: &mut dyn Write,
    format: Format,
    message: &M,
    text: impl FnOnce(&M) -> String,
) -> Result<(), CliError> {
    match format {
        Format::Table => out.write_all(text(message).as_bytes())?,
        _ => write_document(out, format, &Document::of(message)?)?,
    }
    Ok(())
}

/// Prints a list of messages: as one array, or for people with `text`.
///
/// # Errors
/// If the output can't be written.
pub fn print_list<M: Named>(
    out: &mut dyn Write,
    format: Format,
    messages: &[M],
    text: impl FnOnce(&[M]) -> String,
) -> Result<(), CliError> {
    match format {
        Format::Table => out.write_all(text(messages).as_bytes())?,
        _ => write_document(out, format, &documents(messages)?)?,
    }
    Ok(())
}

/// Prints a sentence to standard error. A broken pipe is not an error. The sentence can include text from others, so
/// control characters that a terminal would interpret are replaced.
pub fn note(sentence: &str) {
    let _ = writeln!(io::stderr(), "{}", printable_lines(sentence));
}

#[cfg(test)]
mod tests;
