//! The command that sets the policies.

use std::{collections::BTreeSet, sync::Arc};

use bilrost::Oneof;

use super::{PolicyList, StoredPolicy};
use crate::{
    AuditOutcome, Effect, Fleet, Refusal, Reply,
    audit_log::action,
    config::{check_name, invalid},
    limits::{MAX_POLICIES, MAX_POLICIES_BYTES, MAX_POLICY_BYTES},
};

/// A command for the policies. It needs [`Feature::Policies`](crate::Feature::Policies). All domains share one range of
/// field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum PolicyCommand {
    /// Replaces all policies. Nothing changes if they are the same. Recorded in the audit log otherwise.
    #[bilrost(tag(24), message)]
    Set {
        /// The policies, in the order in which they are evaluated.
        #[bilrost(1)]
        policies: Vec<StoredPolicy>,
        /// Who sets them; cut to [`MAX_ACTOR_BYTES`](crate::limits::MAX_ACTOR_BYTES).
        #[bilrost(2)]
        by: String,
    },
}

impl StoredPolicy {
    /// Refuses policies that are out of bounds, whatever the fleet's state.
    pub fn check_all(policies: &[StoredPolicy]) -> Result<(), Refusal> {
        if policies.len() > MAX_POLICIES {
            let problem = format!("has {} entries, the most is {MAX_POLICIES}; merge some", policies.len());
            return Err(invalid("policies", problem));
        }
        let mut names = BTreeSet::new();
        for policy in policies {
            check_name("policies.name", &policy.name)?;
            if !names.insert(&policy.name) {
                return Err(invalid("policies.name", format!("{:?} is there twice", policy.name)));
            }
            if policy.json.len() > MAX_POLICY_BYTES {
                let problem = format!(
                    "policy {} has {} bytes as JSON, the most is {MAX_POLICY_BYTES}; split it",
                    policy.name,
                    policy.json.len()
                );
                return Err(invalid("policies", problem));
            }
        }
        let bytes: usize = policies.iter().map(StoredPolicy::bytes).sum();
        match bytes > MAX_POLICIES_BYTES {
            true => {
                let problem = format!("all have {bytes} bytes as JSON, the most is {MAX_POLICIES_BYTES}; shorten some");
                Err(invalid("policies", problem))
            }
            false => Ok(()),
        }
    }

    fn bytes(&self) -> usize {
        self.name.len() + self.json.len()
    }
}

impl Fleet {
    pub(crate) fn run_policies(&mut self, command: PolicyCommand, effects: &mut Vec<Effect>) -> Reply {
        const SUBJECT: &str = "policies";
        let PolicyCommand::Set { policies, by } = command;
        if let Err(refusal) = StoredPolicy::check_all(&policies) {
            let detail = refusal.to_string();
            self.record(&by, action::SET_POLICIES, SUBJECT, AuditOutcome::Failed, detail);
            return Reply::Refused(refusal);
        }
        let known = self.state.policies.as_deref();
        if known.map_or(&[][..], |known| &known.policies) == policies {
            return Reply::PoliciesSet { revision: known.map_or(0, |known| known.revision) };
        }
        let names: Vec<&str> = policies.iter().map(|policy| policy.name.as_str()).collect();
        let detail = match names.as_slice() {
            [] => "none".to_owned(),
            names => format!("{}: {}", names.len(), names.join(", ")),
        };
        self.record(&by, action::SET_POLICIES, SUBJECT, AuditOutcome::Done, detail);
        let revision = self.next_revision();
        self.state.policies = Some(Arc::new(PolicyList { revision, policies }));
        effects.push(Effect::PoliciesChanged);
        Reply::PoliciesSet { revision }
    }
}
