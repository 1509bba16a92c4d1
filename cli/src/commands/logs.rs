//! `robeing logs`.

use std::{
    collections::{BTreeMap, VecDeque},
    io::{self, IsTerminal, Write},
};

use robeing_client::is_finished;
use robeing_proto::v1::{GetTaskRequest, TaskLogsRequest, TaskLogsResponse, TaskState};

use super::{
    connect::client,
    tasks::{is_task_id, no_task_id},
};
use crate::{
    args::{Connection, Format, LogsArgs},
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{Document, log_line, note, plural, printable_text, progress_text, state_word, write_line},
};

pub(super) async fn show(args: LogsArgs, fleet: &Connection) -> Result<Exit, CliError> {
    if !is_task_id(&args.id) {
        return Err(CliError::NotFound(no_task_id(&args.id)));
    }
    let client = client(fleet, None, Access::Use).await?;
    let mut logs = client.task_logs(TaskLogsRequest {
        id: args.id.clone(),
        follow: args.follow,
        attempt: args.attempt.unwrap_or(0),
        after: Vec::new(),
    });
    let mut printer = Printer::new(&args, io::stdout().is_terminal());
    while let Some(said) = logs.next().await? {
        let mut out = io::stdout().lock();
        let notes = printer.print(&mut out, &said)?;
        out.flush()?;
        notes.iter().for_each(|sentence| note(sentence));
    }
    printer.release(&mut io::stdout().lock())?;
    if !printer.lacks_all() {
        return Ok(Exit::Success);
    }
    if printer.is_over {
        let task = client.get_task(GetTaskRequest { id: args.id.clone(), ..GetTaskRequest::default() }).await?;
        if let Some(sentence) = ended_without_lines(&args.id, task.state()) {
            note(&sentence);
            return Ok(Exit::Success);
        }
    }
    Ok(Exit::NotFound)
}

/// Returns what to say about a task that was followed until it ended and of which there are no lines; `None` if it is in a
/// state in which it has not ended.
fn ended_without_lines(id: &str, state: TaskState) -> Option<String> {
    let how = state_word(state);
    is_finished(state).then(|| {
        format!(
            "task {id} ended as {how}; there are no lines of it: it has written none, or they are not kept any more"
        )
    })
}

/// Prints what attempts say.
struct Printer {
    format: Format,
    timestamps: bool,
    is_terminal: bool,
    /// Only so many of the first lines are printed, once it is known which are the last of them.
    tail: Option<usize>,
    held: VecDeque<String>,
    /// The attempt of the last message, by its number and the agent's name.
    last: Option<(u32, String)>,
    /// The number of the next line of each attempt.
    next: BTreeMap<(u32, String), u64>,
    /// There was a line.
    has_lines: bool,
    /// Lines of an attempt can't be had.
    is_missing: bool,
    /// What was followed has ended.
    is_over: bool,
}

impl Printer {
    fn new(args: &LogsArgs, is_terminal: bool) -> Self {
        Self {
            format: args.output.output,
            timestamps: args.timestamps,
            is_terminal,
            tail: args.tail,
            held: VecDeque::new(),
            last: None,
            next: BTreeMap::new(),
            has_lines: false,
            is_missing: false,
            is_over: false,
        }
    }

    /// Prints a message. Returns what to say besides the lines.
    fn print(&mut self, out: &mut dyn Write, said: &TaskLogsResponse) -> Result<Vec<String>, CliError> {
        self.has_lines |= !said.lines.is_empty();
        self.is_missing |= !said.missing.is_empty();
        self.is_over |= said.finished;
        if self.format != Format::Table {
            write_line(out, self.format, &Document::of(said)?)?;
            return Ok(Vec::new());
        }
        let notes = self.notes(said);
        for line in &said.lines {
            let line = log_line(line, self.timestamps);
            let line = if self.is_terminal { printable_text(&line) } else { line };
            match self.tail {
                None => writeln!(out, "{line}")?,
                Some(most) => {
                    self.held.push_back(line);
                    self.held.drain(..self.held.len().saturating_sub(most));
                }
            }
        }
        if said.caught_up || said.ended || said.finished || !said.missing.is_empty() {
            self.release(out)?;
        }
        Ok(notes)
    }

    /// Returns whether lines were to be printed, and none could be.
    fn lacks_all(&self) -> bool {
        self.is_missing && !self.has_lines
    }

    /// Prints the last of the first lines.
    fn release(&mut self, out: &mut dyn Write) -> Result<(), CliError> {
        self.tail = None;
        for line in self.held.drain(..) {
            writeln!(out, "{line}")?;
        }
        Ok(())
    }

