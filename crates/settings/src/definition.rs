//! What a definition of a setting says: its flag, its environment names, whom it is for, its bounds and its default.

use std::{fmt, time::Duration};

use super::text;

/// The processes a setting is for.
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
    /// The long flag, without its dashes.
    pub flag: &'static str,
    /// Environment names, at least one. The first that is set is read; the first of all is written.
    pub env: &'static [&'static str],
    /// Whom it is for.
    pub of: For,
    /// What help calls its value.
    pub(crate) value: &'static str,
    /// What help says of it.
    pub(crate) help: &'static str,
    /// What help shows as its default, where that is not the value that [`Defined`] knows.
    pub(crate) unset: Option<&'static str>,
}

impl Setting {
    pub(crate) const fn new(
        of: For,
        flag: &'static str,
        env: &'static [&'static str],
        value: &'static str,
        help: &'static str,
    ) -> Self {
        Self { flag, env, of, value, help, unset: None }
    }

    /// With what help shows as its default.
    pub(crate) const fn unset(self, shown: &'static str) -> Self {
        Self { unset: Some(shown), ..self }
    }

    /// The environment name that is written.
    pub const fn variable(&self) -> &'static str {
        self.env[0]
    }

    /// The flag with a value, in one word, so that a value that begins with a dash is no flag.
    pub fn argument(&self, value: &str) -> String {
        format!("--{}={value}", self.flag)
    }
}

/// A setting that is a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number<T> {
    /// What it is called.
    pub setting: Setting,
    /// The least that is taken.
    pub least: T,
    /// The most.
    pub most: T,
    /// What it is where it is not said.
    pub default: T,
}

/// A setting that is a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// What it is called.
    pub setting: Setting,
    /// The shortest that is taken.
    pub least: Duration,
    /// The longest.
    pub most: Duration,
    /// What it is where it is not said.
    pub default: Duration,
}

/// The points of one term of an agent's score for a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// What it is called.
    pub name: &'static str,
    /// The least that is taken, points.
    pub least: i32,
    /// The most, points.
    pub most: i32,
    /// What it is where it is not said, points.
    pub default: i32,
}

impl Term {
    /// Whether it may have so many points.
    pub fn takes(&self, points: i32) -> bool {
        (self.least..=self.most).contains(&points)
    }
}

/// A definition of a setting, of whatever type.
pub trait Defined {
    /// What it is called.
    fn setting(&self) -> &Setting;

    /// What it is where it is not said, as help shows it.
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
