//! The pages of listings: what fits in one response, and the tokens of the next ones.

use std::str::FromStr;

use prost::Message;
use robeing_proto::budget::MessageBudget;
use tonic::Status;

use crate::api::convert;

/// Returns as many of these items as fit in one message. If that is not all, also returns the cursor of the last of them,
/// after which the next page begins.
pub fn fitting<C, M: Message>(items: impl IntoIterator<Item = (C, M)>) -> (Vec<M>, Option<C>) {
    let (mut fitting, mut last) = (Vec::new(), None);
    let mut budget = MessageBudget::default();
    for (cursor, item) in items {
        // The first one always fits, so there is a last one.
        if !budget.take(item.encoded_len()) {
            return (fitting, last);
        }
        last = Some(cursor);
        fitting.push(item);
    }
    (fitting, None)
}

/// Reads the token of a page that is a number; `None` if it is empty.
pub fn page_number<N: FromStr>(token: &str) -> Result<Option<N>, Status> {
    if token.is_empty() {
        return Ok(None);
    }
    token.parse().map(Some).map_err(|_| unknown_token(token))
}

/// Returns the refusal of a token that no listing has returned.
pub fn unknown_token(token: &str) -> Status {
    let token = convert::excerpt(token);
    Status::invalid_argument(format!("page_token {token:?} was not returned by a listing; leave it empty to start"))
}

#[cfg(test)]
mod tests {
    use robeing_proto::{budget::MESSAGE_BUDGET_BYTES, v1};

    use super::*;

    #[test]
    fn a_page_is_filled_to_the_budget_of_a_message_and_the_next_one_begins_after_it() {
        let item = |bytes| v1::Refusal { message: "m".repeat(bytes), ..v1::Refusal::default() };
        let page = |sizes: &[usize]| {
            let (items, next) = fitting(sizes.iter().map(|bytes| item(*bytes)).enumerate());
            (items.len(), next)
        };
        assert_eq!(page(&[]), (0, None));
        assert_eq!(page(&[MESSAGE_BUDGET_BYTES * 2]), (1, None));
        assert_eq!(page(&[1, MESSAGE_BUDGET_BYTES / 2, 1]), (3, None));
        assert_eq!(page(&[1, MESSAGE_BUDGET_BYTES / 2, MESSAGE_BUDGET_BYTES / 2, 1]), (2, Some(1)));
    }

    #[test]
    fn a_token_is_a_number_or_empty() {
        assert_eq!(page_number::<u32>("").expect("it is the first page"), None);
        assert_eq!(page_number("7").expect("it is one"), Some(7_u32));
        assert!(page_number::<u32>("x").expect_err("it is none").message().contains("was not returned by a listing"));
    }
}
