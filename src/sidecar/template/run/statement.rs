//! Statements.
//!
//! The invariant: each sets the line that runs, and what a block writes goes where the block says.

use std::rc::Rc;

use super::super::budget::{Error, Result};
use super::super::globals::set_attribute;
use super::super::syntax::{Block, CallBlock, If, Part, Stmt, Target};
use super::super::value::{Args, Out, Text, Value, collect, write};
use super::call::Macro;
use super::{Flow, Frame, Run};

impl Run {
    pub(super) fn statements(self: &Rc<Self>, body: &[Stmt], frame: &Rc<Frame>, out: &mut Out) -> Result<Flow> {
        for stmt in body {
            self.cx.budget.steps(1)?;
            let flow = match stmt {
                Stmt::Output(parts) => self.output(parts, frame, out)?,
                other => {
                    let _depth = self.cx.budget.deeper()?;
                    self.statement(other, frame, out)?
                }
            };
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn output(self: &Rc<Self>, parts: &[Part], frame: &Rc<Frame>, out: &mut Out) -> Result<Flow> {
        for part in parts {
            match part {
                Part::Data(text) => out.push(text)?,
                Part::Value(line, value) => {
                    self.line.set(*line);
                    let value = self.eval(value, frame)?;
                    write(&self.cx, &value, out)?;
                }
            }
        }
        Ok(Flow::Next)
    }

    fn statement(self: &Rc<Self>, stmt: &Stmt, frame: &Rc<Frame>, out: &mut Out) -> Result<Flow> {
        match stmt {
            Stmt::If(if_) => self.if_(if_, frame, out),
            Stmt::For(for_) => self.for_(for_, frame, out),
            Stmt::Output(parts) => self.output(parts, frame, out),
            Stmt::Assign(line, target, value) => {
                self.line.set(*line);
                self.assignable(target, frame)?;
                let value = self.eval(value, frame)?;
                self.assign(target, value, frame)?;
                Ok(Flow::Next)
            }
            Stmt::AssignBlock(block) => {
                let (target, filter, block) = &**block;
                let (flow, text) = self.captured(block, frame)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                self.line.set(block.line);
                let value = match filter {
                    Some(filter) => self.filter(filter, frame, Some(&Value::Text(text)))?,
                    None => Value::Text(text),
                };
                self.assign(target, value, frame)?;
                self.leave(&block.scope, frame);
                Ok(Flow::Next)
            }
            Stmt::FilterBlock(block) => {
                let (filter, block) = &**block;
                let (flow, text) = self.captured(block, frame)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                self.line.set(block.line);
                let value = self.filter(filter, frame, Some(&Value::Text(text)))?;
                written(&value, out)?;
                self.leave(&block.scope, frame);
                Ok(Flow::Next)
            }
            Stmt::With(with) => {
                let (values, block) = &**with;
                self.line.set(block.line);
                self.enter(&block.scope, frame)?;
                for (target, value) in values {
                    let value = self.eval(value, frame)?;
                    self.assign(target, value, frame)?;
                }
                let flow = self.statements(&block.body, frame, out)?;
                self.leave(&block.scope, frame);
                Ok(flow)
            }
            Stmt::Scope(block) => {
                self.enter(&block.scope, frame)?;
                let flow = self.statements(&block.body, frame, out)?;
                self.leave(&block.scope, frame);
                Ok(flow)
            }
            Stmt::Macro(function) => {
                self.line.set(function.line);
                let made = Macro::value(self, function, frame)?;
                if let Some(name) = &function.name {
                    frame.set_at(name.slot, made);
                }
                Ok(Flow::Next)
            }
            Stmt::CallBlock(block) => self.call_block(block, frame, out),
            Stmt::Break(_) => Ok(Flow::Break),
            Stmt::Continue(_) => Ok(Flow::Continue),
        }
    }

    fn if_(self: &Rc<Self>, if_: &If, frame: &Rc<Frame>, out: &mut Out) -> Result<Flow> {
        self.line.set(if_.line);
        if self.eval(&if_.test, frame)?.truth(&self.cx)? {
            return self.statements(&if_.body, frame, out);
        }
        for (line, test, body) in &if_.elifs {
            self.line.set(*line);
            if self.eval(test, frame)?.truth(&self.cx)? {
                return self.statements(body, frame, out);
            }
        }
        self.statements(&if_.other, frame, out)
    }

    /// What a block writes. Its scope stays entered where it went through.
    fn captured(self: &Rc<Self>, block: &Block, frame: &Rc<Frame>) -> Result<(Flow, Text)> {
        self.line.set(block.line);
        self.enter(&block.scope, frame)?;
        let mut inner = Out::new(&self.cx)?;
        let flow = self.statements(&block.body, frame, &mut inner)?;
        Ok((flow, inner.finish()?))
    }

    fn call_block(self: &Rc<Self>, block: &CallBlock, frame: &Rc<Frame>, out: &mut Out) -> Result<Flow> {
        self.line.set(block.line);
        let caller = Macro::value(self, &block.function, frame)?;
        let value = match &block.call {
            Some(call) => {
                let callee = self.eval(&call.callee, frame)?;
                let mut args = self.arguments(&call.arguments, frame)?;
                if args.named.iter().any(|(name, _)| &**name == "caller") {
                    return Err(Error::type_error("a call block gives 'caller' itself"));
                }
                args.named.push(("caller".into(), caller));
                self.call(&callee, args)?
            }
            None => self.call(&caller, Args::default())?,
        };
        written(&value, out)?;
        Ok(Flow::Next)
    }

    /// Jinja2 looks before it evaluates whether attributes are set on namespaces.
    fn assignable(&self, target: &Target, frame: &Rc<Frame>) -> Result<()> {
        match target {
            Target::Name(_) => Ok(()),
            Target::Attribute(name, _) => match frame.get(name.slot) {
                Some(Value::Namespace(_)) => Ok(()),
                _ => Err(Error::other("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(targets) => targets.iter().try_for_each(|target| self.assignable(target, frame)),
        }
    }

    pub(super) fn assign(&self, target: &Target, value: Value, frame: &Rc<Frame>) -> Result<()> {
        match target {
            Target::Name(name) => {
                frame.set_at(name.slot, value);
                Ok(())
            }
            Target::Attribute(name, attribute) => match frame.get(name.slot) {
                Some(Value::Namespace(namespace)) => set_attribute(&self.cx, &namespace, attribute, value),
                _ => Err(Error::other("cannot assign attribute on non-namespace object")),
            },
            Target::Tuple(targets) => {
                let values = match &value {
                    Value::Text(text) if text.count() > targets.len() + 1 => Vec::new(),
                    other => collect(&self.cx, other)?,
                };
                if values.len() != targets.len() {
                    let what = format!("{} names are set to {} values", targets.len(), values.len());
                    return Err(Error::value_error(what));
                }
                targets.iter().zip(values).try_for_each(|(target, value)| self.assign(target, value, frame))
            }
        }
    }
}

/// Writes what a block gives, which must be a text.
fn written(value: &Value, out: &mut Out) -> Result<()> {
    match value {
        Value::Text(text) => out.push_text(text),
        other => Err(Error::type_error(format!("a block gives a text, not '{}'", other.type_name()))),
    }
}
