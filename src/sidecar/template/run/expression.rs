//! Expressions.
//!
//! The invariant: parts are evaluated in Python's order, and no more of them than Python evaluates.

use std::rc::Rc;
use std::sync::Arc;

use super::super::access;
use super::super::budget::{Error, Kind, Result};
use super::super::methods;
use super::super::operators::{binary, positive};
use super::super::syntax::{
    Arguments, Call, Comparison, Conditional, Expr, FilterCall, Literal, Name, Slice, TestCall, Unary,
};
use super::super::value::{Args, Dict, Out, Undefined, Value, collect, contains, equal, negate, order, write};
use super::{Frame, Run};

impl Run {
    pub(super) fn eval(self: &Rc<Self>, expr: &Expr, frame: &Rc<Frame>) -> Result<Value> {
        match expr {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Name(name) => Ok(self.name(name, frame)),
            other => {
                self.cx.budget.steps(1)?;
                let _depth = self.cx.budget.deeper()?;
                self.compound(other, frame)
            }
        }
    }

    fn literal(&self, literal: &Literal) -> Result<Value> {
        Ok(match literal {
            Literal::None => Value::None,
            Literal::Bool(value) => Value::Bool(*value),
            Literal::Int(number) => Value::Int(*number),
            Literal::Float(number) => Value::Float(*number),
            Literal::Text(text, number) => return self.text(text, *number),
        })
    }

    fn name(&self, name: &Name, frame: &Frame) -> Value {
        frame.get(name.slot).unwrap_or_else(|| self.cx.undefined(Undefined::Name(name.name.clone())))
    }

    fn compound(self: &Rc<Self>, expr: &Expr, frame: &Rc<Frame>) -> Result<Value> {
        match expr {
            Expr::Literal(literal) => self.literal(literal),
            Expr::Name(name) => Ok(self.name(name, frame)),
            Expr::Attribute(value, name) => {
                let value = self.eval(value, frame)?;
                access::attribute(&self.cx, &value, name)
            }
            Expr::Item(pair) => {
                let value = self.eval(&pair.0, frame)?;
                let key = self.eval(&pair.1, frame)?;
                access::item(&self.cx, &value, &key)
            }
            Expr::Call(call) => self.call_expr(call, frame),
            Expr::Filter(filter) => self.filter(filter, frame, None),
            Expr::Test(test) => self.test(test, frame),
            Expr::Compare(first, others) => self.compare(first, others, frame),
            Expr::Binary(operator, pair) => {
                let a = self.eval(&pair.0, frame)?;
                let b = self.eval(&pair.1, frame)?;
                binary(&self.cx, *operator, &a, &b)
            }
            Expr::And(pair) => {
                let a = self.eval(&pair.0, frame)?;
                if a.truth(&self.cx)? { self.eval(&pair.1, frame) } else { Ok(a) }
            }
            Expr::Or(pair) => {
                let a = self.eval(&pair.0, frame)?;
                if a.truth(&self.cx)? { Ok(a) } else { self.eval(&pair.1, frame) }
            }
            Expr::Unary(operator, value) => self.unary(*operator, value, frame),
            Expr::Concat(parts) => self.concat(parts, frame),
            Expr::Conditional(conditional) => self.conditional(conditional, frame),
            Expr::Slice(slice) => self.slice(&slice.0, &slice.1, frame),
            Expr::List(items) => self.cx.list(self.all(items, frame)?),
            Expr::Tuple(items) => self.cx.tuple(self.all(items, frame)?),
            Expr::Dict(items) => self.dict(items, frame),
        }
    }

    fn all(self: &Rc<Self>, items: &[Expr], frame: &Rc<Frame>) -> Result<Vec<Value>> {
        items.iter().map(|item| self.eval(item, frame)).collect()
    }

    #[inline(never)]
    fn dict(self: &Rc<Self>, items: &[(Expr, Expr)], frame: &Rc<Frame>) -> Result<Value> {
        let _depth = self.cx.budget.deeper()?;
        let pair = |(key, value): &(Expr, Expr)| Ok((self.eval(key, frame)?, self.eval(value, frame)?));
        Ok(Value::Dict(Dict::new(&self.cx, items.iter().map(pair).collect::<Result<Vec<_>>>()?)?))
    }

    #[inline(never)]
    fn unary(self: &Rc<Self>, operator: Unary, value: &Expr, frame: &Rc<Frame>) -> Result<Value> {
        let value = self.eval(value, frame)?;
        match operator {
            Unary::Not => Ok(Value::Bool(!value.truth(&self.cx)?)),
            Unary::Neg => negate(&value),
            Unary::Pos => positive(&value),
        }
    }

    #[inline(never)]
    fn concat(self: &Rc<Self>, parts: &[Expr], frame: &Rc<Frame>) -> Result<Value> {
        let values = self.all(parts, frame)?;
        let mut out = Out::new(&self.cx)?;
        values.iter().try_for_each(|value| write(&self.cx, value, &mut out))?;
        Ok(Value::Text(out.finish()?))
    }

    #[inline(never)]
    fn conditional(self: &Rc<Self>, conditional: &Conditional, frame: &Rc<Frame>) -> Result<Value> {
        if self.eval(&conditional.test, frame)?.truth(&self.cx)? {
            return self.eval(&conditional.then, frame);
        }
        match &conditional.other {
            Some(other) => self.eval(other, frame),
            None => {
                let hint = format!("the inline if-expression on line {} was false and has no else", conditional.line);
                Ok(self.cx.undefined(Undefined::Hint(hint)))
            }
        }
    }

