//! A set of policies, compiled and evaluated in order.

use std::collections::BTreeSet;

use crate::{
    cel::{self, Budget, Program, Value},
    error::{EvalError, PolicyError, Problem},
    input::{Input, Prepared},
    limits::{
        MAX_APPROVAL_SECONDS, MAX_APPROVER_BYTES, MAX_APPROVERS, MAX_FIELDS, MAX_MESSAGE_BYTES, MAX_NAME_BYTES,
        MAX_PATTERNS, MAX_POLICIES, MAX_STEPS, MAX_STEPS_OF_ALL, MAX_THRESHOLD_BYTES,
    },
    redact::Pointer,
    spec::{Action, ApprovalSpec, Event, FailurePolicy, PolicySpec},
    verdict::{Decision, Outcome, Redacted, Redaction, Traced, Verdict, shorten},
};

/// Compiled policies, in their order.
#[derive(Debug, Default)]
pub struct PolicySet {
    policies: Vec<Policy>,
}

/// A compiled policy.
#[derive(Debug)]
struct Policy {
    name: String,
    on: Vec<Event>,
    condition: Option<Program>,
    rule: Program,
    action: Action,
    fields: Vec<String>,
    approval: Option<ApprovalSpec>,
    message: String,
    message_expression: Option<Program>,
    failure_policy: FailurePolicy,
}

impl PolicySet {
    /// Compiles policies.
    ///
    /// # Errors
    /// Everything that is wrong with them, at most one error for each field.
    pub fn compile(specs: &[PolicySpec]) -> Result<Self, Vec<PolicyError>> {
        if specs.len() > MAX_POLICIES {
            let problem = Problem::TooManyPolicies(specs.len());
            return Err(vec![PolicyError { policy: String::new(), field: "policies", problem }]);
        }
        let (mut policies, mut errors, mut names, mut patterns) = (Vec::new(), Vec::new(), BTreeSet::new(), 0);
        for spec in specs {
            let before = errors.len();
            check_fields(spec, &mut errors);
            if !names.insert(spec.name.as_str()) {
                errors.push(error(spec, "name", Problem::Duplicate));
            }
            let compiled = compile(spec, &mut errors);
            patterns += compiled.as_ref().map_or(0, Policy::patterns);
            if patterns > MAX_PATTERNS {
                errors.push(error(spec, "rule", Problem::TooManyPatterns(patterns)));
                break;
            }
            policies.extend(compiled.filter(|_| errors.len() == before));
        }
        if errors.is_empty() { Ok(Self { policies }) } else { Err(errors) }
    }

    /// Returns whether no policy is evaluated on an event, so that its input need not be prepared.
    pub fn is_empty_for(&self, event: Event) -> bool {
        !self.policies.iter().any(|policy| policy.on.contains(&event))
    }

    /// Evaluates the policies for an input, in their order.
    ///
    /// The first `deny` wins, also over an earlier `requireApproval`; redactions accumulate; `allow` skips all later
    /// policies. Equal inputs have equal verdicts. Takes [`MAX_STEPS_OF_ALL`] steps at most.
    pub fn evaluate(&self, input: &Input<'_>) -> Verdict {
        let prepared = Prepared::new(input);
        let event = input.event();
        let mut verdict = Verdict { decision: Decision::Allow, redactions: Vec::new(), trace: Vec::new() };
        let mut left = MAX_STEPS_OF_ALL;
        for policy in self.policies.iter().filter(|policy| policy.on.contains(&event)) {
            let granted = left.min(MAX_STEPS);
            let mut budget = Budget::of(granted);
            let outcome = policy.outcome(&prepared, &mut budget);
            let is_last = matches!(outcome, Outcome::Allowed | Outcome::Denied | Outcome::FailedClosed(_));
            policy.act(&outcome, &prepared, &mut budget, &mut verdict);
            verdict.trace.push(Traced { policy: policy.name.clone(), outcome });
            left -= granted - budget.steps();
            if is_last {
                break;
            }
        }
        verdict
    }
}

