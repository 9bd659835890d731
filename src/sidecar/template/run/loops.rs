//! `for`, and what `loop` tells.
//!
//! The invariant: an iterable is looked at one item ahead at most, unless its length is asked for.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use super::super::budget::{Error, Result};
use super::super::syntax::{For, Target};
use super::super::value::{Args, Cx, Items, Iterate, Object, Out, Undefined, Value, deeper, equal, iterate};
use super::{Flow, Frame, Run};

impl Run {
    pub(super) fn for_(self: &Rc<Self>, for_: &Arc<For>, frame: &Rc<Frame>, out: &mut Out) -> Result<Flow> {
        self.line.set(for_.line);
        let iterable = self.eval(&for_.iter, frame)?;
        if for_.recursive {
            self.keep(frame)?;
            self.recursive(for_, frame, iterable, 0, out)?;
            return Ok(Flow::Next);
        }
        self.run_loop(for_, frame, iterable, None, 0, out)
    }

    /// A recursive loop is a function with variables of its own.
    fn recursive(
        self: &Rc<Self>,
        for_: &Arc<For>,
        outer: &Rc<Frame>,
        iterable: Value,
        depth: u32,
        out: &mut Out,
    ) -> Result<()> {
        let frame = self.frame(for_.slots, Some(outer.clone()))?;
        let recursion = Recursion { run: self.clone(), for_: for_.clone(), outer: outer.clone() };
        let flow = self.run_loop(for_, &frame, iterable, Some(recursion), depth, out);
        if !frame.kept.get() {
            drop(frame.slots.take());
        }
        flow.map(|_| ())
    }

    fn run_loop(
        self: &Rc<Self>,
        for_: &Arc<For>,
        frame: &Rc<Frame>,
        iterable: Value,
        recursion: Option<Recursion>,
        depth0: u32,
        out: &mut Out,
    ) -> Result<Flow> {
        let _depth = self.cx.budget.deeper_by(3)?;
        let iterable = if for_.condition.is_some() { self.chosen(for_, frame, iterable)? } else { iterable };
        let mut ran = false;
        match for_.loop_slot {
            Some(slot) => {
                let state = Rc::new(Loop::new(iterable, recursion, depth0)?);
                let result = self.run_extended(for_, frame, slot, &state, out);
                // What was compared could hold the loop itself.
                drop(state.changed.take());
                ran = result?;
            }
            None => {
                let mut items = iterate(&iterable)?;
                while let Some(item) = items.next(&self.cx)? {
                    self.assign(&for_.target, item, frame)?;
                    match self.iteration(for_, frame, out)? {
                        Flow::Next => ran = true,
                        Flow::Continue => {}
                        Flow::Break => break,
                    }
                }
            }
        }
        self.leave(&for_.scope, frame);
        // As in Jinja2, a loop none of whose bodies came to its end has run no body.
        if ran || for_.other.is_empty() {
            return Ok(Flow::Next);
        }
        self.enter(&for_.other_scope, frame)?;
        let flow = self.statements(&for_.other, frame, out)?;
        self.leave(&for_.other_scope, frame);
        Ok(flow)
    }

    /// The iterations of a loop whose body uses `loop`, and whether a body came to its end.
    fn run_extended(
        self: &Rc<Self>,
        for_: &For,
        frame: &Rc<Frame>,
        slot: u32,
        state: &Rc<Loop>,
        out: &mut Out,
    ) -> Result<bool> {
        let object = Value::Object(Rc::new(LoopObject(state.clone())));
        let mut ran = false;
        while let Some(item) = state.advance(&self.cx)? {
            self.assign(&for_.target, item, frame)?;
            frame.set(slot, Some(object.clone()));
            match self.iteration(for_, frame, out)? {
                Flow::Next => ran = true,
                Flow::Continue => {}
                Flow::Break => break,
            }
        }
        Ok(ran)
    }

    fn iteration(self: &Rc<Self>, for_: &For, frame: &Rc<Frame>, out: &mut Out) -> Result<Flow> {
        self.enter(&for_.scope, frame)?;
        self.statements(&for_.body, frame, out)
    }