    #[inline(never)]
    fn slice(self: &Rc<Self>, value: &Expr, slice: &Slice, frame: &Rc<Frame>) -> Result<Value> {
        let value = self.eval(value, frame)?;
        let bound = |bound: &Option<Expr>| bound.as_ref().map_or(Ok(Value::None), |bound| self.eval(bound, frame));
        let (start, stop, step) = (bound(&slice.start)?, bound(&slice.stop)?, bound(&slice.step)?);
        match access::slice(&self.cx, &value, [&start, &stop, &step]) {
            Err(error) if slice.constant && error.kind() == Kind::Type => {
                Ok(self.cx.undefined(Undefined::Hint(error.to_string())))
            }
            result => result,
        }
    }

    #[inline(never)]
    fn compare(self: &Rc<Self>, first: &Expr, others: &[(Comparison, Expr)], frame: &Rc<Frame>) -> Result<Value> {
        let cx = &self.cx;
        let mut left = self.eval(first, frame)?;
        for (comparison, other) in others {
            let right = self.eval(other, frame)?;
            let holds = match comparison {
                Comparison::Eq => equal(cx, &left, &right)?,
                Comparison::Ne => !equal(cx, &left, &right)?,
                Comparison::In => contains(cx, &right, &left)?,
                Comparison::NotIn => !contains(cx, &right, &left)?,
                Comparison::Lt => order(cx, &left, &right)?.is_some_and(|order| order.is_lt()),
                Comparison::Le => order(cx, &left, &right)?.is_some_and(|order| order.is_le()),
                Comparison::Gt => order(cx, &left, &right)?.is_some_and(|order| order.is_gt()),
                Comparison::Ge => order(cx, &left, &right)?.is_some_and(|order| order.is_ge()),
            };
            if !holds {
                return Ok(Value::Bool(false));
            }
            left = right;
        }
        Ok(Value::Bool(true))
    }

    pub(super) fn arguments(self: &Rc<Self>, arguments: &Arguments, frame: &Rc<Frame>) -> Result<Args> {
        let mut args =
            Args { places: self.all(&arguments.places, frame)?, named: Vec::with_capacity(arguments.named.len()) };
        for (name, value) in &arguments.named {
            args.named.push((name.clone(), self.eval(value, frame)?));
        }
        if let Some(more) = &arguments.more_places {
            args.places.extend(collect(&self.cx, &self.eval(more, frame)?)?);
        }
        if let Some(more) = &arguments.more_named {
            let Value::Dict(dict) = self.eval(more, frame)? else {
                return Err(Error::type_error("argument after ** must be a mapping"));
            };
            for (key, value) in dict.entries() {
                let name: Arc<str> = (&**key.expect_text()?).into();
                if args.named.iter().any(|(other, _)| *other == name) {
                    return Err(Error::type_error(format!("two values for keyword argument '{name}'")));
                }
                args.named.push((name, value.clone()));
            }
        }
        Ok(args)
    }

    #[inline(never)]
    pub(super) fn filter(
        self: &Rc<Self>,
        filter: &FilterCall,
        frame: &Rc<Frame>,
        block: Option<&Value>,
    ) -> Result<Value> {
        let _depth = self.cx.budget.deeper()?;
        let value = match (&filter.value, block) {
            (Some(Expr::Filter(inner)), Some(_)) => self.filter(inner, frame, block)?,
            (Some(value), _) => self.eval(value, frame)?,
            (None, Some(block)) => block.clone(),
            (None, None) => return Err(Error::other("a filter without a value")),
        };
        let args = self.arguments(&filter.arguments, frame)?;
        match filter.function {
            Some(function) => function(&self.cx, value, args),
            None => Err(Error::other(format!("there is no filter '{}'", filter.name))),
        }
    }

    #[inline(never)]
    fn test(self: &Rc<Self>, test: &TestCall, frame: &Rc<Frame>) -> Result<Value> {
        let value = self.eval(&test.value, frame)?;
        let args = self.arguments(&test.arguments, frame)?;
        match test.function {
            Some(function) => function(&self.cx, value, args),
            None => Err(Error::other(format!("there is no test '{}'", test.name))),
        }
    }

    #[inline(never)]
    fn call_expr(self: &Rc<Self>, call: &Call, frame: &Rc<Frame>) -> Result<Value> {
        // A method of a text or a list need not become a value first.
        let callee = match &call.callee {
            Expr::Attribute(value, name) => {
                let value = self.eval(value, frame)?;
                if let Some(function) = methods::find(&value, name) {
                    let args = self.arguments(&call.arguments, frame)?;
                    self.line.set(call.line);
                    return function(&self.cx, value, args);
                }
                access::attribute(&self.cx, &value, name)?
            }
            other => self.eval(other, frame)?,
        };
        let args = self.arguments(&call.arguments, frame)?;
        self.line.set(call.line);
        let result = self.call(&callee, args)?;
        self.line.set(call.line);
        Ok(result)
    }

    pub(super) fn call(&self, callee: &Value, args: Args) -> Result<Value> {
        match callee {
            Value::Method(method) => (method.function)(&self.cx, method.value.clone(), args),
            Value::Object(object) => object.call(&self.cx, args),
            other => {
                other.defined()?;
                Err(Error::type_error(format!("'{}' object is not callable", other.type_name())))
            }
        }
    }
}