impl Policy {
    /// Returns the number of patterns in all expressions.
    fn patterns(&self) -> usize {
        let others = [&self.condition, &self.message_expression];
        others.into_iter().flatten().chain([&self.rule]).map(|program| program.patterns).sum()
    }

    fn outcome(&self, prepared: &Prepared<'_>, budget: &mut Budget) -> Outcome {
        match self.applies(prepared, budget) {
            Ok(None) => Outcome::NotApplicable,
            Ok(Some(false)) => Outcome::Passed,
            Ok(Some(true)) => match self.action {
                Action::Deny => Outcome::Denied,
                Action::Redact => Outcome::Redacted,
                Action::RequireApproval => Outcome::ApprovalRequired,
                Action::Allow => Outcome::Allowed,
            },
            Err((field, error)) => {
                let reason = shorten(&format!("{field}: {error}"));
                match self.failure_policy {
                    FailurePolicy::Closed => Outcome::FailedClosed(reason),
                    FailurePolicy::Open => Outcome::FailedOpen(reason),
                }
            }
        }
    }

    /// Returns whether the rule is true; `None` if the policy does not apply.
    fn applies(&self, prepared: &Prepared<'_>, budget: &mut Budget) -> Result<Option<bool>, (&'static str, EvalError)> {
        if let Some(condition) = &self.condition
            && !truth(condition, prepared, budget).map_err(|error| ("match", error))?
        {
            return Ok(None);
        }
        truth(&self.rule, prepared, budget).map(Some).map_err(|error| ("rule", error))
    }

    fn act(&self, outcome: &Outcome, prepared: &Prepared<'_>, budget: &mut Budget, verdict: &mut Verdict) {
        let policy = self.name.clone();
        match outcome {
            Outcome::NotApplicable | Outcome::Passed | Outcome::Allowed | Outcome::FailedOpen(_) => {}
            Outcome::Denied => {
                verdict.decision = Decision::Deny { policy, message: self.message(prepared, budget) };
            }
            Outcome::FailedClosed(reason) => {
                let message = shorten(&format!("policy {policy} can't be evaluated ({reason}), and fails closed"));
                verdict.decision = Decision::Deny { policy, message };
            }
            Outcome::ApprovalRequired => self.require_approval(prepared, budget, verdict),
            Outcome::Redacted => {
                let what = match self.fields.as_slice() {
                    [] => Redacted::Payload,
                    fields => Redacted::Fields(fields.to_vec()),
                };
                verdict.redactions.push(Redaction { policy, what });
            }
        }
    }

    /// Requires an approval, unless the input is refused anyway. A task has one ballot, so if an earlier policy names
    /// others who approve, nobody can.
    fn require_approval(&self, prepared: &Prepared<'_>, budget: &mut Budget, verdict: &mut Verdict) {
        let policy = self.name.clone();
        let message = match &verdict.decision {
            Decision::Allow => {
                let reason = self.message(prepared, budget);
                let nobody = if self.approval.is_some() { "" } else { ", and names nobody who could give it" };
                format!("policy {policy} requires an approval{nobody}: {reason}")
            }
            Decision::RequireApproval { policy: first, approval: Some(approval), .. }
                if self.approval.as_ref() != Some(approval) =>
            {
                format!(
                    "policy {policy} requires another approval than policy {first}, and a task has one ballot; have one \
                     policy name everybody who approves"
                )
            }
            Decision::RequireApproval { .. } | Decision::Deny { .. } => return,
        };
        let approval = self.approval.clone().filter(|_| verdict.decision == Decision::Allow);
        verdict.decision = Decision::RequireApproval { policy, message: shorten(&message), approval };
    }

    /// Returns the message of a refusal. If its expression can't be evaluated, it is the plain one.
    fn message(&self, prepared: &Prepared<'_>, budget: &mut Budget) -> String {
        let evaluated =
            self.message_expression.as_ref().and_then(|expression| match cel::evaluate(expression, prepared, budget) {
                Ok(Value::String(text)) => Some(shorten(text.as_str())),
                _ => None,
            });
        evaluated.filter(|message| !message.trim().is_empty()).unwrap_or_else(|| self.message.clone())
    }
}

