//! Which names each scope of a template reads and sets, and what a name is when its scope is entered: the rules of Jinja2's
//! `idtracking`.
//!
//! The invariant: a name's place is told by the scopes that it stands in alone, never by what runs.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use super::syntax::{Arguments, Context, Expr, FilterCall, Function, Stmt, Target};

/// How a name of a scope begins.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Load {
    /// It is given: an argument, or a loop's item.
    Parameter,
    /// A variable of the rendering, or a global.
    Resolve,
    /// What it is further outwards.
    Alias,
    Undefined,
}

/// The names of one scope.
#[derive(Debug, Clone)]
pub(super) struct Symbols {
    pub(super) parent: Option<Rc<Symbols>>,
    pub(super) level: u32,
    /// The function in which the scope is entered.
    pub(super) function: usize,
    pub(super) loads: BTreeMap<Arc<str>, Load>,
    stores: BTreeSet<Arc<str>>,
    /// Names copied for branches, in the whole template.
    copied: Rc<Cell<usize>>,
}

/// Most names that are copied for branches: a published template has some thousands.
const MAX_COPIED: usize = 500_000;

impl Symbols {
    pub(super) fn new(parent: Option<Rc<Symbols>>, function: usize) -> Self {
        let level = parent.as_ref().map_or(0, |parent| parent.level + 1);
        let copied = parent.as_ref().map_or_else(Rc::default, |parent| parent.copied.clone());
        Self { parent, level, function, loads: BTreeMap::new(), stores: BTreeSet::new(), copied }
    }

    /// Whether there are too many names in too many branches, so that not all of them were looked at.
    pub(super) fn is_incomplete(&self) -> bool {
        self.copied.get() > MAX_COPIED
    }

    /// The same names, for a branch.
    fn branch(&self) -> Self {
        self.copied.set(self.copied.get() + self.loads.len() + 1);
        if self.is_incomplete() { Self::new(self.parent.clone(), self.function) } else { self.clone() }
    }

    /// The scope that knows a name: this one, or one further outwards.
    pub(super) fn find(&self, name: &str) -> Option<&Symbols> {
        if self.loads.contains_key(name) { Some(self) } else { self.outer(name) }
    }

    pub(super) fn outer(&self, name: &str) -> Option<&Symbols> {
        self.parent.as_ref()?.find(name)
    }

    fn store(&mut self, name: &Arc<str>) {
        self.stores.insert(name.clone());
        if !self.loads.contains_key(name) {
            let load = if self.outer(name).is_some() { Load::Alias } else { Load::Undefined };
            self.loads.insert(name.clone(), load);
        }
    }

    pub(super) fn parameter(&mut self, name: &Arc<str>) {
        self.stores.insert(name.clone());
        self.loads.insert(name.clone(), Load::Parameter);
    }

    fn load(&mut self, name: &Arc<str>) {
        if self.find(name).is_none() {
            self.loads.insert(name.clone(), Load::Resolve);
        }
    }

    /// What the branches of a condition have set may be set behind it, too.
    fn join(&mut self, branches: Vec<Symbols>) {
        let mut stores: BTreeSet<Arc<str>> = branches.iter().flat_map(|branch| branch.stores.iter().cloned()).collect();
        stores.retain(|name| !self.stores.contains(name));
        for branch in branches {
            self.loads.extend(branch.loads);
            self.stores.extend(branch.stores);
        }
        for name in stores {
            let load = if self.outer(&name).is_some() { Load::Alias } else { Load::Resolve };
            self.loads.insert(name, load);
        }
    }

    /// Takes in statements that stand in this scope.
    pub(super) fn body(&mut self, body: &[Stmt]) {
        let copied = self.copied.clone();
        for stmt in body.iter().take_while(|_| copied.get() <= MAX_COPIED) {
            self.stmt(stmt);
        }
    }

    fn stmt(&mut self, stmt: &Stmt) {
        match stmt {
            Stmt::If(if_) => {
                self.expr(&if_.test);
                let copied = self.copied.clone();
                let mut branches = Vec::new();
                let mut branch = self.branch();
                branch.body(&if_.body);
                branches.push(branch);
                let mut branch = self.clone();
                for (_, test, body) in if_.elifs.iter().take_while(|_| copied.get() <= MAX_COPIED) {
                    branch.expr(test);
                    let mut inner = branch.branch();
                    inner.body(body);
                    // An `elif` is a condition without other branches of its own.
                    let empty = branch.branch();
                    branch.join(vec![inner, empty]);
                }
                branches.push(branch);
                let mut branch = self.branch();
                branch.body(&if_.other);
                branches.push(branch);
                self.join(branches);
            }
            Stmt::Macro(function) => {
                if let Some(name) = &function.name {
                    self.store(&name.name);
                }
            }
            Stmt::For(for_) => self.expr(&for_.iter),
            Stmt::CallBlock(block) => {
                if let Some(call) = &block.call {
                    self.expr(&call.callee);
                    self.arguments(&call.arguments);
                }
            }
            Stmt::FilterBlock(block) => self.filter(&block.0),
            Stmt::With(with) => {
                for (_, value) in &with.0 {
                    self.expr(value);
                }
            }
            Stmt::Assign(_, target, value) => {
                self.expr(value);
                self.target(target, Context::Store);
            }
            Stmt::AssignBlock(block) => self.target(&block.0, Context::Store),
            Stmt::Output(parts) => {
                for part in parts {
                    if let super::syntax::Part::Value(_, value) = part {
                        self.expr(value);
                    }
                }
            }
            Stmt::Scope(_) | Stmt::Break(_) | Stmt::Continue(_) => {}
        }
    }

    /// Takes in a macro's parameters and body, whose scope this is.
    pub(super) fn function(&mut self, function: &Function) {
        for parameter in &function.parameters {
            self.parameter(&parameter.name);
        }
        for default in &function.defaults {
            self.expr(default);
        }
        self.body(&function.body);
    }

    pub(super) fn target(&mut self, target: &Target, context: Context) {
        match target {
            Target::Name(name) if context == Context::Param => self.parameter(&name.name),
            Target::Name(name) => self.store(&name.name),
            Target::Attribute(name, _) => self.load(&name.name),
            Target::Tuple(targets) => targets.iter().for_each(|target| self.target(target, context)),
        }
    }

    pub(super) fn filter(&mut self, filter: &FilterCall) {
        if let Some(value) = &filter.value {
            self.expr(value);
        }
        self.arguments(&filter.arguments);
    }

    fn arguments(&mut self, arguments: &Arguments) {
        arguments.each(&mut |expr| self.expr(expr));
    }

    pub(super) fn expr(&mut self, expr: &Expr) {
        match expr {
            Expr::Name(name) => self.load(&name.name),
            other => other.each(&mut |inner| self.expr(inner)),
        }
    }
}
