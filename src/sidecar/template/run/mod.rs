//! Runs a template's tree over the variables of one rendering.
//!
//! The invariant: a rendering shares the tree alone with others; what it makes is let go of when it ends.

mod call;
mod expression;
mod loops;
mod statement;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use super::budget::{Charge, Error, Result};
use super::date::Date;
use super::globals;
use super::scope::Root;
use super::syntax::{Scope, Slot, Source, Stmt};
use super::value::{Cx, Empty, Object, Out, Text, Value};

/// A template that was read.
pub(super) struct Program {
    pub(super) body: Vec<Stmt>,
    pub(super) root: Root,
    /// How many texts of the template have a number.
    pub(super) texts: usize,
    pub(super) date: Option<Date>,
}

/// Writes a template. An error names its line but for what `raise_exception` threw.
pub(super) fn run(
    program: &Arc<Program>,
    cx: &Rc<Cx>,
    variables: HashMap<Rc<str>, Value>,
) -> std::result::Result<Text, (u32, Error)> {
    let run = Rc::new(Run {
        program: program.clone(),
        cx: cx.clone(),
        variables,
        texts: RefCell::new(vec![None; program.texts]),
        line: Cell::new(1),
    });
    let result = run.root();
    cx.empty();
    result.map_err(|error| (run.line.get(), error))
}

/// One rendering.
struct Run {
    program: Arc<Program>,
    cx: Rc<Cx>,
    variables: HashMap<Rc<str>, Value>,
    /// The template's texts as values, once they were used.
    texts: RefCell<Vec<Option<Value>>>,
    /// The line that runs.
    line: Cell<u32>,
}

/// How a statement ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

/// The variables of a function that runs.
struct Frame {
    slots: RefCell<Vec<Option<Value>>>,
    parent: Option<Rc<Frame>>,
    /// Whether it is kept until the rendering ends, since a macro may look into it.
    kept: Cell<bool>,
    _charge: Charge,
}

impl Empty for Frame {
    fn empty(&self) {
        drop(self.slots.take());
    }
}

impl Frame {
    fn set(&self, index: u32, value: Option<Value>) {
        let old = match self.slots.borrow_mut().get_mut(index as usize) {
            Some(slot) => std::mem::replace(slot, value),
            None => value,
        };
        // Outside the borrow: what is dropped may be anything.
        drop(old);
    }

    fn get(&self, slot: Slot) -> Option<Value> {
        let mut frame = self;
        for _ in 0..slot.up {
            frame = frame.parent.as_deref()?;
        }
        frame.slots.borrow().get(slot.index as usize).cloned().flatten()
    }

    fn set_at(&self, slot: Slot, value: Value) {
        let mut frame = self;
        for _ in 0..slot.up {
            match &frame.parent {
                Some(parent) => frame = parent,
                None => return,
            }
        }
        frame.set(slot.index, Some(value));
    }
}

impl Run {
    fn root(self: &Rc<Self>) -> Result<Text> {
        let frame = self.frame(self.program.root.slots, None)?;
        if let Some(slot) = self.program.root.reference {
            frame.set(slot, Some(Value::Object(Rc::new(Reference))));
        }
        self.enter(&self.program.root.scope, &frame)?;
        let mut out = Out::new(&self.cx)?;
        let flow = self.statements(&self.program.body, &frame, &mut out);
        frame.empty();
        flow?;
        out.finish()
    }

    fn frame(&self, slots: u32, parent: Option<Rc<Frame>>) -> Result<Rc<Frame>> {
        let charge = self.cx.budget.hold(96 + slots as usize * size_of::<Option<Value>>())?;
        Ok(Rc::new(Frame {
            slots: RefCell::new(vec![None; slots as usize]),
            parent,
            kept: Cell::new(false),
            _charge: charge,
        }))
    }

    /// Keeps a frame, and those around it, for what looks into it later.
    fn keep(&self, frame: &Rc<Frame>) -> Result<()> {
        let mut frame = Some(frame);
        while let Some(inner) = frame.filter(|frame| !frame.kept.get()) {
            inner.kept.set(true);
            self.cx.keep(inner.clone(), 32)?;
            frame = inner.parent.as_ref();
        }
        Ok(())
    }

    /// Sets the names of a scope.
    fn enter(&self, scope: &Scope, frame: &Rc<Frame>) -> Result<()> {
        for (index, source) in scope {
            let value = match source {
                Source::Given => continue,
                Source::Missing => None,
                Source::Outer(slot) => frame.get(*slot),
                Source::Variable(name) => {
                    self.variables.get(&**name).cloned().or_else(|| globals::find(name, self.program.date))
                }
            };
            frame.set(*index, value);
        }
        Ok(())
    }

    /// Unsets them.
    fn leave(&self, scope: &Scope, frame: &Frame) {
        scope.iter().for_each(|(index, _)| frame.set(*index, None));
    }

    /// A text of the template.
    fn text(&self, text: &Arc<str>, number: usize) -> Result<Value> {
        if let Some(Some(value)) = self.texts.borrow().get(number) {
            return Ok(value.clone());
        }
        let value = self.cx.text(&**text)?;
        if let Some(place) = self.texts.borrow_mut().get_mut(number) {
            *place = Some(value.clone());
        }
        Ok(value)
    }
}

/// `self`.
struct Reference;

impl Object for Reference {
    fn type_name(&self) -> &'static str {
        "TemplateReference"
    }

    fn printed(&self, _: &Rc<Cx>) -> Result<Option<String>> {
        Ok(Some("<TemplateReference None>".into()))
    }
}
