//! Evaluates programs.

use std::rc::Rc;

use super::{
    Budget, Program, functions, operators,
    pattern::Pattern,
    program::{Constant, Loop, Node, Operator, Variable},
    value::{Blob, List, Text, Value},
};
use crate::error::EvalError;

/// The variables of an evaluation.
pub(crate) trait Scope {
    /// Returns the value of a variable.
    fn variable(&self, variable: Variable, budget: &mut Budget) -> Result<Value<'_>, EvalError>;

    /// Returns a field of `object` or `request`; `None` if there is none.
    fn field(&self, variable: Variable, field: &str, budget: &mut Budget) -> Result<Option<Value<'_>>, EvalError>;
}

/// Evaluates a program.
///
/// # Errors
/// [`EvalError`] if it has no value, or if the budget is spent.
pub(crate) fn evaluate<'a>(
    program: &'a Program,
    scope: &'a dyn Scope,
    budget: &mut Budget,
) -> Result<Value<'a>, EvalError> {
    Evaluation { scope, budget, locals: Vec::new() }.node(&program.root)
}

struct Evaluation<'a, 'b> {
    scope: &'a dyn Scope,
    budget: &'b mut Budget,
    /// The variables of the loops around the current node, outermost first.
    locals: Vec<Value<'a>>,
}

type Evaluated<'a> = Result<Value<'a>, EvalError>;

