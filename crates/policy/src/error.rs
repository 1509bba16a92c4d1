//! Errors of compilation and evaluation.

use thiserror::Error;

use crate::limits::{
    MAX_APPROVAL_SECONDS, MAX_APPROVER_BYTES, MAX_APPROVERS, MAX_BUILT_BYTES, MAX_DEPTH, MAX_EXPRESSION_BYTES,
    MAX_FIELDS, MAX_JSON_BYTES, MAX_JSON_DEPTH, MAX_JSON_VALUES, MAX_LOOP_DEPTH, MAX_MESSAGE_BYTES, MAX_NESTING,
    MAX_NODES, MAX_PATTERN_BYTES, MAX_PATTERNS, MAX_POINTER_BYTES, MAX_POINTER_SEGMENTS, MAX_POLICIES, MAX_STEPS,
    MAX_THRESHOLD_BYTES, MAX_TOKENS,
};

/// Where an error is, and what it is.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("policy {policy:?}, {field}: {problem}")]
pub struct PolicyError {
    /// Name of the policy; empty if the error concerns all of them.
    pub policy: String,
    /// The field, as in the resource.
    pub field: &'static str,
    /// What is wrong with the field.
    pub problem: Problem,
}

/// What is wrong with a field of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Problem {
    /// There are too many policies.
    #[error("there are {0} policies, which is more than {MAX_POLICIES}; remove or merge some")]
    TooManyPolicies(usize),
    /// There are too many patterns.
    #[error("this is pattern {0} of matches() in all policies, and there may be {MAX_PATTERNS}; merge some with |")]
    TooManyPatterns(usize),
    /// The name is not a DNS label.
    #[error("it is no DNS label; use 1 to 63 of a-z, 0-9 and -, and no - at either end")]
    Name,
    /// Two policies have the same name.
    #[error("another policy has the same name; rename one of them")]
    Duplicate,
    /// The policy is evaluated on nothing.
    #[error("it is empty; name at least one of Submission, Result and Message")]
    NoEvent,
    /// The policy does not redact, but has fields.
    #[error("only the action redact has fields; remove them, or change the action")]
    FieldsWithoutRedact,
    /// The policy redacts too many fields.
    #[error("it has {0} pointers, which is more than {MAX_FIELDS}; redact a common parent")]
    TooManyFields(usize),
    /// A redacted field is not a JSON pointer.
    #[error(
        "{0:?} is no JSON pointer; begin it with / (~1 stands for / in a name, ~0 for ~), and leave the list empty to \
         redact the whole payload"
    )]
    Pointer(String),
    /// The pointer to a redacted field is too long.
    #[error(
        "a pointer has more than {MAX_POINTER_BYTES} bytes or {MAX_POINTER_SEGMENTS} segments; redact one of its parents"
    )]
    PointerTooLong,
    /// The policy requires no approval, but names who approves.
    #[error("only the action requireApproval has it; remove it, or change the action")]
    ApprovalWithoutRequirement,
    /// The policy is evaluated on what can't wait for an approval.
    #[error("only submissions can wait for an approval; name no other event than Submission, or write two policies")]
    ApprovalEvents,
    /// There are too few or too many addresses of those who approve, or one that is empty or too long.
    #[error("the electorate must have 1 to {MAX_APPROVERS} addresses of 1 to {MAX_APPROVER_BYTES} bytes")]
    Electorate,
    /// The threshold of an approval is empty or too long.
    #[error("the threshold must have 1 to {MAX_THRESHOLD_BYTES} bytes, such as 2/3")]
    Threshold,
    /// Those who approve have no time, or too much.
    #[error("deadlineSeconds is {0}, and must be 1 to {MAX_APPROVAL_SECONDS} (30 days)")]
    ApprovalSeconds(u32),
    /// The message is too long.
    #[error("it has {0} bytes, which is more than {MAX_MESSAGE_BYTES}; shorten it")]
    MessageTooLong(usize),
    /// The expression can't be used.
    #[error("{0}")]
    Expression(#[from] ExpressionError),
}

