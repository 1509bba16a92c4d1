//! The sources of values: flags and the environment. Flags take precedence; an empty environment variable counts as
//! unset.

use std::{ffi::OsString, path::PathBuf};

use clap::ArgMatches;

use super::{
    ConfigError,
    command::EXIT_WITH_PARENT,
    definition::{For, Setting},
    settings::SETTINGS,
};

/// A value and its source.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub text: String,
    /// `--flag` or the name of an environment variable.
    pub from: String,
}

impl Value {
    /// Returns an error about this value. `expected` completes a sentence after "give".
    pub fn wrong(&self, expected: &str) -> ConfigError {
        ConfigError::Wrong(format!("{} is {:?}: give {expected}", self.from, self.text))
    }

    /// Returns the comma-separated parts, without empty ones.
    pub fn list(&self) -> impl Iterator<Item = &str> {
        self.text.split(',').map(str::trim).filter(|part| !part.is_empty())
    }
}

/// The sources of values.
pub(super) struct Sources<'a> {
    matches: ArgMatches,
    env: &'a dyn Fn(&str) -> Option<OsString>,
}

impl<'a> Sources<'a> {
    pub fn read(matches: ArgMatches, env: &'a dyn Fn(&str) -> Option<OsString>) -> Result<Self, ConfigError> {
        let texts = SETTINGS.iter().map(|defined| defined.setting()).filter(|setting| !setting.is_path);
        let mut names = texts.flat_map(|setting| setting.env);
        match names.find(|name| env(name).is_some_and(|value| value.to_str().is_none())) {
            Some(name) => Err(ConfigError::Wrong(format!("{name} is not UTF-8: give it in plain text"))),
            None => Ok(Self { matches, env }),
        }
    }

    /// Returns whether `--exit-with-parent` is given.
    pub fn exit_with_parent(&self) -> bool {
        self.matches.get_flag(EXIT_WITH_PARENT)
    }

    /// Returns whether a setting is given by its flag.
    pub fn is_flag(&self, setting: &Setting) -> bool {
        self.matches.contains_id(setting.flag)
    }

    /// Returns a setting that is a path, if given. Any bytes are a valid path.
    pub fn path(&self, setting: &Setting) -> Option<PathBuf> {
        let given = self.matches.get_one::<OsString>(setting.flag).cloned();
        let from_env = || setting.env.iter().find_map(|name| (self.env)(name).filter(|value| !value.is_empty()));
        given.or_else(from_env).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// Returns a setting's value, if it is set.
    pub fn get(&self, setting: &Setting) -> Option<Value> {
        if let Some(text) = self.matches.get_one::<String>(setting.flag) {
            return Some(Value { text: text.clone(), from: format!("--{}", setting.flag) });
        }
        setting.env.iter().find_map(|name| Some(Value { text: self.env(name)?, from: (*name).to_owned() }))
    }

    /// Returns the value of a required setting. `what` describes the setting in the error.
    pub fn require(&self, setting: &Setting, what: &str) -> Result<Value, ConfigError> {
        let missing = || {
            let env = setting.env.last().copied().unwrap_or_default();
            ConfigError::Wrong(format!("{what} is missing: give --{} or set {env}", setting.flag))
        };
        self.get(setting).filter(|value| !value.text.trim().is_empty()).ok_or_else(missing)
    }

    /// Returns an environment variable, trimmed, if it is set and not empty.
    pub fn env(&self, name: &str) -> Option<String> {
        let value = (self.env)(name)?.into_string().ok()?;
        Some(value.trim().to_owned()).filter(|value| !value.is_empty())
    }

    /// Refuses flags that do not apply to this kind of process. Environment variables are allowed, because they may be
    /// shared between kinds.
    pub fn refuse(&self, others: For, this: &str) -> Result<(), ConfigError> {
        let mut theirs = SETTINGS.iter().map(|defined| defined.setting()).filter(|setting| setting.of == others);
        let misplaced = theirs.find(|setting| self.matches.contains_id(setting.flag));
        let Some(setting) = misplaced else { return Ok(()) };
        let whose = if others == For::Agents { "agents" } else { "coordinators" };
        Err(ConfigError::Wrong(format!(
            "--{} is for {whose}, but --role is {this}: remove one of the two",
            setting.flag
        )))
    }
}
