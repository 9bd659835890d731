//! Macros, and the bodies of call blocks.
//!
//! The invariant: arguments are given to parameters as Jinja2's `Macro` gives them.

use std::rc::Rc;
use std::sync::Arc;

use super::super::budget::{Error, Result};
use super::super::syntax::{Function, Slot};
use super::super::value::{Args, Cx, Dict, Object, Out, Undefined, Value};
use super::{Frame, Run};

pub(super) struct Macro {
    run: Rc<Run>,
    function: Arc<Function>,
    /// Of the function that the macro stands in.
    frame: Rc<Frame>,
}

impl Macro {
    pub(super) fn value(run: &Rc<Run>, function: &Arc<Function>, frame: &Rc<Frame>) -> Result<Value> {
        run.keep(frame)?;
        let made = Self { run: run.clone(), function: function.clone(), frame: frame.clone() };
        Ok(Value::Object(Rc::new(made)))
    }

    fn name(&self) -> Option<&str> {
        self.function.name.as_ref().map(|name| &*name.name)
    }

    fn wrong(&self, what: &str) -> Error {
        Error::type_error(format!("macro '{}' {what}", self.name().unwrap_or("anonymous")))
    }

    /// The values of parameters, and of `caller`, `kwargs` and `varargs`.
    fn bind(&self, mut args: Args, frame: &Frame) -> Result<()> {
        let cx = &self.run.cx;
        let function = &self.function;
        let rest = args.places.split_off(args.places.len().min(function.parameters.len()));
        let given = args.places.len();
        for (parameter, value) in function.parameters.iter().zip(args.places) {
            frame.set(parameter.slot.index, Some(value));
        }
        for parameter in &function.parameters[given..] {
            let at = args.named.iter().position(|(name, _)| *name == parameter.name);
            frame.set(parameter.slot.index, at.map(|at| args.named.remove(at).1));
        }
        if let Some(slot) = function.caller {
            let at = args.named.iter().position(|(name, _)| &**name == "caller");
            let caller = at.map(|at| args.named.remove(at).1).filter(|caller| !matches!(caller, Value::None));
            let caller = caller.unwrap_or_else(|| cx.undefined(Undefined::Hint("No caller defined".into())));
            frame.set(slot, Some(caller));
        }
        if let Some(slot) = function.kwargs {
            let named = args.named.into_iter().map(|(name, value)| Ok((cx.text(&*name)?, value)));
            frame.set(slot, Some(Value::Dict(Dict::new(cx, named.collect::<Result<Vec<_>>>()?)?)));
        } else if let Some((name, _)) = args.named.first() {
            return Err(self.wrong(&format!("takes no keyword argument '{name}'")));
        }
        match function.varargs {
            Some(slot) => frame.set(slot, Some(cx.tuple(rest)?)),
            None if !rest.is_empty() => {
                return Err(self.wrong(&format!("takes not more than {} arguments", function.parameters.len())));
            }
            None => {}
        }
        Ok(())
    }

    fn body(&self, frame: &Rc<Frame>) -> Result<Value> {
        let function = &self.function;
        self.run.enter(&function.scope, frame)?;
        let first_default = function.parameters.len() - function.defaults.len();
        for (at, parameter) in function.parameters.iter().enumerate() {
            let slot = Slot { up: 0, index: parameter.slot.index };
            if frame.get(slot).is_none() {
                let value = match at.checked_sub(first_default).and_then(|at| function.defaults.get(at)) {
                    Some(default) => self.run.eval(default, frame)?,
                    None => {
                        let hint = format!("parameter '{}' was not provided", parameter.name);
                        self.run.cx.undefined(Undefined::Hint(hint))
                    }
                };
                frame.set(slot.index, Some(value));
            }
        }
        let mut out = Out::new(&self.run.cx)?;
        self.run.statements(&function.body, frame, &mut out)?;
        Ok(Value::Text(out.finish()?))
    }
}

impl Object for Macro {
    fn type_name(&self) -> &'static str {
        "Macro"
    }

    fn printed(&self, _: &Rc<Cx>) -> Result<Option<String>> {
        Ok(Some(self.name().map_or_else(|| "<Macro anonymous>".into(), |name| format!("<Macro '{name}'>"))))
    }

    fn attribute(&self, cx: &Rc<Cx>, name: &str) -> Result<Option<Value>> {
        Ok(match name {
            "name" => Some(self.name().map_or(Ok(Value::None), |name| cx.text(name))?),
            "arguments" => {
                let names = self.function.parameters.iter().map(|parameter| cx.text(&*parameter.name));
                Some(cx.tuple(names.collect::<Result<_>>()?)?)
            }
            "catch_kwargs" => Some(Value::Bool(self.function.kwargs.is_some())),
            "catch_varargs" => Some(Value::Bool(self.function.varargs.is_some())),
            "caller" => Some(Value::Bool(self.function.caller.is_some())),
            "explicit_caller" => {
                Some(Value::Bool(self.function.parameters.iter().any(|parameter| &*parameter.name == "caller")))
            }
            _ => None,
        })
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn call(&self, cx: &Rc<Cx>, args: Args) -> Result<Value> {
        let _depth = cx.budget.deeper()?;
        let frame = self.run.frame(self.function.slots, Some(self.frame.clone()))?;
        let result = self.bind(args, &frame).and_then(|()| self.body(&frame));
        if !frame.kept.get() {
            drop(frame.slots.take());
        }
        result
    }
}