/// Why an expression can't be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ExpressionError {
    /// The expression is too long.
    #[error("the expression has {0} bytes, which is more than {MAX_EXPRESSION_BYTES}; split the policy")]
    TooLong(usize),
    /// The expression has too many tokens.
    #[error("the expression has more than {MAX_TOKENS} tokens; split the policy")]
    TooManyTokens,
    /// The brackets or conditionals of the expression are nested too deeply.
    #[error("the expression has more than {MAX_NESTING} brackets inside each other, or conditionals; simplify it")]
    Nesting,
    /// The syntax tree is too deep.
    #[error("the expression is nested more than {MAX_DEPTH} deep; simplify it, or use a list and `in`")]
    TooDeep,
    /// The syntax tree is too large.
    #[error("the expression has more than {MAX_NODES} parts; split the policy")]
    TooLarge,
    /// Loops are nested too deeply.
    #[error("the expression has more than {MAX_LOOP_DEPTH} loops (all, exists, map, …) inside each other; simplify it")]
    Loops,
    /// The expression is not CEL.
    #[error("the expression is no CEL: {0}")]
    Syntax(String),
    /// The variable does not exist.
    #[error("there is no variable {0:?}; there are object, request, size, json and text")]
    Variable(String),
    /// No input of the policy has this field.
    #[error("{variable} has no field {field:?}; it has {known}")]
    Field {
        /// The variable.
        variable: &'static str,
        /// The unknown field.
        field: String,
        /// All fields, separated by commas.
        known: String,
    },
    /// The function does not exist, or takes other arguments.
    #[error("there is no function {name:?} with {arguments} argument(s); there are {known}")]
    Function {
        /// The name of the function.
        name: String,
        /// The number of arguments, with the one before the dot.
        arguments: usize,
        /// All functions, separated by commas.
        known: String,
    },
    /// The expression uses a part of CEL that policies do not have.
    #[error("policies have no {0}; rewrite the expression without")]
    Unsupported(&'static str),
    /// The pattern of `matches` is not a literal.
    #[error("the pattern of matches() must be a literal string, so that it can be checked before it is used")]
    PatternNotLiteral,
    /// The pattern of `matches` can't be used.
    #[error(
        "the pattern {pattern:?} can't be used (at most {MAX_PATTERN_BYTES} bytes, in the syntax of RE2): {reason}"
    )]
    Pattern {
        /// The beginning of the pattern.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why an expression has no value for an input.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum EvalError {
    /// The object or map has no such field.
    #[error("there is no field {0:?}; test for it with has()")]
    NoField(Box<str>),
    /// The list has no such element.
    #[error("the list has no element {0}")]
    NoElement(i64),
    /// The operator or function takes other types.
    #[error("{operation} does not take {types}")]
    Types {
        /// The operator or function.
        operation: &'static str,
        /// The types of its operands, separated by commas.
        types: String,
    },
    /// The result of integer arithmetic or of a conversion is out of range.
    #[error("the result of {0} is out of range")]
    Range(&'static str),
    /// Division by zero.
    #[error("division by zero")]
    Zero,
    /// The text can't be converted.
    #[error("{0}() can't convert this value")]
    Conversion(&'static str),
    /// A map has the same key twice.
    #[error("a map has the same key twice")]
    DuplicateKey,
    /// The value of the expression has the wrong type.
    #[error("its value is a {found} instead of a {expected}")]
    Value {
        /// The type that it must have.
        expected: &'static str,
        /// The type that it has.
        found: &'static str,
    },
    /// The limit of steps was reached.
    #[error("it takes more than {MAX_STEPS} steps, or what the policies before it left of the limit for all")]
    Steps,
    /// The limit of built values was reached.
    #[error("it builds values of more than {MAX_BUILT_BYTES} bytes")]
    Memory,
    /// The payload can't be used as JSON, though it may be JSON for others.
    #[error("the payload can't be read as JSON: {0}")]
    Json(#[from] AmbiguousJson),
}

impl EvalError {
    /// Returns whether a limit was reached, which no operator absorbs.
    pub(crate) fn is_spent(&self) -> bool {
        matches!(self, Self::Steps | Self::Memory)
    }
}

/// Why a payload has no single meaning as JSON, or is too large to be read. It is neither a value nor certain to be no
/// JSON, so that an expression that uses it fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AmbiguousJson {
    /// An object has the same name twice; parsers differ in which one counts.
    #[error("an object has the same name twice")]
    DuplicateName,
    /// Values are nested too deeply.
    #[error("it is nested more than {MAX_JSON_DEPTH} deep")]
    TooDeep,
    /// There are too many values.
    #[error("it has more than {MAX_JSON_VALUES} values")]
    TooManyValues,
    /// The payload is too large.
    #[error("it has more than {MAX_JSON_BYTES} bytes")]
    TooLarge,
    /// A number is out of range; parsers differ in what they make of it.
    #[error("a number is out of range")]
    Number,
    /// A string is not Unicode; parsers differ in whether they accept it.
    #[error("a string is not Unicode")]
    Text,
}
