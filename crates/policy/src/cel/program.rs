//! A checked expression.

use super::{pattern::Pattern, value::Type};

/// A checked expression, ready to be evaluated.
#[derive(Debug)]
pub(crate) struct Program {
    pub(crate) root: Node,
    /// The number of its patterns.
    pub(crate) patterns: usize,
}

/// A variable of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Variable {
    Object,
    Request,
    Size,
    Json,
    Text,
}

impl Variable {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "object" => Self::Object,
            "request" => Self::Request,
            "size" => Self::Size,
            "json" => Self::Json,
            "text" => Self::Text,
            _ => return None,
        })
    }
}

/// A constant.
#[derive(Clone, Debug)]
pub(crate) enum Constant {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
    Bytes(Vec<u8>),
    Type(Type),
}

/// An operator with two operands, both of which are evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    Index,
}

/// A function. The value before the dot is its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    UpperAscii,
    Trim,
    Bool,
    Bytes,
    Double,
    Dyn,
    Int,
    String,
    Type,
    Uint,
}

/// A loop over a list, or over the keys of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Loop {
    All,
    Exists,
    ExistsOne,
    Map,
}

/// A part of a program.
#[derive(Debug)]
pub(crate) enum Node {
    Constant(Constant),
    Variable(Variable),
    /// A variable of a loop, by the depth of the loop.
    Local(usize),
    Select {
        of: Box<Self>,
        field: String,
    },
    Has {
        of: Box<Self>,
        field: String,
    },
    And(Box<[Self; 2]>),
    Or(Box<[Self; 2]>),
    If(Box<[Self; 3]>),
    Not(Box<Self>),
    Negate(Box<Self>),
    Binary(Operator, Box<[Self; 2]>),
    Call(Function, Vec<Self>),
    Matches(Box<Self>, Box<Pattern>),
    List(Vec<Self>),
    Map(Vec<(Self, Self)>),
    Loop {
        kind: Loop,
        over: Box<Self>,
        /// Elements for which this is false are skipped by `map` and `filter`.
        filter: Option<Box<Self>>,
        body: Box<Self>,
    },
}
