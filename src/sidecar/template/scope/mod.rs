//! Gives each name of a template its slot, in the scopes and functions that Jinja2's compiler makes of it.
//!
//! The invariant: a template that Jinja2's or Python's compiler refuses is refused here.

mod expression;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use self::expression::is_constant;
use super::symbols::{Load, Symbols};
use super::syntax::{CallBlock, Context, For, Function, If, Name, Part, Scope, Slot, Source, Stmt, Target};
use super::walk::{names_of, reads};

type Result<T> = std::result::Result<T, String>;

/// Most loops in one another in a function: Python takes no more.
const MAX_LOOPS: usize = 20;

/// The template's own scope, the number of its slots, and where `self` lives if it is used.
pub(super) struct Root {
    pub(super) scope: Scope,
    pub(super) slots: u32,
    pub(super) reference: Option<u32>,
}

/// Gives the slots. The error names the line.
pub(super) fn resolve(body: &mut [Stmt]) -> Result<Root> {
    let mut compiler = Compiler { functions: vec![FunctionSlots::default()], line: 1, constant: false };
    let mut symbols = Symbols::new(None, 0);
    let uses_self = reads(body, "self");
    if uses_self {
        symbols.parameter(&"self".into());
    }
    symbols.body(body);
    if symbols.is_incomplete() {
        return Err("there are too many names in too many conditions".into());
    }
    let symbols = Rc::new(symbols);
    compiler.body(body, &Frame { symbols: symbols.clone(), soft: false, loops: 0 })?;
    let reference = if uses_self { Some(compiler.own_slot(&symbols, "self")) } else { None };
    let scope = compiler.scope(&symbols);
    Ok(Root { scope, slots: compiler.functions[0].count(), reference })
}

/// The slots of one function: names at the same level share one, as they share a variable in Jinja2's Python.
#[derive(Default)]
struct FunctionSlots {
    depth: u32,
    slots: HashMap<(u32, Arc<str>), u32>,
}

impl FunctionSlots {
    fn count(&self) -> u32 {
        self.slots.len() as u32
    }
}

/// Where a statement stands.
#[derive(Clone)]
struct Frame {
    symbols: Rc<Symbols>,
    /// Directly in a condition: filters and tests that do not exist are an error only where they run.
    soft: bool,
    /// Loops around it in its function.
    loops: usize,
}

impl Frame {
    fn inner(&self, symbols: Rc<Symbols>) -> Self {
        Self { symbols, soft: false, loops: self.loops }
    }
}

struct Compiler {
    functions: Vec<FunctionSlots>,
    line: u32,
    /// Whether what is looked at is part of a larger constant expression.
    constant: bool,
}

impl Compiler {
    fn fail<T>(&self, what: impl std::fmt::Display) -> Result<T> {
        Err(format!("line {}: {what}", self.line))
    }

    fn new_function(&mut self, parent: usize) -> usize {
        let depth = self.functions[parent].depth + 1;
        self.functions.push(FunctionSlots { depth, slots: HashMap::new() });
        self.functions.len() - 1
    }

    /// The slot of a name that a scope itself knows.
    fn own_slot(&mut self, symbols: &Symbols, name: &str) -> u32 {
        let slots = &mut self.functions[symbols.function].slots;
        let count = slots.len() as u32;
        *slots.entry((symbols.level, name.into())).or_insert(count)
    }

    /// The slot of a name as seen from a function.
    fn slot(&mut self, symbols: &Symbols, from: usize, name: &str) -> Result<Slot> {
        let Some(owner) = symbols.find(name) else {
            return self.fail(format!("'{name}' is not known in its scope"));
        };
        let index = self.own_slot(owner, name);
        let up = self.functions[from].depth - self.functions[owner.function].depth;
        Ok(Slot { up, index })
    }

    fn name(&mut self, name: &mut Name, symbols: &Symbols) -> Result<()> {
        name.slot = self.slot(symbols, symbols.function, &name.name)?;
        Ok(())
    }

    /// What entering a scope sets.
    fn scope(&mut self, symbols: &Symbols) -> Scope {
        let mut scope = Vec::new();
        for (name, load) in &symbols.loads {
            let index = self.own_slot(symbols, name);
            let source = match load {
                Load::Parameter => Source::Given,
                Load::Resolve => Source::Variable(name.clone()),
                Load::Undefined => Source::Missing,
                Load::Alias => match symbols.outer(name) {
                    Some(owner) => {
                        let outer = self.own_slot(owner, name);
                        let up = self.functions[symbols.function].depth - self.functions[owner.function].depth;
                        Source::Outer(Slot { up, index: outer })
                    }
                    None => Source::Missing,
                },
            };
            scope.push((index, source));
        }
        scope
    }

