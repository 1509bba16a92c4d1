//! Lines and progress of attempts for people.

use jiff::Timestamp;
use robeing_proto::v1::{AttemptProgress, LogLine, TaskProgress};

use super::words::{instant, printable};

/// Formats a line without its end, with the time at which it was written if `timestamps` is set.
pub fn log_line(line: &LogLine, timestamps: bool) -> String {
    let time = instant(line.time.as_ref()).filter(|_| timestamps);
    let time = time.map(|time| format!("{time:.3}  ")).unwrap_or_default();
    let cut = if line.cut { " […]" } else { "" };
    format!("{time}{}{cut}", line.text)
}

/// Formats a progress: `42 %  reading`.
pub fn progress_text(progress: &AttemptProgress) -> String {
    // Most shares of a hundred are no binary fractions.
    let percent = (progress.fraction.clamp(0.0, 1.0) * 100.0 + 1e-6).floor();
    match printable(&progress.text).as_str() {
        "" => format!("{percent} %"),
        text => format!("{percent} %  {text}"),
    }
}

/// Formats a progress of a task as a line, as `robeing task ID --watch` prints it.
pub fn progress_line(progress: &TaskProgress, now: Timestamp) -> String {
    let TaskProgress { attempt, agent, progress, .. } = progress;
    let text = progress_text(progress.as_ref().unwrap_or(&AttemptProgress::default()));
    format!("{now:.3}  Progress  {text} (attempt {attempt} on {})\n", printable(agent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_in_whole_percent_and_never_complete_too_early() {
        let text = |fraction: f64, text: &str| progress_text(&AttemptProgress { fraction, text: text.into() });
        assert_eq!(text(0.0, ""), "0 %");
        assert_eq!(text(0.29, ""), "29 %");
        assert_eq!(text(0.999, "a\u{1b}b"), "99 %  a b");
        assert_eq!(text(1.0, "done"), "100 %  done");
        assert_eq!(text(f64::NAN, ""), "NaN %");
    }

    #[test]
    fn a_line_has_its_time_if_it_is_asked_for() {
        let time = Some(prost_types::Timestamp { seconds: 1_795_428_000, nanos: 123_000_000 });
        let line = LogLine { text: "a line".into(), time, cut: true, ..LogLine::default() };
        assert_eq!(log_line(&line, false), "a line […]");
        assert_eq!(log_line(&line, true), "2026-11-23T10:00:00.123Z  a line […]");
    }
}
