//! What the leader knows of the activity of agents, beside the fleet's state: it is told by heartbeats, which no log
//! contains.

use std::sync::Arc;

use robeing_fleet::AgentId;
use robeing_proto::v1;

use crate::{
    apply::observer::ApplyObserver,
    leader::membership_change::{ChangeError, MembershipChange},
    read::StateReader,
};

/// Number of agents on a page, the most.
pub const PAGE: usize = 1_000;

/// What the leader carries calls out with.
#[derive(Clone)]
pub struct Leading {
    pub change: MembershipChange,
    pub state: StateReader,
    pub observer: Arc<ApplyObserver>,
}

impl Leading {
    /// Returns a page of the activity of the connected agents.
    ///
    /// # Errors
    /// [`ChangeError`] if this coordinator does not lead, or the token was not returned by a page.
    pub fn activity(&self, page_token: &str) -> Result<v1::ListActivityResponse, ChangeError> {
        let after = match page_token {
            "" => None,
            token => Some(AgentId(token.parse().map_err(|_| invalid_token(token))?)),
        };
        let sent = self.observer.sessions.messages_sent(after, PAGE).ok_or(ChangeError::NotLeader)?;
        let last = sent.last().map(|(agent, ..)| agent.0.to_string());
        let next_page_token = last.filter(|_| sent.len() == PAGE).unwrap_or_default();
        let agents = self.state.look(|fleet| {
            let activity = |(id, session, messages_sent)| {
                let agent = fleet.agent(id).filter(|agent| agent.session == session)?;
                let incarnation = format!("{:016x}", agent.incarnation);
                Some(v1::AgentActivity { agent: agent.name.to_string(), incarnation, messages_sent })
            };
            sent.into_iter().filter_map(activity).collect()
        });
        Ok(v1::ListActivityResponse { agents, next_page_token })
    }
}

fn invalid_token(token: &str) -> ChangeError {
    let token = &token[..token.floor_char_boundary(64)];
    ChangeError::Invalid(format!("page_token {token:?} was not returned by a listing; leave it empty to start"))
}
