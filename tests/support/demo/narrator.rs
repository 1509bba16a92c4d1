//! The demo's output: lines with the time since the start, and the progress: a bar that is redrawn on a terminal, or
//! occasional lines if the output is not a terminal.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use tokio::time::Instant;

/// The width of the bar in columns.
const BAR: usize = 30;
/// The shortest time between two redraws of the bar on a terminal.
const REDRAW: Duration = Duration::from_millis(50);
/// The number of progress lines if the output is not a terminal.
const STEPS: usize = 10;

/// Writes the output. Errors while writing are ignored: the demo does not stop because nothing reads its output.
pub struct Narrator {
    began: Instant,
    is_terminal: bool,
    bar_is_shown: bool,
    drawn: Option<Instant>,
    step: usize,
}

impl Narrator {
    /// Creates a narrator whose time starts now.
    pub fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self { began: Instant::now(), is_terminal, bar_is_shown: false, drawn: None, step: 0 }
    }

    /// Writes a line with the time.
    pub fn say(&mut self, line: &str) {
        self.clear();
        let _ = writeln!(io::stdout(), "{:7.2} s  {line}", self.began.elapsed().as_secs_f64());
    }

    /// Writes a line without the time.
    pub fn plain(&mut self, line: &str) {
        self.clear();
        let _ = writeln!(io::stdout(), "{line}");
    }

    /// Writes the last lines, after an empty one.
    pub fn summary(&mut self, lines: &[String]) {
        self.plain("");
        for line in lines {
            self.plain(line);
        }
    }

    /// Shows that `done` of `all` results have arrived.
    pub fn progress(&mut self, done: usize, all: usize) {
        if !self.is_terminal {
            let step = done * STEPS / all.max(1);
            if step > self.step {
                self.step = step;
                self.say(&format!("{done} of {all} results"));
            }
            return;
        }
        if done < all && self.drawn.is_some_and(|drawn| drawn.elapsed() < REDRAW) {
            return;
        }
        self.drawn = Some(Instant::now());
        self.bar_is_shown = true;
        let filled = done * BAR / all.max(1);
        let mut out = io::stdout();
        let bar = format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled));
        let _ = write!(out, "\r{:7.2} s  {bar} {done}/{all} results", self.began.elapsed().as_secs_f64());
        let _ = out.flush();
    }

    fn clear(&mut self) {
        if self.bar_is_shown {
            let _ = write!(io::stdout(), "\r\x1b[K");
            self.bar_is_shown = false;
        }
    }
}

impl Default for Narrator {
    fn default() -> Self {
        Self::new()
    }
}