    /// The items that the loop's condition chooses, a generator.
    fn chosen(self: &Rc<Self>, for_: &Arc<For>, frame: &Rc<Frame>, iterable: Value) -> Result<Value> {
        self.keep(frame)?;
        let depth = iterable.depth();
        let slots = for_.condition.as_ref().map_or(0, |condition| condition.slots);
        let inner = self.frame(slots, Some(frame.clone()))?;
        let chosen =
            Chosen { run: self.clone(), for_: for_.clone(), frame: inner, source: Some(iterable), items: None };
        self.cx.iterator("generator", depth, chosen)
    }
}

struct Chosen {
    run: Rc<Run>,
    for_: Arc<For>,
    frame: Rc<Frame>,
    source: Option<Value>,
    items: Option<Items>,
}

impl Iterate for Chosen {
    fn next(&mut self, cx: &Rc<Cx>) -> Result<Option<Value>> {
        let Some(condition) = &self.for_.condition else { return Ok(None) };
        if let Some(source) = self.source.take() {
            self.run.enter(&condition.scope, &self.frame)?;
            self.items = Some(iterate(&source)?);
        }
        let Some(mut items) = self.items.take() else { return Ok(None) };
        while let Some(item) = items.next(cx)? {
            self.run.assign(&condition.target, item, &self.frame)?;
            if self.run.eval(&condition.test, &self.frame)?.truth(cx)? {
                self.items = Some(items);
                return self.target(&condition.target).map(Some);
            }
        }
        Ok(None)
    }
}

impl Chosen {
    /// The item as Jinja2 passes it on: several names are a tuple.
    fn target(&self, target: &Target) -> Result<Value> {
        match target {
            Target::Name(name) | Target::Attribute(name, _) => Ok(self.frame.get(name.slot).unwrap_or(Value::None)),
            Target::Tuple(targets) => {
                self.run.cx.tuple(targets.iter().map(|target| self.target(target)).collect::<Result<_>>()?)
            }
        }
    }
}

/// How a recursive loop calls itself.
struct Recursion {
    run: Rc<Run>,
    for_: Arc<For>,
    outer: Rc<Frame>,
}

/// `loop`.
struct Loop {
    state: RefCell<State>,
    iterable: Value,
    recursion: Option<Recursion>,
    depth0: u32,
    /// How deep it is as a value.
    depth: u32,
    changed: RefCell<Option<Value>>,
}

struct State {
    items: Items,
    /// Of the item that runs, from 1 on.
    index: usize,
    length: Option<usize>,
    before: Option<Value>,
    current: Option<Value>,
    after: Option<Value>,
}

impl Loop {
    fn new(iterable: Value, recursion: Option<Recursion>, depth0: u32) -> Result<Self> {
        let items = iterate(&iterable)?;
        let depth = deeper(iterable.depth())?;
        let state = State { items, index: 0, length: None, before: None, current: None, after: None };
        Ok(Self { state: RefCell::new(state), iterable, recursion, depth0, depth, changed: RefCell::new(None) })
    }

    fn state(&self) -> Result<std::cell::RefMut<'_, State>> {
        self.state.try_borrow_mut().map_err(|_| Error::value_error("generator already executing"))
    }

    fn advance(&self, cx: &Rc<Cx>) -> Result<Option<Value>> {
        let mut state = self.state()?;
        let next = match state.after.take() {
            Some(next) => Some(next),
            None => state.items.next(cx)?,
        };
        if let Some(next) = &next {
            state.index += 1;
            state.before = state.current.replace(next.clone());
        }
        Ok(next)
    }

    fn peek(&self, cx: &Rc<Cx>) -> Result<Option<Value>> {
        let mut state = self.state()?;
        if state.after.is_none() {
            state.after = state.items.next(cx)?;
        }
        Ok(state.after.clone())
    }

    fn total(&self, cx: &Rc<Cx>) -> Result<usize> {
        let mut state = self.state()?;
        if let Some(length) = state.length {
            return Ok(length);
        }
        let length = match self.iterable.length(cx)? {
            Some(length) => length,
            None => {
                let mut rest = Vec::new();
                while let Some(item) = state.items.next(cx)? {
                    rest.push(item);
                }
                let count = rest.len();
                let rest = cx.list(rest)?;
                deeper(rest.depth())?;
                state.items = iterate(&rest)?;
                count + state.index + usize::from(state.after.is_some())
            }
        };
        state.length = Some(length);
        Ok(length)
    }
}

fn number(number: usize) -> Option<Value> {
    Some(Value::Int(number as i128))
}

/// `loop` as a value.
struct LoopObject(Rc<Loop>);

