//! Policies as a fleet keeps them: texts, which another version may have written.

use bytes::Bytes;

use crate::{
    error::PolicyError,
    input::Input,
    redact::redact,
    set::PolicySet,
    spec::{ApprovalSpec, Event, FailurePolicy, PolicySpec},
    verdict::{Decision, Outcome, Redaction, Traced},
};

/// Policies that were read from a fleet.
#[derive(Debug, Default)]
pub struct StoredPolicies {
    set: PolicySet,
    /// Policies that a later version has written and this one can't use: what they concern is refused.
    broken: Vec<Broken>,
    asks_for_rights: bool,
}

/// A policy that can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Broken {
    name: String,
    on: Vec<Event>,
    problem: String,
}

/// What becomes of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Checked {
    /// It is allowed as it is.
    Allowed,
    /// It is allowed with this payload instead of its own.
    Redacted(Bytes),
    /// It is refused.
    Refused(PolicyRefusal),
}

/// Why policies refuse an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyRefusal {
    /// Somebody would have to approve it.
    pub needs_approval: bool,
    /// A sentence that names the policy.
    pub message: String,
    /// What has to be approved by whom, if somebody can; only of submissions.
    pub approval: Option<Box<ApprovalDemand>>,
}

/// The approval that an input needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApprovalDemand {
    /// The name of the policy that requires it.
    pub policy: String,
    /// Who approves.
    pub by: ApprovalSpec,
    /// What replaces the payload, if policies redact it.
    pub redacted: Option<Bytes>,
}

/// What a policy did, for metrics and the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// The name of the policy.
    pub policy: String,
    /// `denied`, `redacted`, `approval_required`, `failed_closed` or `failed_open`.
    pub outcome: &'static str,
    /// More about it.
    pub detail: String,
}

impl PolicySpec {
    /// Reads a policy from JSON, with the fields of the resource.
    ///
    /// # Errors
    /// What is wrong with the JSON.
    pub fn from_json(json: &str) -> Result<Self, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    /// Returns the policy as canonical JSON: equal policies give equal texts.
    pub fn to_json(&self) -> String {
        // Texts, lists and names of variants are always JSON.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl StoredPolicies {
    /// Reads policies from JSON. None is left out without a word: see [`StoredPolicies::problems`].
    pub fn read<'a>(policies: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut specs, mut broken) = (Vec::new(), Vec::new());
        for (n, json) in policies.into_iter().enumerate() {
            match PolicySpec::from_json(json) {
                Ok(spec) => specs.push(spec),
                // Nobody can tell what it concerns.
                Err(problem) => {
                    broken.push(Broken { name: format!("{} of the list", n + 1), on: Event::ALL.to_vec(), problem });
                }
            }
        }
        let set = loop {
            match PolicySet::compile(&specs) {
                Ok(set) => break set,
                Err(errors) => {
                    let before = specs.len();
                    broken.extend(take_out(&mut specs, &errors));
                    if specs.len() == before {
                        let problem = errors.first().map(ToString::to_string).unwrap_or_default();
                        broken.push(Broken { name: "list".to_owned(), on: Event::ALL.to_vec(), problem });
                        specs.clear();
                    }
                }
            }
        };
        Self { asks_for_rights: specs.iter().any(may_ask_for_rights), set, broken }
    }

    /// Returns the policies that can't be used, each with what is wrong with it. What they concern is refused.
    pub fn problems(&self) -> impl Iterator<Item = (&str, &str)> {
        self.broken.iter().map(|broken| (&*broken.name, &*broken.problem))
    }

    /// Returns whether anything is to be evaluated on an event.
    pub fn concerns(&self, event: Event) -> bool {
        !self.set.is_empty_for(event) || self.broken.iter().any(|broken| broken.on.contains(&event))
    }

    /// Returns whether an expression may look at `request.rights`, which may be expensive to find out.
    pub fn asks_for_rights(&self) -> bool {
        self.asks_for_rights
    }

