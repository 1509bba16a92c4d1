//! The demo's output: lines with the time since its beginning, and how far it is; a line that is redrawn at a terminal,
//! now and then a line of its own elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use tokio::time::Instant;

/// Columns of the bar.
const BAR: usize = 30;
/// At a terminal the bar is redrawn no more often.
const REDRAW: Duration = Duration::from_millis(50);
/// Elsewhere there is a line for each such share of the whole.
const STEPS: usize = 10;

/// Tells what happens. Output that nobody takes is no reason to stop: failures to write are ignored.
pub struct Narrator {
    began: Instant,
    is_terminal: bool,
    bar_is_shown: bool,
    drawn: Option<Instant>,
    step: usize,
}

impl Narrator {
    /// A narrator whose time begins now.
    pub fn new() -> Self {
        let is_terminal = io::stdout().is_terminal();
        Self { began: Instant::now(), is_terminal, bar_is_shown: false, drawn: None, step: 0 }
    }

    /// A line.
    pub fn say(&mut self, line: &str) {
        self.clear();
        let _ = writeln!(io::stdout(), "{:7.2} s  {line}", self.began.elapsed().as_secs_f64());
    }

    /// A line without the time.
    pub fn plain(&mut self, line: &str) {
        self.clear();
        let _ = writeln!(io::stdout(), "{line}");
    }

    /// The last lines, apart from the others.
    pub fn summary(&mut self, lines: &[String]) {
        self.plain("");
        for line in lines {
            self.plain(line);
        }
    }

    /// How many of all are done.
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
