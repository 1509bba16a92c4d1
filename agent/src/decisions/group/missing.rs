//! Which missing decisions no other member has any more.

/// What other members have answered, since one of them gave the decision that is asked for.
#[derive(Debug, Default)]
pub struct Missing {
    /// How many answers were without it.
    without: usize,
    /// The lowest number of a later decision that was in them.
    behind: Option<u64>,
}

impl Missing {
    /// Takes the answer of one of so many other members, who are asked in turn for decisions from `wanted` on. Returns
    /// the number to continue with if none of them has `wanted`, but one has later ones: they have removed the others.
    pub fn answered(&mut self, wanted: u64, got: impl Iterator<Item = u64>, others: usize) -> Option<u64> {
        let first = got.filter(|number| *number >= wanted).min();
        if first == Some(wanted) {
            *self = Self::default();
            return None;
        }
        self.without += 1;
        self.behind = self.behind.into_iter().chain(first).min();
        if self.without < others {
            return None;
        }
        std::mem::take(self).behind
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_other_member_has_is_passed_over_once_all_were_asked() {
        let mut missing = Missing::default();
        assert_eq!(missing.answered(1, [40, 41].into_iter(), 3), None);
        assert_eq!(missing.answered(1, [].into_iter(), 3), None, "it is away");
        assert_eq!(missing.answered(1, [30, 31].into_iter(), 3), Some(30));
        // For what comes then, all are asked again.
        assert_eq!(missing.answered(30, [30].into_iter(), 3), None);
        assert_eq!(missing.answered(50, [60].into_iter(), 3), None);
        assert_eq!(missing.answered(50, [60].into_iter(), 3), None);
        assert_eq!(missing.answered(50, [50, 60].into_iter(), 3), None, "the last one has it");
        assert_eq!(missing.answered(50, [60].into_iter(), 3), None);
        // Nobody has any: they are asked again.
        let mut missing = Missing::default();
        for _ in 0..7 {
            assert_eq!(missing.answered(1, [].into_iter(), 3), None);
        }
    }
}