impl Object for LoopObject {
    fn type_name(&self) -> &'static str {
        "LoopContext"
    }

    fn printed(&self, cx: &Rc<Cx>) -> Result<Option<String>> {
        let index = self.0.state()?.index;
        Ok(Some(format!("<LoopContext {index}/{}>", self.0.total(cx)?)))
    }

    fn attribute(&self, cx: &Rc<Cx>, name: &str) -> Result<Option<Value>> {
        let index = self.0.state()?.index;
        let item = |item: Option<Value>, hint: &str| {
            Some(item.unwrap_or_else(|| cx.undefined(Undefined::Hint(hint.to_owned()))))
        };
        Ok(match name {
            "index" => number(index),
            "index0" => Some(Value::Int(index as i128 - 1)),
            "first" => Some(Value::Bool(index == 1)),
            "last" => Some(Value::Bool(self.0.peek(cx)?.is_none())),
            "length" => number(self.0.total(cx)?),
            "revindex" => Some(Value::Int(self.0.total(cx)? as i128 - index as i128 + 1)),
            "revindex0" => Some(Value::Int(self.0.total(cx)? as i128 - index as i128)),
            "previtem" => {
                let before = if index == 1 { None } else { self.0.state()?.before.clone() };
                item(before, "there is no previous item")
            }
            "nextitem" => item(self.0.peek(cx)?, "there is no next item"),
            "depth" => Some(Value::Int(i128::from(self.0.depth0) + 1)),
            "cycle" => Some(Value::Object(Rc::new(LoopMethod(self.0.clone(), Loop::cycle)))),
            "changed" => Some(Value::Object(Rc::new(LoopMethod(self.0.clone(), Loop::has_changed)))),
            "depth0" => Some(Value::Int(i128::from(self.0.depth0))),
            _ => None,
        })
    }

    fn length(&self, cx: &Rc<Cx>) -> Result<Option<usize>> {
        self.0.total(cx).map(Some)
    }

    fn is_iterable(&self) -> bool {
        true
    }

    /// Going through it moves the loop itself on.
    fn next(&self, cx: &Rc<Cx>) -> Result<Option<Value>> {
        match self.0.advance(cx)? {
            Some(item) => cx.tuple(vec![item, Value::Object(Rc::new(Self(self.0.clone())))]).map(Some),
            None => Ok(None),
        }
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn call(&self, cx: &Rc<Cx>, args: Args) -> Result<Value> {
        let [iterable] = args.bind("loop", ["iterable"], 1)?;
        let Some(Recursion { run, for_, outer }) = &self.0.recursion else {
            return Err(Error::type_error("The loop must have the 'recursive' marker to be called recursively."));
        };
        let mut out = Out::new(cx)?;
        run.recursive(for_, outer, iterable.unwrap_or(Value::None), self.0.depth0 + 1, &mut out)?;
        Ok(Value::Text(out.finish()?))
    }

    fn depth(&self) -> u32 {
        self.0.depth
    }
}

/// `loop.cycle` or `loop.changed`.
struct LoopMethod(Rc<Loop>, fn(&Loop, &Rc<Cx>, Args) -> Result<Value>);

impl Object for LoopMethod {
    fn type_name(&self) -> &'static str {
        "method"
    }

    fn is_callable(&self) -> bool {
        true
    }

    fn call(&self, cx: &Rc<Cx>, args: Args) -> Result<Value> {
        (self.1)(&self.0, cx, args)
    }

    fn depth(&self) -> u32 {
        self.0.depth
    }
}

impl Loop {
    fn cycle(&self, _: &Rc<Cx>, args: Args) -> Result<Value> {
        if !args.named.is_empty() || args.places.is_empty() {
            return Err(Error::type_error("no items for cycling given"));
        }
        let index = self.state()?.index.max(1) - 1;
        Ok(args.places[index % args.places.len()].clone())
    }

    fn has_changed(&self, cx: &Rc<Cx>, args: Args) -> Result<Value> {
        if !args.named.is_empty() {
            return Err(Error::type_error("changed() takes no keyword arguments"));
        }
        let value = cx.tuple(args.places)?;
        let last = self.changed.borrow().clone();
        if let Some(last) = last
            && equal(cx, &last, &value)?
        {
            return Ok(Value::Bool(false));
        }
        let old = self.changed.replace(Some(value));
        drop(old);
        Ok(Value::Bool(true))
    }
}
