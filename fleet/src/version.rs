//! Versions of what [`Fleet::apply`] does. Coordinators of several versions may form one fleet, and all of them have to do the
//! same, so a new behaviour is a [`Feature`] that is in force only once all of them know it: the leader then raises the version
//! that the fleet is at, by a command. It is never lowered: what was written since could not be read.
//!
//! A feature that is in force may be used by commands, and what it adds may be in the state. Before it is in force a command that
//! needs it is refused, so nothing that a program writes is unknown to any other that knows the version in force.

use crate::{Command, Fleet, Refusal, TaskCommand};

/// The version of a fleet that was just begun.
pub const FIRST_VERSION: u32 = 1;

/// The newest version that this program knows: that of its newest feature.
pub fn known_version() -> u32 {
    let known = Feature::ALL.iter().filter(|feature| feature.is_known());
    known.map(|feature| feature.since()).max().unwrap_or(FIRST_VERSION)
}

/// A behaviour that not all versions have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Feature {
    /// Does nothing but be new, for tests of upgrades.
    #[cfg(feature = "trial")]
    Trial,
}

impl Feature {
    /// All that there are.
    pub const ALL: &[Feature] = &[
        #[cfg(feature = "trial")]
        Feature::Trial,
    ];

    /// The fleet version that brings it.
    pub fn since(self) -> u32 {
        match self {
            #[cfg(feature = "trial")]
            Feature::Trial => 2,
        }
    }

    /// Its name, for messages.
    pub fn name(self) -> &'static str {
        match self {
            #[cfg(feature = "trial")]
            Feature::Trial => "trial",
        }
    }

    /// The version of what needs this feature, or none.
    pub(crate) fn version_of(feature: Option<Feature>) -> u32 {
        feature.map_or(FIRST_VERSION, Feature::since)
    }

    fn is_known(self) -> bool {
        match self {
            #[cfg(feature = "trial")]
            Feature::Trial => trial::is_known(),
        }
    }
}

impl Command {
    /// The newest feature that it needs.
    pub fn feature(&self) -> Option<Feature> {
        match self {
            Command::Task(command) => command.feature(),
            Command::Agent(_) | Command::Pool(_) | Command::Control(_) => None,
        }
    }
}

impl TaskCommand {
    /// The newest feature that it needs.
    pub(crate) fn feature(&self) -> Option<Feature> {
        match self {
            #[cfg(feature = "trial")]
            TaskCommand::Submit(task) if task.trial => Some(Feature::Trial),
            TaskCommand::Submit(_) | TaskCommand::Cancel { .. } | TaskCommand::Complete(_) => None,
        }
    }
}

impl Fleet {
    /// Refuses a command that needs a feature that is not in force.
    pub fn check_feature(&self, command: &Command) -> Result<(), Refusal> {
        match command.feature() {
            Some(feature) if feature.since() > self.version() => Err(Refusal::NotInForce {
                feature: feature.name().to_owned(),
                since: feature.since(),
                current: self.version(),
            }),
            _ => Ok(()),
        }
    }
}

/// A program that knows [`Feature::Trial`] is made of one that does not by a word, so that tests have both.
#[cfg(feature = "trial")]
pub mod trial {
    use std::sync::atomic::{AtomicBool, Ordering};

    static KNOWN: AtomicBool = AtomicBool::new(false);

    /// Makes this process one that knows the feature. To be called first of all, and by debug builds alone: every build of the
    /// whole workspace has this module in it.
    pub fn know() {
        KNOWN.store(true, Ordering::Relaxed);
    }

    /// Whether it does.
    pub fn is_known() -> bool {
        KNOWN.load(Ordering::Relaxed)
    }
}
