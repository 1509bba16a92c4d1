//! Planted mistakes, to check that each is noticed: mistakes in the fleet's code, which are in debug builds and in
//! release builds with the feature `sabotage`; and disks and agents that lie.

use std::str::FromStr;

use robeing_fleet::sabotage::{self, Mistake};

/// A planted mistake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sabotage {
    /// Disks report "synced" without syncing, and all coordinators lose power.
    LyingDisks,
    /// Agents return the output of another attempt.
    WrongOutput,
    /// A mistake in the fleet's code.
    Mistake(Mistake),
}

impl Sabotage {
    /// Returns all mistakes that this build can plant.
    pub fn all() -> Vec<Self> {
        let mistakes = Mistake::ALL.iter().filter(|_| sabotage::COMPILED).map(|mistake| Self::Mistake(*mistake));
        [Self::LyingDisks, Self::WrongOutput].into_iter().chain(mistakes).collect()
    }

    /// Returns its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LyingDisks => "lying-disks",
            Self::WrongOutput => "wrong-output",
            Self::Mistake(mistake) => mistake.name(),
        }
    }

    /// Plants the mistake, if it is one in the code.
    pub fn begin(self) {
        if let Self::Mistake(mistake) = self {
            sabotage::plant(mistake);
        }
    }
}

impl FromStr for Sabotage {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::all();
        let found = all.iter().find(|sabotage| sabotage.name() == name).copied();
        found.ok_or_else(|| {
            let names: Vec<&str> = all.iter().map(|sabotage| sabotage.name()).collect();
            let more = if sabotage::COMPILED { "" } else { "; builds with the feature sabotage have more" };
            format!("no such sabotage here; known: {}{more}", names.join(", "))
        })
    }
}

/// A selection of mistakes: all of them, one by its name, or the `n`th of `of` parts, written as `n/of`.
#[derive(Clone, Debug)]
pub struct Selection(pub Vec<Sabotage>);

impl FromStr for Selection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self(Sabotage::all()));
        }
        let Some((n, of)) = text.split_once('/') else { return Ok(Self(vec![text.parse()?])) };
        match (n.parse::<usize>(), of.parse::<usize>()) {
            (Ok(n), Ok(of)) if of > 0 => {
                let all = Sabotage::all().into_iter().enumerate();
                Ok(Self(all.filter(|(at, _)| at % of == n % of).map(|(_, sabotage)| sabotage).collect()))
            }
            _ => Err(format!("{text} is not a part; write it as 0/5")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_are_the_whole() {
        let parts: Vec<Sabotage> = (0..5).flat_map(|n| format!("{n}/5").parse::<Selection>().unwrap().0).collect();
        assert_eq!(parts.len(), Sabotage::all().len());
        assert!(Sabotage::all().iter().all(|sabotage| parts.contains(sabotage)));
        assert!("1/0".parse::<Selection>().is_err());
        assert!("unheard-of".parse::<Selection>().is_err());
    }
}