impl<'a> Evaluation<'a, '_> {
    fn node(&mut self, node: &'a Node) -> Evaluated<'a> {
        self.budget.charge(1)?;
        match node {
            Node::Constant(constant) => Ok(value_of(constant)),
            Node::Variable(variable) => self.scope.variable(*variable, self.budget),
            Node::Local(depth) => self.locals.get(*depth).cloned().ok_or(EvalError::NoField("".into())),
            Node::Select { of, field } => self.select(of, field)?.ok_or_else(|| EvalError::NoField(field[..].into())),
            Node::Has { of, field } => Ok(Value::Bool(self.select(of, field)?.is_some())),
            Node::And(both) => self.logic(both, false),
            Node::Or(both) => self.logic(both, true),
            Node::If(all) => self.conditional(all),
            Node::Not(one) => {
                let is = self.boolean(one, "!")?;
                Ok(Value::Bool(!is))
            }
            Node::Negate(one) => {
                let value = self.node(one)?;
                operators::negate(&value)
            }
            Node::Binary(operator, both) => self.binary(*operator, both),
            Node::Call(function, arguments) => {
                let values = self.nodes(arguments)?;
                functions::call(*function, &values, self.budget)
            }
            Node::Matches(text, pattern) => self.matches(text, pattern),
            Node::List(elements) => {
                self.budget.build(elements.len() * Value::SIZE)?;
                Ok(Value::list(self.nodes(elements)?))
            }
            Node::Map(entries) => self.map(entries),
            Node::Loop { kind, over, filter, body } => self.each(*kind, over, filter.as_deref(), body),
        }
    }

    fn nodes(&mut self, nodes: &'a [Node]) -> Result<Vec<Value<'a>>, EvalError> {
        nodes.iter().map(|node| self.node(node)).collect()
    }

    fn boolean(&mut self, node: &'a Node, operation: &'static str) -> Result<bool, EvalError> {
        match self.node(node)? {
            Value::Bool(value) => Ok(value),
            other => Err(operators::types(operation, &[&other])),
        }
    }

    #[inline(never)]
    fn select(&mut self, of: &'a Node, field: &str) -> Result<Option<Value<'a>>, EvalError> {
        if let Node::Variable(variable @ (Variable::Object | Variable::Request)) = of {
            self.budget.charge(1)?;
            return self.scope.field(*variable, field, self.budget);
        }
        match self.node(of)? {
            Value::Map(map) => map.get(&Value::text(field), self.budget),
            other => Err(operators::types("selection of a field", &[&other])),
        }
    }

    /// Evaluates `&&` or `||`, whose value is certain if one operand has the `deciding` value, even if the other one
    /// has none.
    #[inline(never)]
    fn logic(&mut self, both: &'a [Node; 2], deciding: bool) -> Evaluated<'a> {
        let operation = if deciding { "||" } else { "&&" };
        let left = self.boolean(&both[0], operation);
        if left == Ok(deciding) {
            return Ok(Value::Bool(deciding));
        }
        if let Err(error) = &left
            && error.is_spent()
        {
            return Err(error.clone());
        }
        match (left, self.boolean(&both[1], operation)) {
            (_, Ok(right)) if right == deciding => Ok(Value::Bool(deciding)),
            (_, Err(error)) if error.is_spent() => Err(error),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(_), Ok(_)) => Ok(Value::Bool(!deciding)),
        }
    }

    #[inline(never)]
    fn conditional(&mut self, all: &'a [Node; 3]) -> Evaluated<'a> {
        let is = self.boolean(&all[0], "?:")?;
        self.node(&all[if is { 1 } else { 2 }])
    }

    #[inline(never)]
    fn binary(&mut self, operator: Operator, both: &'a [Node; 2]) -> Evaluated<'a> {
        let left = self.node(&both[0])?;
        let right = self.node(&both[1])?;
        operators::binary(operator, left, right, self.budget)
    }

    #[inline(never)]
    fn matches(&mut self, text: &'a Node, pattern: &Pattern) -> Evaluated<'a> {
        match self.node(text)? {
            Value::String(text) => pattern.is_match(text.as_str(), self.budget).map(Value::Bool),
            other => Err(operators::types("matches()", &[&other])),
        }
    }

    #[inline(never)]
    fn map(&mut self, entries: &'a [(Node, Node)]) -> Evaluated<'a> {
        self.budget.build(entries.len() * 2 * Value::SIZE)?;
        let mut map: Vec<(Value<'a>, Value<'a>)> = Vec::with_capacity(entries.len());
        for (key, value) in entries {
            let key = self.node(key)?;
            if !key.kind().is_key() {
                return Err(operators::types("the key of a map", &[&key]));
            }
            for (known, _) in &map {
                if known.equals(&key, self.budget)? {
                    return Err(EvalError::DuplicateKey);
                }
            }
            let value = self.node(value)?;
            map.push((key, value));
        }
        Ok(Value::map(map))
    }

    /// Evaluates a node with the variable of a loop.
    fn with(&mut self, local: Value<'a>, node: &'a Node) -> Evaluated<'a> {
        self.locals.push(local);
        let value = self.node(node);
        self.locals.pop();
        value
    }

    fn bool_with(&mut self, local: Value<'a>, node: &'a Node, operation: &'static str) -> Result<bool, EvalError> {
        match self.with(local, node)? {
            Value::Bool(value) => Ok(value),
            other => Err(operators::types(operation, &[&other])),
        }
    }

    #[inline(never)]
    fn each(&mut self, kind: Loop, over: &'a Node, filter: Option<&'a Node>, body: &'a Node) -> Evaluated<'a> {
        let list = match self.node(over)? {
            Value::List(list) => list,
            Value::Map(map) => {
                self.budget.build(map.len() * Value::SIZE)?;
                List::Built(Rc::new(map.keys()))
            }
            other => return Err(operators::types("a loop", &[&other])),
        };
        match kind {
            Loop::All => self.quantify(&list, body, false),
            Loop::Exists => self.quantify(&list, body, true),
            Loop::ExistsOne => {
                let mut found = 0_usize;
                for index in 0..list.len() {
                    let Some(element) = list.get(index) else { break };
                    self.budget.charge(1)?;
                    found += usize::from(self.bool_with(element, body, "exists_one()")?);
                }
                Ok(Value::Bool(found == 1))
            }
            Loop::Map => self.collect(&list, filter, body),
        }
    }

    /// Evaluates `all` or `exists`, whose value is certain if one element has the `deciding` value, even if others have
    /// none.
    fn quantify(&mut self, list: &List<'a>, body: &'a Node, deciding: bool) -> Evaluated<'a> {
        let operation = if deciding { "exists()" } else { "all()" };
        let mut failed = None;
        for index in 0..list.len() {
            let Some(element) = list.get(index) else { break };
            self.budget.charge(1)?;
            match self.bool_with(element, body, operation) {
                Ok(value) if value == deciding => return Ok(Value::Bool(deciding)),
                Ok(_) => {}
                Err(error) if error.is_spent() => return Err(error),
                Err(error) => {
                    failed.get_or_insert(error);
                }
            }
        }
        match failed {
            Some(error) => Err(error),
            None => Ok(Value::Bool(!deciding)),
        }
    }

    fn collect(&mut self, list: &List<'a>, filter: Option<&'a Node>, body: &'a Node) -> Evaluated<'a> {
        let mut collected = Vec::new();
        for index in 0..list.len() {
            let Some(element) = list.get(index) else { break };
            self.budget.charge(1)?;
            if let Some(filter) = filter
                && !self.bool_with(element.clone(), filter, "filter()")?
            {
                continue;
            }
            self.budget.build(Value::SIZE)?;
            let value = self.with(element, body)?;
            collected.push(value);
        }
        Ok(Value::list(collected))
    }
}

fn value_of(constant: &Constant) -> Value<'_> {
    match constant {
        Constant::Null => Value::Null,
        Constant::Bool(value) => Value::Bool(*value),
        Constant::Int(value) => Value::Int(*value),
        Constant::Uint(value) => Value::Uint(*value),
        Constant::Double(value) => Value::Double(*value),
        Constant::String(text) => Value::String(Text::Borrowed(text)),
        Constant::Bytes(bytes) => Value::Bytes(Blob::Borrowed(bytes)),
        Constant::Type(kind) => Value::Type(*kind),
    }
}
