//! Expressions: parsed by the `cel` crate, evaluated here.
//!
//! The crate's interpreter has no limit on steps or memory, and a dozen of doublings in four kilobytes can ask for any
//! amount of both. So an expression is checked and translated once into a [`Program`], whose evaluation charges every
//! step and every byte that it builds to a [`Budget`]. Tests compare its results with those of the crate's interpreter.

mod budget;
mod compile;
mod eval;
mod functions;
mod lower;
mod operators;
mod pattern;
mod program;
mod value;

pub(crate) use self::{
    budget::Budget,
    compile::compile,
    eval::{Scope, evaluate},
    program::{Program, Variable},
    value::{Text, Value},
};

#[cfg(test)]
mod tests;