    fn notes(&mut self, said: &TaskLogsResponse) -> Vec<String> {
        let mut notes = Vec::new();
        if said.finished {
            return notes;
        }
        let TaskLogsResponse { attempt, agent, first, .. } = said;
        let of = (*attempt, agent.clone());
        if self.last.as_ref().is_some_and(|last| *last != of) {
            notes.push(format!("attempt {attempt} on agent {agent}:"));
        }
        let next = self.next.get(&of).copied().unwrap_or(0);
        if let Some(lost @ 1..) = first.checked_sub(next)
            && (!said.lines.is_empty() || said.ended)
        {
            let are = if lost == 1 { "is" } else { "are" };
            let lost = plural(usize::try_from(lost).unwrap_or(usize::MAX), "line");
            notes.push(format!("{lost} of attempt {attempt} on agent {agent} {are} not kept any more"));
        }
        if let Some(progress) = &said.progress {
            notes.push(format!("progress: {}", progress_text(progress)));
        }
        if !said.missing.is_empty() {
            notes.push(format!("attempt {attempt} on agent {agent}: {}", said.missing));
        }
        self.next.insert(of.clone(), first.saturating_add(said.lines.len() as u64));
        self.last = Some(of);
        notes
    }
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::{AttemptProgress, LogLine};

    use super::*;
    use crate::args::Output;

    fn printer(tail: Option<usize>, is_terminal: bool) -> Printer {
        let output = Output { output: Format::Table };
        let args = LogsArgs { id: String::new(), follow: true, attempt: None, tail, timestamps: false, output };
        Printer::new(&args, is_terminal)
    }

    fn said(attempt: u32, first: u64, lines: &[&str]) -> TaskLogsResponse {
        let line = |text: &&str| LogLine { text: (*text).to_owned(), ..LogLine::default() };
        let lines = lines.iter().map(line).collect();
        TaskLogsResponse { attempt, agent: "a".into(), first, lines, ..TaskLogsResponse::default() }
    }

    fn printed(printer: &mut Printer, said: &[TaskLogsResponse]) -> (String, Vec<String>) {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        for said in said {
            notes.extend(printer.print(&mut out, said).expect("memory takes it"));
        }
        printer.release(&mut out).expect("memory takes it");
        (String::from_utf8(out).expect("it is text"), notes)
    }

    #[test]
    fn lines_are_printed_and_what_is_between_them_is_said_aside() {
        let progress = Some(AttemptProgress { fraction: 0.42, text: "reading".into() });
        let messages = [
            said(1, 0, &["one", "two"]),
            TaskLogsResponse { progress, ..said(1, 2, &[]) },
            said(1, 5, &["six"]),
            TaskLogsResponse { ended: true, ..said(2, 0, &["again"]) },
            TaskLogsResponse { missing: "it is gone".into(), ..said(3, 0, &[]) },
            TaskLogsResponse { finished: true, ..TaskLogsResponse::default() },
        ];
        let (out, notes) = printed(&mut printer(None, false), &messages);
        assert_eq!(out, "one\ntwo\nsix\nagain\n");
        assert_eq!(
            notes,
            [
                "progress: 42 %  reading",
                "3 lines of attempt 1 on agent a are not kept any more",
                "attempt 2 on agent a:",
                "attempt 3 on agent a:",
                "attempt 3 on agent a: it is gone",
            ]
        );
    }

    #[test]
    fn only_the_last_of_the_lines_that_are_there_are_printed_and_all_that_come() {
        let messages = [
            said(1, 0, &["1", "2"]),
            TaskLogsResponse { caught_up: true, ..said(1, 2, &["3"]) },
            said(1, 3, &["4", "5", "6"]),
        ];
        assert_eq!(printed(&mut printer(Some(2), false), &messages).0, "2\n3\n4\n5\n6\n");
        assert_eq!(printed(&mut printer(Some(0), false), &messages).0, "4\n5\n6\n");
        assert_eq!(printed(&mut printer(Some(2), false), &messages[..1]).0, "1\n2\n");
    }

    #[test]
    fn a_terminal_gets_no_control_characters_of_a_line() {
        let messages = [said(1, 0, &["\u{1b}[31mred"])];
        assert_eq!(printed(&mut printer(None, true), &messages).0, " [31mred\n");
        assert_eq!(printed(&mut printer(None, false), &messages).0, "\u{1b}[31mred\n");
    }

    #[test]
    fn that_a_task_has_written_nothing_is_no_failure_once_it_was_followed_to_its_end() {
        let missing = TaskLogsResponse { missing: "it is gone".into(), ..said(1, 0, &[]) };
        let finished = TaskLogsResponse { finished: true, ..TaskLogsResponse::default() };
        let after = |messages: &[TaskLogsResponse]| {
            let mut printer = printer(None, false);
            printed(&mut printer, messages);
            (printer.lacks_all(), printer.is_over)
        };
        assert_eq!(after(&[missing.clone(), finished.clone()]), (true, true));
        assert_eq!(after(std::slice::from_ref(&missing)), (true, false), "it was only looked at");
        assert_eq!(after(&[missing, said(2, 0, &["a line"]), finished]), (false, true));
        let told = ended_without_lines("t", TaskState::Succeeded).expect("it has ended");
        assert!(told.starts_with("task t ended as Succeeded; there are no lines of it"), "{told}");
        assert_eq!(ended_without_lines("t", TaskState::Assigned), None, "only an attempt at it has ended");
    }
}
