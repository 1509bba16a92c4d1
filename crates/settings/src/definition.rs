//! The definition of a setting: its flag, its environment variables, the processes it applies to, its bounds and its
//! default.

use std::{fmt, time::Duration};

use super::text;

/// The processes that a setting applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum For {
    /// Coordinators and agents.
    Both,
    /// Coordinators.
    Coordinators,
    /// Agents.
    Agents,
}

/// One setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The long flag, without the leading dashes.
    pub flag: &'static str,
    /// Environment variables, at least one. The first that is set is read; the first in the list is written.
    pub env: &'static [&'static str],
    /// The processes that the setting applies to.
    pub of: For,
    /// The placeholder for the value in the help text.
    pub(crate) value: &'static str,
    /// The description in the help text.
    pub(crate) help: &'static str,
    /// The default shown in the help text, if it is not the default that [`Defined`] knows.
    pub(crate) unset: Option<&'static str>,
    /// Whether the value is a path, which need not be UTF-8.
    pub(crate) is_path: bool,
}

impl Setting {
    pub(crate) const fn new(
        of: For,
        flag: &'static str,
        env: &'static [&'static str],
        value: &'static str,
        help: &'static str,
    ) -> Self {
        Self { flag, env, of, value, help, unset: None, is_path: false }
    }

    /// Sets the default shown in the help text.
    pub(crate) const fn unset(self, shown: &'static str) -> Self {
        Self { unset: Some(shown), ..self }
    }

    /// Marks the value as a path.
    pub(crate) const fn path(self) -> Self {
        Self { is_path: true, ..self }
    }

    /// Returns the environment variable to write.
    pub const fn variable(&self) -> &'static str {
        self.env[0]
    }

    /// Returns flag and value as one argument, so that a value that begins with a dash is not taken for a flag.
    pub fn argument(&self, value: &str) -> String {
        format!("--{}={value}", self.flag)
    }
}

/// A setting that is a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<T> {
    /// Its names and description.
    pub setting: Setting,
    /// The least accepted value.
    pub least: T,
    /// The greatest accepted value.
    pub most: T,
    /// The value if it is not set.
    pub default: T,
}

/// A setting that is a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Its names and description.
    pub setting: Setting,
    /// The shortest accepted duration.
    pub least: Duration,
    /// The longest accepted duration.
    pub most: Duration,
    /// The value if it is not set.
    pub default: Duration,
}

/// One term of an agent's score for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Its name in the weights setting.
    pub name: &'static str,
    /// The least accepted weight, in points.
    pub least: i32,
    /// The greatest accepted weight, in points.
    pub most: i32,
    /// The weight if it is not set, in points.
    pub default: i32,
}

impl Term {
    /// Returns whether `points` is an accepted weight.
    pub fn takes(&self, points: i32) -> bool {
        (self.least..=self.most).contains(&points)
    }
}

/// The definition of a setting of any type.
pub trait Defined {
    /// The setting's names and description.
    fn setting(&self) -> &Setting;

    /// The default as the help text shows it.
    fn shown_default(&self) -> Option<String>;
}

impl Defined for Setting {
    fn setting(&self) -> &Setting {
        self
    }

    fn shown_default(&self) -> Option<String> {
        self.unset.map(str::to_owned)
    }
}

impl<T: fmt::Display> Defined for Number<T> {
    fn setting(&self) -> &Setting {
        &self.setting
    }

    fn shown_default(&self) -> Option<String> {
        self.setting.shown_default().or_else(|| Some(self.default.to_string()))
    }
}

impl Defined for Span {
    fn setting(&self) -> &Setting {
        &self.setting
    }

    fn shown_default(&self) -> Option<String> {
        self.setting.shown_default().or_else(|| Some(text::duration(self.default)))
    }
}
