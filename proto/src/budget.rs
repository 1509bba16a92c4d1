//! Limits on the size of one message. Every message that collects items (answers, changes, completions, log entries) is
//! filled by these rules, so that no message exceeds the transport's limit, regardless of how many items wait and how
//! large they are.

use crate::MAX_MESSAGE_BYTES;

/// The budget of one message, in bytes. A single larger item is sent alone.
pub const MESSAGE_BUDGET_BYTES: usize = 1024 * 1024;
/// The maximum size of a single item of any message, in bytes: a task with its input, its output and the failures of
/// its attempts.
pub const MAX_ITEM_BYTES: usize = 4 * 1024 * 1024;

/// Maximum number of letters that are sent to the mailbox of an agent and not settled yet.
pub const MAX_UNANSWERED_LETTERS: usize = 64;
/// Of [`MAX_UNANSWERED_LETTERS`], and of their bytes, one in this many is kept free for letters of a priority above the
/// default.
pub const URGENT_LETTERS_SHARE: usize = 4;
/// Maximum size of the letters that are sent to the mailbox of an agent and not settled yet, in bytes. A single larger
/// one is sent alone.
pub const MAX_UNANSWERED_LETTER_BYTES: usize = 4 * 1024 * 1024;

const _: () = assert!(
    MESSAGE_BUDGET_BYTES + MAX_ITEM_BYTES < MAX_MESSAGE_BYTES / 2,
    "a message filled to its budget, or with one item of the largest size, is far below the transport's limit"
);

/// Tracks how much of one message's budget is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct MessageBudget {
    bytes: usize,
    items: usize,
}

impl MessageBudget {
    /// Adds an item of `bytes` if it fits, and returns whether it does. The first item of a message always fits.
    #[must_use]
    pub fn take(&mut self, bytes: usize) -> bool {
        let bytes = self.bytes.saturating_add(bytes);
        let fits = self.items == 0 || bytes <= MESSAGE_BUDGET_BYTES;
        if fits {
            self.bytes = bytes;
            self.items += 1;
        }
        fits
    }
}

/// Splits items, in order, into groups that fit one message each. `size` returns an item's size in bytes.
pub fn in_messages<T>(items: impl IntoIterator<Item = T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut groups: Vec<Vec<T>> = Vec::new();
    let mut budget = MessageBudget::default();
    for item in items {
        let bytes = size(&item);
        match groups.last_mut() {
            Some(group) if budget.take(bytes) => group.push(item),
            _ => {
                budget = MessageBudget::default();
                // The first item always fits.
                let _ = budget.take(bytes);
                groups.push(vec![item]);
            }
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(sizes: &[usize]) -> Vec<Vec<usize>> {
        in_messages(sizes.iter().copied(), |size| *size)
    }

    #[test]
    fn a_message_is_filled_to_its_budget_and_not_beyond() {
        const HALF: usize = MESSAGE_BUDGET_BYTES / 2;
        assert_eq!(sizes(&[]), Vec::<Vec<usize>>::new());
        assert_eq!(sizes(&[HALF, HALF, 1]), [vec![HALF, HALF], vec![1]]);
        assert_eq!(sizes(&[HALF, HALF + 1, 1]), [vec![HALF], vec![HALF + 1, 1]]);
        assert_eq!(sizes(&[MESSAGE_BUDGET_BYTES, 0, 1]), [vec![MESSAGE_BUDGET_BYTES, 0], vec![1]]);
    }

    #[test]
    fn an_item_beyond_the_budget_goes_alone() {
        const LARGE: usize = MESSAGE_BUDGET_BYTES + 1;
        assert_eq!(sizes(&[1, LARGE, LARGE, 1]), [vec![1], vec![LARGE], vec![LARGE], vec![1]]);
        assert_eq!(sizes(&[usize::MAX, usize::MAX]).len(), 2, "sizes are added without overflow");
    }
}
