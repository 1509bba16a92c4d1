//! From a syntax tree of the `cel` crate to a program, with all checks that need no input.

use cel::common::ast::{CallExpr, ComprehensionExpr, EntryExpr, Expr, IdedExpr, LiteralValue, operators};

use super::{
    functions,
    pattern::Pattern,
    program::{Constant, Loop, Node, Operator, Program, Variable},
    value::Type,
};
use crate::{
    error::ExpressionError,
    input,
    limits::{MAX_DEPTH, MAX_LOOP_DEPTH, MAX_NODES},
    spec::Event,
};

/// Translates one expression.
pub(super) struct Lowering<'e> {
    on: &'e [Event],
    nodes: usize,
    patterns: usize,
    /// Variables of the loops around the current expression, outermost first.
    locals: Vec<String>,
}

type Lowered = Result<Node, ExpressionError>;

impl<'e> Lowering<'e> {
    pub(super) fn new(on: &'e [Event]) -> Self {
        Self { on, nodes: 0, patterns: 0, locals: Vec::new() }
    }

    pub(super) fn expression(mut self, tree: &IdedExpr) -> Result<Program, ExpressionError> {
        let root = self.node(&tree.expr, 0)?;
        Ok(Program { root, patterns: self.patterns })
    }

    fn node(&mut self, expr: &Expr, depth: usize) -> Lowered {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(ExpressionError::TooLarge);
        }
        if depth >= MAX_DEPTH {
            return Err(ExpressionError::TooDeep);
        }
        match expr {
            Expr::Literal(literal) => Ok(Node::Constant(constant(literal))),
            Expr::Ident(name) => self.identifier(name),
            Expr::Select(select) => {
                let of = self.boxed(&select.operand, depth)?;
                self.check_field(&of, &select.field)?;
                let field = select.field.clone();
                Ok(if select.test { Node::Has { of, field } } else { Node::Select { of, field } })
            }
            Expr::Call(call) => self.call(call, depth),
            Expr::List(list) if list.optional_indices.is_empty() => {
                Ok(Node::List(self.nodes_of(&list.elements, depth)?))
            }
            Expr::Map(map) => {
                let mut entries = Vec::with_capacity(map.entries.len());
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err(ExpressionError::Unsupported("messages (Name{field: value})"));
                    };
                    if entry.optional {
                        return Err(ExpressionError::Unsupported("optional values"));
                    }
                    entries.push((self.node(&entry.key.expr, depth + 1)?, self.node(&entry.value.expr, depth + 1)?));
                }
                Ok(Node::Map(entries))
            }
            Expr::Comprehension(comprehension) => self.comprehension(comprehension, depth),
            Expr::Struct(_) => Err(ExpressionError::Unsupported("messages (Name{field: value})")),
            Expr::List(_) => Err(ExpressionError::Unsupported("optional values")),
            Expr::Unspecified => Err(ExpressionError::Syntax("a part of it is empty".to_owned())),
        }
    }

    fn boxed(&mut self, tree: &IdedExpr, depth: usize) -> Result<Box<Node>, ExpressionError> {
        self.node(&tree.expr, depth + 1).map(Box::new)
    }

    fn nodes_of<'t>(
        &mut self,
        trees: impl IntoIterator<Item = &'t IdedExpr>,
        depth: usize,
    ) -> Result<Vec<Node>, ExpressionError> {
        trees.into_iter().map(|tree| self.node(&tree.expr, depth + 1)).collect()
    }

    fn identifier(&mut self, name: &str) -> Lowered {
        if let Some(local) = self.locals.iter().rposition(|local| local == name) {
            return Ok(Node::Local(local));
        }
        if let Some(variable) = Variable::named(name.strip_prefix('.').unwrap_or(name)) {
            return Ok(Node::Variable(variable));
        }
        match Type::ALL.into_iter().find(|kind| kind.name() == name) {
            Some(kind) => Ok(Node::Constant(Constant::Type(kind))),
            None => Err(ExpressionError::Variable(name.to_owned())),
        }
    }

    /// Refuses fields that no input has: they are typing errors.
    fn check_field(&self, of: &Node, field: &str) -> Result<(), ExpressionError> {
        let (variable, known) = match of {
            Node::Variable(Variable::Object) => ("object", input::object_fields(self.on)),
            Node::Variable(Variable::Request) => ("request", input::REQUEST_FIELDS.to_vec()),
            _ => return Ok(()),
        };
        if known.contains(&field) {
            return Ok(());
        }
        Err(ExpressionError::Field { variable, field: field.to_owned(), known: known.join(", ") })
    }

    fn call(&mut self, call: &CallExpr, depth: usize) -> Lowered {
        let name = call.func_name.as_str();
        let is_member = call.target.is_some();
        let arguments: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let count = arguments.len();
        if let ("matches", [text, pattern]) = (name, arguments.as_slice()) {
            return self.matches(text, pattern, depth);
        }
        let unknown =
            || ExpressionError::Function { name: name.to_owned(), arguments: count, known: functions::known() };
        if let Some(function) = functions::named(name, count, is_member) {
            return Ok(Node::Call(function, self.nodes_of(arguments, depth)?));
        }
        if is_member || (operator(name).is_none() && !LOGIC.contains(&name)) {
            return Err(unknown());
        }
        let operands = self.nodes_of(arguments, depth)?;
        operation(name, operands).ok_or_else(unknown)
    }

    fn matches(&mut self, text: &IdedExpr, pattern: &IdedExpr, depth: usize) -> Lowered {
        let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
            return Err(ExpressionError::PatternNotLiteral);
        };
        self.nodes += 1;
        self.patterns += 1;
        let pattern = Pattern::compile(pattern.inner())?;
        Ok(Node::Matches(self.boxed(text, depth)?, Box::new(pattern)))
    }

    /// Translates what the parser made of `all`, `exists`, `exists_one`, `map` or `filter`.
    fn comprehension(&mut self, comprehension: &ComprehensionExpr, depth: usize) -> Lowered {
        if self.locals.len() >= MAX_LOOP_DEPTH {
            return Err(ExpressionError::Loops);
        }
        let unknown = || ExpressionError::Unsupported("loops other than all, exists, exists_one, map and filter");
        let Parts { kind, filter, body } = parts(&comprehension.accu_init.expr, &comprehension.loop_step.expr)
            .filter(|_| comprehension.iter_var2.is_none())
            .ok_or_else(unknown)?;
        let over = self.boxed(&comprehension.iter_range, depth)?;
        self.locals.push(comprehension.iter_var.clone());
        let filter = filter.map(|filter| self.boxed(filter, depth)).transpose();
        let body = self.boxed(body, depth);
        self.locals.pop();
        Ok(Node::Loop { kind, over, filter: filter?, body: body? })
    }
}

