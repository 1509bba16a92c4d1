//! Votes that are signed together: one signature is of the root of a tree of hashes, whose leaves are the votes, and each
//! vote has the hashes that lead from it to the root. So each is proved without the others.
//!
//! A leaf is the SHA-256 of a zero byte and what is signed of a vote alone; an inner node that of a one byte and its two
//! children. The leaves are as many as the next power of two; those that stand for no vote are zero bytes, which no hash
//! can be made to be.

use ring::digest::{Context, SHA256};

use crate::{MAX_PATH_HASHES, PAYLOAD_TYPE, VoteError, dsse};

/// The type of the root of votes that are signed together, which is signed with it.
pub const TOGETHER_TYPE: &str = "application/vnd.robeing.votes.v1+sha256-tree";
/// Size of a hash, bytes.
const HASH_BYTES: usize = 32;
/// Begins what the hash of a leaf is of.
const LEAF: u8 = 0;
/// Begins what the hash of an inner node is of.
const NODE: u8 = 1;

pub(crate) type Hash = [u8; HASH_BYTES];

fn hash(kind: u8, parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    context.update(&[kind]);
    parts.iter().for_each(|part| context.update(part));
    let mut hash = [0; HASH_BYTES];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

/// Returns the leaf of a vote, by the bytes of its statement.
pub(crate) fn leaf(payload: &[u8]) -> Hash {
    hash(LEAF, &[&dsse::encoding(PAYLOAD_TYPE, payload)])
}

/// The tree over some votes.
pub(crate) struct Tree {
    /// The leaves, then the nodes above them, and last the root alone.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Makes the tree of these leaves.
    pub(crate) fn new(mut leaves: Vec<Hash>) -> Self {
        leaves.resize(leaves.len().next_power_of_two(), [0; HASH_BYTES]);
        let mut levels = vec![leaves];
        while let Some(below) = levels.last()
            && below.len() > 1
        {
            let above: Vec<Hash> = below.chunks_exact(2).map(|pair| hash(NODE, &[&pair[0], &pair[1]])).collect();
            levels.push(above);
        }
        Self { levels }
    }

    /// Returns the root.
    pub(crate) fn root(&self) -> Hash {
        self.levels.last().and_then(|level| level.first()).copied().unwrap_or_default()
    }

    /// Returns the hashes that lead from a leaf to the root, one after the other.
    pub(crate) fn path(&self, place: usize) -> Vec<u8> {
        let below_root = &self.levels[..self.levels.len().saturating_sub(1)];
        let besides = below_root.iter().enumerate().filter_map(|(height, level)| level.get((place >> height) ^ 1));
        besides.flatten().copied().collect()
    }
}

/// Returns the root to which a path leads from a leaf.
///
/// # Errors
/// [`VoteError::Malformed`] if the path is too long or no whole number of hashes, or there is no such place below it.
pub(crate) fn root_of(leaf: Hash, place: u32, path: &[u8]) -> Result<Hash, VoteError> {
    let malformed = |problem: &str| Err(VoteError::malformed("path of the vote", problem));
    let count = path.len() / HASH_BYTES;
    if !path.len().is_multiple_of(HASH_BYTES) {
        return malformed("it is no whole number of hashes");
    }
    if count > MAX_PATH_HASHES {
        return malformed("it has too many hashes");
    }
    if place >> count != 0 {
        return malformed("there is no such place among the votes");
    }
    let up = |(at, below): (u32, Hash), beside: &[u8]| {
        let above = if at & 1 == 0 { hash(NODE, &[&below, beside]) } else { hash(NODE, &[beside, &below]) };
        (at >> 1, above)
    };
    Ok(path.chunks_exact(HASH_BYTES).fold((place, leaf), up).1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MAX_SIGNED_TOGETHER;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count).map(|n| leaf(&n.to_be_bytes())).collect()
    }

    #[test]
    fn each_leaf_leads_to_the_root_from_its_place_and_from_no_other() {
        for count in [1, 2, 3, 5, 8, MAX_SIGNED_TOGETHER] {
            let (leaves, tree) = (leaves(count), Tree::new(leaves(count)));
            for (place, leaf) in leaves.iter().enumerate() {
                let path = tree.path(place);
                assert_eq!(path.len() / HASH_BYTES, count.next_power_of_two().trailing_zeros() as usize);
                assert_eq!(root_of(*leaf, place as u32, &path), Ok(tree.root()), "{place} of {count}");
                for other in (0..count).filter(|other| *other != place) {
                    assert_ne!(root_of(*leaf, other as u32, &path), Ok(tree.root()), "{place} of {count} at {other}");
                }
            }
        }
    }

    #[test]
    fn an_inner_node_is_no_leaf() {
        let two = Tree::new(leaves(2));
        let pair = leaves(2).concat();
        assert_ne!(leaf(&pair), two.root());
        assert_ne!(hash(LEAF, &[&pair]), two.root());
    }

    #[test]
    fn a_path_has_limits() {
        let of = |place, bytes: usize| root_of([7; HASH_BYTES], place, &vec![0; bytes]);
        assert!(of(0, 0).is_ok() && of(1, HASH_BYTES).is_ok());
        assert!(of((1 << MAX_PATH_HASHES) - 1, MAX_PATH_HASHES * HASH_BYTES).is_ok());
        for (place, bytes) in [
            (1, 0),
            (2, HASH_BYTES),
            (u32::MAX, HASH_BYTES),
            (1 << MAX_PATH_HASHES, MAX_PATH_HASHES * HASH_BYTES),
            (0, HASH_BYTES - 1),
            (0, HASH_BYTES + 1),
            (0, (MAX_PATH_HASHES + 1) * HASH_BYTES),
        ] {
            let refused = of(place, bytes);
            assert!(matches!(refused, Err(VoteError::Malformed { .. })), "{place} below {bytes}: {refused:?}");
        }
    }
}