/// Evaluates an expression that must be a boolean.
fn truth(program: &Program, prepared: &Prepared<'_>, budget: &mut Budget) -> Result<bool, EvalError> {
    match cel::evaluate(program, prepared, budget)? {
        Value::Bool(value) => Ok(value),
        other => Err(EvalError::Value { expected: "bool", found: other.kind().name() }),
    }
}

fn error(spec: &PolicySpec, field: &'static str, problem: Problem) -> PolicyError {
    PolicyError { policy: shorten(&spec.name), field, problem }
}

/// Compiles the expressions of a policy. Returns `None` if there are errors.
fn compile(spec: &PolicySpec, errors: &mut Vec<PolicyError>) -> Option<Policy> {
    let mut program = |field: &'static str, source: &str| match cel::compile(source, &spec.on) {
        Ok(program) => Some(program),
        Err(problem) => {
            errors.push(error(spec, field, problem.into()));
            None
        }
    };
    let condition = spec.condition.as_deref().map(|source| program("match", source));
    let rule = program("rule", &spec.rule);
    let message_expression = spec.message_expression.as_deref().map(|source| program("messageExpression", source));
    let default = || format!("policy {} refuses what fulfils its rule: {}", spec.name, spec.rule);
    Some(Policy {
        name: spec.name.clone(),
        on: spec.on.clone(),
        condition: condition.map_or(Some(None), |condition| condition.map(Some))?,
        rule: rule?,
        action: spec.action,
        fields: spec.fields.clone(),
        approval: spec.approval.clone(),
        message: shorten(&spec.message.clone().unwrap_or_else(default)),
        message_expression: message_expression.map_or(Some(None), |message| message.map(Some))?,
        failure_policy: spec.failure_policy,
    })
}

/// Checks all fields but the expressions.
fn check_fields(spec: &PolicySpec, errors: &mut Vec<PolicyError>) {
    let mut refuse = |field: &'static str, problem: Problem| errors.push(error(spec, field, problem));
    if !is_dns_label(&spec.name) {
        refuse("name", Problem::Name);
    }
    if spec.on.is_empty() {
        refuse("events", Problem::NoEvent);
    }
    if let Some(message) = &spec.message
        && message.len() > MAX_MESSAGE_BYTES
    {
        refuse("message", Problem::MessageTooLong(message.len()));
    }
    if let Some(problem) = spec.approval.as_ref().and_then(|approval| approval_problem(spec, approval)) {
        refuse("approval", problem);
    }
    if spec.action != Action::Redact && !spec.fields.is_empty() {
        refuse("fields", Problem::FieldsWithoutRedact);
    } else if spec.fields.len() > MAX_FIELDS {
        refuse("fields", Problem::TooManyFields(spec.fields.len()));
    } else if let Some(problem) = spec.fields.iter().find_map(|field| Pointer::parse(field).err()) {
        refuse("fields", problem);
    }
}

/// Returns what is wrong with who approves.
fn approval_problem(spec: &PolicySpec, approval: &ApprovalSpec) -> Option<Problem> {
    let fits = |address: &String| (1..=MAX_APPROVER_BYTES).contains(&address.len());
    let threshold = approval.threshold.as_ref();
    if spec.action != Action::RequireApproval {
        Some(Problem::ApprovalWithoutRequirement)
    } else if spec.on.iter().any(|event| *event != Event::Submission) {
        Some(Problem::ApprovalEvents)
    } else if !(1..=MAX_APPROVERS).contains(&approval.electorate.len()) || !approval.electorate.iter().all(fits) {
        Some(Problem::Electorate)
    } else if threshold.is_some_and(|threshold| !(1..=MAX_THRESHOLD_BYTES).contains(&threshold.len())) {
        Some(Problem::Threshold)
    } else {
        let wrong = approval.deadline_seconds.filter(|seconds| !(1..=MAX_APPROVAL_SECONDS).contains(seconds));
        wrong.map(Problem::ApprovalSeconds)
    }
}

fn is_dns_label(name: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=MAX_NAME_BYTES).contains(&name.len())
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