    fn body(&mut self, body: &mut [Stmt], frame: &Frame) -> Result<()> {
        if frame.symbols.is_incomplete() {
            return self.fail("there are too many names in too many conditions");
        }
        body.iter_mut().try_for_each(|stmt| self.stmt(stmt, frame))
    }

    fn stmt(&mut self, stmt: &mut Stmt, frame: &Frame) -> Result<()> {
        match stmt {
            Stmt::Output(parts) => parts.iter_mut().try_for_each(|part| match part {
                Part::Data(..) => Ok(()),
                Part::Value(line, value) => {
                    self.line = *line;
                    self.constant = is_constant(value);
                    self.expr(value, &frame.symbols, frame.soft)?;
                    self.constant = false;
                    Ok(())
                }
            }),
            Stmt::For(_) => self.for_(stmt, frame),
            Stmt::If(if_) => self.if_(if_, frame),
            Stmt::Macro(function) => {
                let function = Arc::make_mut(function);
                self.function(function, frame)?;
                match &mut function.name {
                    Some(name) => self.name(name, &frame.symbols),
                    None => Ok(()),
                }
            }
            Stmt::CallBlock(block) => self.call_block(block, frame),
            Stmt::FilterBlock(block) => {
                let (filter, block) = &mut **block;
                self.line = block.line;
                let mut symbols = Symbols::new(Some(frame.symbols.clone()), frame.symbols.function);
                symbols.body(&block.body);
                symbols.filter(filter);
                let symbols = Rc::new(symbols);
                self.body(&mut block.body, &frame.inner(symbols.clone()))?;
                self.filter(filter, &symbols, false)?;
                block.scope = self.scope(&symbols);
                Ok(())
            }
            Stmt::With(with) => {
                let (values, block) = &mut **with;
                self.line = block.line;
                let mut symbols = Symbols::new(Some(frame.symbols.clone()), frame.symbols.function);
                values.iter().for_each(|(target, _)| symbols.target(target, Context::Param));
                symbols.body(&block.body);
                let symbols = Rc::new(symbols);
                for (target, value) in values {
                    self.target(target, &symbols)?;
                    self.expr(value, &frame.symbols, frame.soft)?;
                }
                self.body(&mut block.body, &frame.inner(symbols.clone()))?;
                block.scope = self.scope(&symbols);
                Ok(())
            }
            Stmt::Scope(block) => {
                let mut symbols = Symbols::new(Some(frame.symbols.clone()), frame.symbols.function);
                symbols.body(&block.body);
                let symbols = Rc::new(symbols);
                self.body(&mut block.body, &frame.inner(symbols.clone()))?;
                block.scope = self.scope(&symbols);
                Ok(())
            }
            Stmt::Assign(line, target, value) => {
                self.line = *line;
                self.target(target, &frame.symbols)?;
                self.expr(value, &frame.symbols, frame.soft)
            }
            Stmt::AssignBlock(block) => {
                let (target, filter, block) = &mut **block;
                self.line = block.line;
                let mut symbols = Symbols::new(Some(frame.symbols.clone()), frame.symbols.function);
                symbols.body(&block.body);
                let symbols = Rc::new(symbols);
                self.body(&mut block.body, &frame.inner(symbols.clone()))?;
                self.target(target, &frame.symbols)?;
                if let Some(filter) = filter {
                    self.filter(filter, &symbols, false)?;
                }
                block.scope = self.scope(&symbols);
                Ok(())
            }
            Stmt::Break(line) | Stmt::Continue(line) => {
                self.line = *line;
                if frame.loops == 0 { self.fail("break or continue outside a loop") } else { Ok(()) }
            }
        }
    }

    fn if_(&mut self, if_: &mut If, frame: &Frame) -> Result<()> {
        let frame = Frame { soft: true, ..frame.clone() };
        self.line = if_.line;
        self.expr(&mut if_.test, &frame.symbols, true)?;
        self.body(&mut if_.body, &frame)?;
        for (line, test, body) in &mut if_.elifs {
            self.line = *line;
            self.expr(test, &frame.symbols, true)?;
            self.body(body, &frame)?;
        }
        self.body(&mut if_.other, &frame)
    }

