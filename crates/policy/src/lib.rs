//! Guardian policies in CEL on submissions, results and messages, and a watch for agents that behave unlike themselves.
//!
//! [`PolicySet::compile`] checks policies once; [`PolicySet::evaluate`] decides about one input. Both are pure, never
//! panic, and are bounded in time, memory and stack by the [`limits`]. Policies are evaluated before anything is
//! proposed to the fleet, so that coordinators of different versions can't disagree about the verdict.
//!
//! [`Watch`](anomaly::Watch) compares what an agent does with what it did before.

pub mod anomaly;
mod canonical;
mod cel;
mod error;
mod input;
mod json;
pub mod limits;
mod redact;
mod rights;
mod set;
mod spec;
mod stored;
mod verdict;

pub use crate::{
    canonical::canonical_part,
    error::{AmbiguousJson, EvalError, ExpressionError, PolicyError, Problem},
    input::{Failure, Input, Message, Object, Submission, TaskResult},
    redact::{REDACTED, redact},
    rights::rights_of_role,
    set::PolicySet,
    spec::{Action, ApprovalSpec, Event, FailurePolicy, PolicySpec},
    stored::{ApprovalDemand, Checked, Deed, PolicyRefusal, StoredPolicies},
    verdict::{Decision, Outcome, Redacted, Redaction, Traced, Verdict},
};
