//! How many members are enough for what (1999, section 3; 2002, section 2.1).

use crate::{
    limits::{MAX_MEMBERS, MIN_MEMBERS},
    sabotage::{Mistake, planted},
};

/// The sizes of a group, all derived from its number of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Quorums {
    members: usize,
}

impl Quorums {
    /// Returns the sizes for this number of members, or nothing if it is not between 4 and [`MAX_MEMBERS`].
    pub fn of(members: usize) -> Option<Self> {
        (MIN_MEMBERS..=MAX_MEMBERS).contains(&members).then_some(Self { members })
    }

    /// The number of members, n.
    pub fn members(self) -> usize {
        self.members
    }

    /// The number of members that may lie: f = ⌊(n−1)/3⌋.
    pub fn faulty(self) -> usize {
        self.members.saturating_sub(1) / 3
    }

    /// The size of every quorum and certificate: ⌈(n+f+1)/2⌉. Two of them share an honest member, and the honest
    /// members are one.
    pub fn quorum(self) -> usize {
        let quorum = (self.members + self.faulty() + 1).div_ceil(2);
        if planted(Mistake::QuorumOfOneLess) { quorum - 1 } else { quorum }
    }

    /// The size of a weak certificate: f + 1 members, one of which is honest.
    pub fn weak(self) -> usize {
        self.faulty() + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_quorums_share_an_honest_member_and_the_honest_are_one() {
        for members in MIN_MEMBERS..=MAX_MEMBERS {
            let sizes = Quorums::of(members).unwrap();
            let (n, f, q) = (sizes.members(), sizes.faulty(), sizes.quorum());
            assert!(3 * f < n && 3 * (f + 1) >= n);
            assert!(2 * q - n > f, "{n}");
            assert!(q <= n - f, "{n}");
            assert!(2 * (q - 1) - n <= f, "a smaller quorum would do for {n}");
        }
    }

    #[test]
    fn groups_outside_the_limits_have_no_sizes() {
        assert_eq!(Quorums::of(MIN_MEMBERS - 1), None);
        assert_eq!(Quorums::of(MAX_MEMBERS + 1), None);
        assert_eq!(Quorums::of(4).unwrap().quorum(), 3);
        assert_eq!(Quorums::of(5).unwrap().quorum(), 4);
        assert_eq!(Quorums::of(7).unwrap().quorum(), 5);
    }
}