    fn for_(&mut self, stmt: &mut Stmt, frame: &Frame) -> Result<()> {
        let mut assigns_loop = false;
        names_of(stmt, &mut |name, context| assigns_loop |= context == Context::Store && &**name == "loop");
        let Stmt::For(for_) = stmt else { return Ok(()) };
        let for_: &mut For = Arc::make_mut(for_);
        self.line = for_.line;
        if assigns_loop {
            return self.fail("'loop' cannot be assigned to in a loop");
        }
        let outer = frame.symbols.function;
        let function = if for_.recursive { self.new_function(outer) } else { outer };
        let loops = if for_.recursive { 1 } else { frame.loops + 1 };
        if loops > MAX_LOOPS {
            return self.fail(format!("more than {MAX_LOOPS} loops in one another"));
        }
        let mut symbols = Symbols::new(Some(frame.symbols.clone()), function);
        let uses_loop = for_.recursive || reads(&for_.body, "loop");
        if uses_loop {
            symbols.parameter(&"loop".into());
        }
        symbols.target(&for_.target, Context::Param);
        symbols.body(&for_.body);
        let symbols = Rc::new(symbols);
        let mut other = Symbols::new(Some(frame.symbols.clone()), function);
        other.body(&for_.other);
        let other = Rc::new(other);
        if let Some(condition) = &mut for_.condition {
            // Chosen inside the loop's function, where that is one.
            let chooser = self.new_function(function);
            let mut inside = Symbols::new(Some(frame.symbols.clone()), chooser);
            inside.target(&condition.target, Context::Param);
            inside.expr(&condition.test);
            self.target(&mut condition.target, &inside)?;
            self.expr(&mut condition.test, &inside, false)?;
            condition.scope = self.scope(&inside);
            condition.slots = self.functions[chooser].count();
        }
        self.target(&mut for_.target, &symbols)?;
        self.expr(&mut for_.iter, &frame.symbols, frame.soft)?;
        self.body(&mut for_.body, &Frame { symbols: symbols.clone(), soft: false, loops })?;
        let other_loops = if for_.recursive { 0 } else { frame.loops };
        self.body(&mut for_.other, &Frame { symbols: other.clone(), soft: false, loops: other_loops })?;
        for_.loop_slot = if uses_loop { Some(self.own_slot(&symbols, "loop")) } else { None };
        for_.scope = self.scope(&symbols);
        for_.other_scope = self.scope(&other);
        for_.slots = self.functions[function].count();
        Ok(())
    }

    fn call_block(&mut self, block: &mut CallBlock, frame: &Frame) -> Result<()> {
        self.line = block.line;
        self.function(Arc::make_mut(&mut block.function), frame)?;
        match &mut block.call {
            Some(call) => {
                if call.arguments.named.iter().any(|(name, _)| &**name == "caller") {
                    return self.fail("a call block gives 'caller' itself");
                }
                self.expr(&mut call.callee, &frame.symbols, frame.soft)?;
                self.arguments(&mut call.arguments, &frame.symbols, frame.soft)
            }
            None => Ok(()),
        }
    }

    fn function(&mut self, function: &mut Function, frame: &Frame) -> Result<()> {
        self.line = function.line;
        let number = self.new_function(frame.symbols.function);
        let mut symbols = Symbols::new(Some(frame.symbols.clone()), number);
        symbols.function(function);
        let has = |name: &str| function.parameters.iter().position(|parameter| &*parameter.name == name);
        let special = |name: &str| reads(&function.body, name) && has(name).is_none();
        let without_default = function.parameters.len() - function.defaults.len();
        if reads(&function.body, "caller") && has("caller").is_some_and(|at| at < without_default) {
            return self.fail("a parameter 'caller' needs a default");
        }
        let (caller, kwargs, varargs) = (special("caller"), special("kwargs"), special("varargs"));
        for (name, used) in [("caller", caller), ("kwargs", kwargs), ("varargs", varargs)] {
            if used {
                symbols.parameter(&name.into());
            }
        }
        symbols.function(function);
        let symbols = Rc::new(symbols);
        for name in &mut function.parameters {
            self.name(name, &symbols)?;
        }
        for default in &mut function.defaults {
            self.expr(default, &symbols, false)?;
        }
        self.body(&mut function.body, &Frame { symbols: symbols.clone(), soft: false, loops: 0 })?;
        let mut slot = |used: bool, name: &str| if used { Some(self.own_slot(&symbols, name)) } else { None };
        function.caller = slot(caller, "caller");
        function.kwargs = slot(kwargs, "kwargs");
        function.varargs = slot(varargs, "varargs");
        function.scope = self.scope(&symbols);
        function.slots = self.functions[number].count();
        Ok(())
    }

    fn target(&mut self, target: &mut Target, symbols: &Symbols) -> Result<()> {
        match target {
            Target::Name(name) | Target::Attribute(name, _) => self.name(name, symbols),
            Target::Tuple(targets) => targets.iter_mut().try_for_each(|target| self.target(target, symbols)),
        }
    }
}