/// What a loop does for each element.
struct Parts<'t> {
    kind: Loop,
    filter: Option<&'t IdedExpr>,
    body: &'t IdedExpr,
}

/// Recognizes a loop by the initial value and the step of its result.
fn parts<'t>(init: &Expr, step: &'t Expr) -> Option<Parts<'t>> {
    let Expr::Call(call) = step else { return None };
    match (init, call.func_name.as_str(), call.args.as_slice()) {
        (Expr::Literal(LiteralValue::Boolean(_)), operators::LOGICAL_AND, [_, body]) => {
            Some(Parts { kind: Loop::All, filter: None, body })
        }
        (Expr::Literal(LiteralValue::Boolean(_)), operators::LOGICAL_OR, [_, body]) => {
            Some(Parts { kind: Loop::Exists, filter: None, body })
        }
        (Expr::Literal(LiteralValue::Int(_)), operators::CONDITIONAL, [body, _, _]) => {
            Some(Parts { kind: Loop::ExistsOne, filter: None, body })
        }
        (Expr::List(_), operators::CONDITIONAL, [filter, then, _]) => {
            Some(Parts { kind: Loop::Map, filter: Some(filter), body: appended(&then.expr)? })
        }
        (Expr::List(_), operators::ADD, _) => Some(Parts { kind: Loop::Map, filter: None, body: appended(step)? }),
        _ => None,
    }
}

/// Returns the element that `result + [element]` appends.
fn appended(step: &Expr) -> Option<&IdedExpr> {
    let Expr::Call(CallExpr { args, .. }) = step else { return None };
    match args.as_slice() {
        [_, IdedExpr { expr: Expr::List(list), .. }] => list.elements.first(),
        _ => None,
    }
}

fn constant(literal: &LiteralValue) -> Constant {
    match literal {
        LiteralValue::Null => Constant::Null,
        LiteralValue::Boolean(value) => Constant::Bool(*value.inner()),
        LiteralValue::Int(value) => Constant::Int(*value.inner()),
        LiteralValue::UInt(value) => Constant::Uint(*value.inner()),
        LiteralValue::Double(value) => Constant::Double(*value.inner()),
        LiteralValue::String(value) => Constant::String(value.inner().to_owned()),
        LiteralValue::Bytes(value) => Constant::Bytes(value.inner().to_vec()),
    }
}

/// Operators that do not evaluate all of their operands, or have only one.
const LOGIC: [&str; 5] =
    [operators::LOGICAL_AND, operators::LOGICAL_OR, operators::CONDITIONAL, operators::LOGICAL_NOT, operators::NEGATE];

/// Returns the node of an operator with its operands; `None` if their number is wrong.
fn operation(name: &str, mut operands: Vec<Node>) -> Option<Node> {
    match name {
        operators::CONDITIONAL => operands.try_into().ok().map(|all| Node::If(Box::new(all))),
        operators::LOGICAL_NOT | operators::NEGATE => {
            let one = Box::new(operands.pop().filter(|_| operands.is_empty())?);
            Some(if name == operators::NEGATE { Node::Negate(one) } else { Node::Not(one) })
        }
        _ => {
            let both = Box::new(<[Node; 2]>::try_from(operands).ok()?);
            match name {
                operators::LOGICAL_AND => Some(Node::And(both)),
                operators::LOGICAL_OR => Some(Node::Or(both)),
                _ => Some(Node::Binary(operator(name)?, both)),
            }
        }
    }
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        operators::ADD => Operator::Add,
        operators::SUBSTRACT => Operator::Subtract,
        operators::MULTIPLY => Operator::Multiply,
        operators::DIVIDE => Operator::Divide,
        operators::MODULO => Operator::Modulo,
        operators::EQUALS => Operator::Equal,
        operators::NOT_EQUALS => Operator::NotEqual,
        operators::LESS => Operator::Less,
        operators::LESS_EQUALS => Operator::LessOrEqual,
        operators::GREATER => Operator::Greater,
        operators::GREATER_EQUALS => Operator::GreaterOrEqual,
        operators::IN => Operator::In,
        operators::INDEX => Operator::Index,
        _ => return None,
    })
}