    /// Decides about an input, whose payload is `payload`. Returns what policies did, besides those that it passed.
    pub fn check(&self, input: &Input<'_>, payload: &Bytes) -> (Checked, Vec<Deed>) {
        let event = input.event();
        if let Some(Broken { name, problem, .. }) = self.broken.iter().find(|broken| broken.on.contains(&event)) {
            let message = format!("policy {name} can't be used by this version ({problem}), and fails closed");
            let deed = Deed { policy: name.clone(), outcome: "failed_closed", detail: problem.clone() };
            return (Checked::Refused(PolicyRefusal { needs_approval: false, message, approval: None }), vec![deed]);
        }
        let verdict = self.set.evaluate(input);
        let deeds = verdict.trace.iter().filter_map(|traced| deed(traced, &verdict.decision)).collect();
        let checked = match verdict.decision {
            Decision::Deny { policy, message } => Checked::Refused(refusal(false, &policy, message)),
            Decision::RequireApproval { policy, message, approval } => {
                let refusal = refusal(true, &policy, message);
                let redacted = redacted(payload, &verdict.redactions);
                let demand = |by| Box::new(ApprovalDemand { policy, by, redacted });
                Checked::Refused(PolicyRefusal { approval: approval.map(demand), ..refusal })
            }
            Decision::Allow => redacted(payload, &verdict.redactions).map_or(Checked::Allowed, Checked::Redacted),
        };
        (checked, deeds)
    }
}

/// Returns the payload as policies redact it; `None` if they leave it as it is.
fn redacted(payload: &Bytes, redactions: &[Redaction]) -> Option<Bytes> {
    if redactions.is_empty() {
        return None;
    }
    Some(redact(payload, redactions)).filter(|redacted| redacted != payload)
}

/// Takes the policies with errors out of the list. Those that fail open are left out.
fn take_out(specs: &mut Vec<PolicySpec>, errors: &[PolicyError]) -> Vec<Broken> {
    let problem_of = |spec: &PolicySpec| errors.iter().find(|error| error.policy == spec.name);
    let broken = specs.iter().filter(|spec| spec.failure_policy == FailurePolicy::Closed).filter_map(|spec| {
        let problem = problem_of(spec)?.problem.to_string();
        Some(Broken { name: spec.name.clone(), on: spec.on.clone(), problem })
    });
    let broken = broken.collect();
    specs.retain(|spec| problem_of(spec).is_none());
    broken
}

fn may_ask_for_rights(spec: &PolicySpec) -> bool {
    let optional = [&spec.condition, &spec.message_expression];
    let mut texts = optional.into_iter().flatten().chain([&spec.rule]);
    texts.any(|text| text.contains("request"))
}

/// Returns the refusal. Messages that don't name the policy get its name.
fn refusal(needs_approval: bool, policy: &str, message: String) -> PolicyRefusal {
    let message = match message.starts_with(&format!("policy {policy} ")) {
        true => message,
        false => format!("policy {policy} denies this: {message}"),
    };
    PolicyRefusal { needs_approval, message, approval: None }
}

