//! The schedules after a log entry, as coordinators report them.

/// A run that has started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Started {
    /// When it was due, in Unix milliseconds.
    pub due: u64,
    /// Its task.
    pub task: String,
    /// Whether it was started by hand.
    pub by_hand: bool,
    /// Whether its task has ended.
    pub has_ended: bool,
}

/// A schedule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scheduled {
    /// Its name.
    pub name: String,
    /// Its number.
    pub seq: u64,
    /// How often it was changed.
    pub generation: u64,
    /// When it is due next; `None` if it is suspended.
    pub next: Option<u64>,
    /// The newest moment that was decided.
    pub decided: u64,
    /// How many runs have started, were missed, were skipped, and were refused.
    pub counts: [u64; 4],
    /// The runs that are kept.
    pub runs: Vec<Started>,
}

/// The schedules after a log entry.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The wall time of the entry.
    pub wall: u64,
    /// All schedules.
    pub schedules: Vec<Scheduled>,
}

impl Started {
    fn of(words: &[&str]) -> Option<Self> {
        let [due, task, by, state] = words else { return None };
        let (due, task) = (due.parse().ok()?, (*task).to_owned());
        Some(Self { due, task, by_hand: *by == "hand", has_ended: *state == "ended" })
    }
}

impl Scheduled {
    fn of(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split(' ').collect();
        let [name, seq, generation, next, decided, counts @ ..] = &words[..] else { return None };
        let (counts, runs) = counts.split_at_checked(4)?;
        let [started, missed, busy, refused] = counts else { return None };
        let next: u64 = next.parse().ok()?;
        Some(Self {
            name: (*name).to_owned(),
            seq: seq.parse().ok()?,
            generation: generation.parse().ok()?,
            next: (next != 0).then_some(next),
            decided: decided.parse().ok()?,
            counts: [started.parse().ok()?, missed.parse().ok()?, busy.parse().ok()?, refused.parse().ok()?],
            runs: runs.chunks(4).map(Started::of).collect::<Option<_>>()?,
        })
    }
}

impl Report {
    /// Reads what coordinators report.
    pub fn of(text: &str) -> Self {
        let Some((wall, schedules)) = text.split_once(',') else { return Self::default() };
        let schedules = schedules.split(',').filter_map(Scheduled::of).collect();
        Self { wall: wall.parse().unwrap_or_default(), schedules }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_coordinators_report_is_read() {
        let report = Report::of("9000,a 1 2 300 200 4 5 6 7 100 t hand ended 200 u time runs,b 2 1 0 0 0 0 0 0");
        let [one, other] = &report.schedules[..] else { panic!("two schedules: {report:?}") };
        assert_eq!((report.wall, one.name.as_str(), one.seq, one.generation), (9_000, "a", 1, 2));
        assert_eq!((one.next, one.decided, one.counts), (Some(300), 200, [4, 5, 6, 7]));
        let run = |due, task: &str, by_hand| Started { due, task: task.to_owned(), by_hand, has_ended: by_hand };
        assert_eq!(one.runs, [run(100, "t", true), run(200, "u", false)]);
        assert_eq!((other.next, other.runs.len()), (None, 0));
        assert_eq!(Report::of(""), Report::default());
    }
}