fn deed(traced: &Traced, decision: &Decision) -> Option<Deed> {
    let (outcome, detail) = match (&traced.outcome, decision) {
        (Outcome::NotApplicable | Outcome::Passed | Outcome::Allowed, _) => return None,
        (Outcome::Denied, Decision::Deny { message, .. }) => ("denied", message.clone()),
        (Outcome::Denied, _) => ("denied", String::new()),
        (Outcome::Redacted, _) => ("redacted", String::new()),
        (Outcome::ApprovalRequired, Decision::RequireApproval { message, .. }) => {
            ("approval_required", message.clone())
        }
        (Outcome::ApprovalRequired, _) => ("approval_required", String::new()),
        (Outcome::FailedClosed(reason), _) => ("failed_closed", reason.clone()),
        (Outcome::FailedOpen(reason), _) => ("failed_open", reason.clone()),
    };
    Some(Deed { policy: traced.policy.clone(), outcome, detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::input::{Object, Submission};

    fn policy(name: &str, more: &str) -> String {
        format!(r#"{{"name": "{name}", "events": ["Submission"], {more}}}"#)
    }

    fn read(policies: &[String]) -> StoredPolicies {
        StoredPolicies::read(policies.iter().map(String::as_str))
    }

    fn check(policies: &StoredPolicies, payload: &'static str) -> Checked {
        let payload = Bytes::from_static(payload.as_bytes());
        let object = Object::Submission(Submission { kind: "k", input: &payload, ..Submission::default() });
        policies.check(&Input { user: "ann", rights: &[], object }, &payload).0
    }

    fn refused(message: &str) -> Checked {
        Checked::Refused(PolicyRefusal { needs_approval: false, message: message.to_owned(), approval: None })
    }

    #[test]
    fn a_refusal_names_its_policy_and_a_redaction_that_changes_nothing_is_none() {
        let hide = r#""rule": "has(json.token)", "match": "json != null", "action": "redact", "fields": ["/token"]"#;
        let policies = read(&[
            policy("quiet", r#""rule": "text == 'no'", "action": "deny", "message": "not now""#),
            policy("hide", hide),
        ]);
        assert!(policies.concerns(Event::Submission) && !policies.concerns(Event::Message));
        assert!(!policies.asks_for_rights());
        assert_eq!(check(&policies, "no"), refused("policy quiet denies this: not now"));
        assert_eq!(check(&policies, r#"{"token": "t"}"#), Checked::Redacted(r#"{"token": "[redacted]"}"#.into()));
        assert_eq!(check(&policies, r#"{"token": "[redacted]"}"#), Checked::Allowed);
        assert_eq!(check(&policies, "yes"), Checked::Allowed);
    }

    #[test]
    fn what_this_version_can_not_use_fails_closed_unless_it_says_otherwise() {
        let good = policy("good", r#""rule": "text == 'no'", "action": "deny", "message": "m""#);
        let with = |policy: String| read(&[policy, good.clone()]);
        let closed = with(policy("new", r#""rule": "later(text)", "action": "deny""#));
        let Checked::Refused(refusal) = check(&closed, "yes") else { panic!("it fails open") };
        assert!(refusal.message.starts_with("policy new can't be used by this version ("), "{refusal:?}");
        assert!(!closed.concerns(Event::Result), "the policy concerns submissions");
        assert_eq!(closed.problems().map(|(name, _)| name).collect::<Vec<_>>(), ["new"]);
        let open = with(policy("new", r#""rule": "later(text)", "action": "deny", "failurePolicy": "Open""#));
        assert_eq!(check(&open, "yes"), Checked::Allowed);
        assert_eq!(check(&open, "no"), refused("policy good denies this: m"));
        let unreadable = with(r#"{"later": true}"#.to_owned());
        assert!(Event::ALL.into_iter().all(|event| unreadable.concerns(event)), "nobody can tell");
        assert!(matches!(check(&unreadable, "yes"), Checked::Refused(_)));
        let many = read(&vec![good; crate::limits::MAX_POLICIES + 1]);
        assert!(matches!(check(&many, "yes"), Checked::Refused(_)), "it is not known which of them count");
    }

    #[test]
    fn an_approval_that_somebody_can_give_is_told_with_what_is_redacted() {
        let hide = r#""rule": "has(json.token)", "match": "json != null", "action": "redact", "fields": ["/token"]"#;
        let approve = r#""rule": "size > 3", "action": "requireApproval", "message": "it is large",
            "approval": {"electorate": ["role:guardian", "client:ada=2"], "threshold": "1/2", "deadlineSeconds": 60}"#;
        let policies = read(&[policy("hide", hide), policy("large", approve)]);
        let Checked::Refused(refused) = check(&policies, r#"{"token": "t"}"#) else { panic!("it is allowed") };
        assert_eq!(refused.message, "policy large requires an approval: it is large");
        let demand = refused.approval.expect("somebody can approve");
        assert_eq!((&*demand.policy, demand.redacted.as_deref()), ("large", Some(&br#"{"token": "[redacted]"}"#[..])));
        assert_eq!(demand.by.electorate, ["role:guardian", "client:ada=2"]);
        assert_eq!((demand.by.threshold.as_deref(), demand.by.deadline_seconds), (Some("1/2"), Some(60)));
        let other = approve.replace("role:guardian", "everyone");
        let both = read(&[policy("large", approve), policy("other", &other)]);
        let Checked::Refused(refused) = check(&both, "long") else { panic!("it is allowed") };
        assert_eq!((refused.needs_approval, &refused.approval), (true, &None), "{}", refused.message);
        let same = read(&[policy("large", approve), policy("again", approve)]);
        let Checked::Refused(refused) = check(&same, "long") else { panic!("it is allowed") };
        assert!(refused.approval.is_some_and(|demand| demand.policy == "large"));
    }

    #[test]
    fn only_what_may_look_at_rights_asks_for_them() {
        let asks =
            |rule: &str| read(&[policy("a", &format!(r#""rule": {rule:?}, "action": "deny""#))]).asks_for_rights();
        assert!(asks("'admin' in request.rights") && asks("request['rights'].size() > 0"));
        assert!(!asks("object.kind == 'a'"));
    }
}
