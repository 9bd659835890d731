//! A template as it was parsed: statements and expressions, with the slots that `scope` has given to names.
//!
//! The invariant: nothing here holds a value of a rendering, so that one tree serves all of them, on all threads.

use std::sync::Arc;

use super::value::Native;

/// Where a name's value lives: in the frame of a function so many functions outwards.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) up: u32,
    pub(super) index: u32,
}

/// A literal.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Literal {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    /// The text and its number in the template, under which a rendering keeps the value.
    Text(Arc<str>, usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unary {
    Not,
    Neg,
    Pos,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Binary {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

/// How a name stands in the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Context {
    Load,
    Store,
    Param,
}

#[derive(Debug, Clone)]
pub(super) struct Name {
    pub(super) name: Arc<str>,
    pub(super) slot: Slot,
}

/// The arguments of a call.
#[derive(Debug, Clone, Default)]
pub(super) struct Arguments {
    pub(super) places: Vec<Expr>,
    pub(super) named: Vec<(Arc<str>, Expr)>,
    /// `*args`.
    pub(super) more_places: Option<Expr>,
    /// `**kwargs`.
    pub(super) more_named: Option<Expr>,
}

/// A filter, with its function if there is one of that name.
#[derive(Debug, Clone)]
pub(super) struct FilterCall {
    pub(super) line: u32,
    pub(super) name: Arc<str>,
    pub(super) function: Option<Native>,
    /// `None`: the text of the block that the filter stands over.
    pub(super) value: Option<Expr>,
    pub(super) arguments: Arguments,
}

#[derive(Debug, Clone)]
pub(super) struct TestCall {
    pub(super) line: u32,
    pub(super) name: Arc<str>,
    pub(super) function: Option<Native>,
    pub(super) value: Expr,
    pub(super) arguments: Arguments,
}

#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) line: u32,
    pub(super) callee: Expr,
    pub(super) arguments: Arguments,
}

/// `value[start:stop:step]`.
#[derive(Debug, Clone)]
pub(super) struct Slice {
    pub(super) start: Option<Expr>,
    pub(super) stop: Option<Expr>,
    pub(super) step: Option<Expr>,
    /// Jinja2 computes it when it compiles, where what cannot be sliced is undefined, not an error.
    pub(super) constant: bool,
}

/// `then if test else other`.
#[derive(Debug, Clone)]
pub(super) struct Conditional {
    pub(super) line: u32,
    pub(super) test: Expr,
    pub(super) then: Expr,
    pub(super) other: Option<Expr>,
}

#[derive(Debug, Clone)]
pub(super) enum Expr {
    Literal(Literal),
    Name(Name),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Unary(Unary, Box<Expr>),
    Binary(Binary, Box<(Expr, Expr)>),
    And(Box<(Expr, Expr)>),
    Or(Box<(Expr, Expr)>),
    Concat(Vec<Expr>),
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    Filter(Box<FilterCall>),
    Test(Box<TestCall>),
    Call(Box<Call>),
    Attribute(Box<Expr>, Arc<str>),
    Item(Box<(Expr, Expr)>),
    Slice(Box<(Expr, Slice)>),
    Conditional(Box<Conditional>),
}

/// What is assigned to.
#[derive(Debug, Clone)]
pub(super) enum Target {
    Name(Name),
    /// `namespace.attribute`.
    Attribute(Name, Arc<str>),
    Tuple(Vec<Target>),
}

/// How a name gets its value when its scope is entered.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// A variable of the rendering, or a global.
    Variable(Arc<str>),
    /// The same name further outwards.
    Outer(Slot),
    /// None yet.
    Missing,
    /// It is given, and only unset when the scope is left.
    Given,
}

/// The names of a scope that are set when it is entered, and unset when it is left.
pub(super) type Scope = Vec<(u32, Source)>;

#[derive(Debug, Clone)]
pub(super) enum Part {
    /// Text of the template.
    Data(Arc<str>),
    Value(u32, Expr),
}

/// The part of a loop that chooses items; a function of its own.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    pub(super) target: Target,
    pub(super) test: Expr,
    pub(super) scope: Scope,
    pub(super) slots: u32,
}

#[derive(Debug, Clone)]
pub(super) struct For {
    pub(super) line: u32,
    pub(super) target: Target,
    pub(super) iter: Expr,
    pub(super) condition: Option<Condition>,
    pub(super) recursive: bool,
    /// Where `loop` lives, if the body uses it.
    pub(super) loop_slot: Option<u32>,
    pub(super) scope: Scope,
    pub(super) body: Vec<Stmt>,
    pub(super) other_scope: Scope,
    pub(super) other: Vec<Stmt>,
    /// Of a recursive loop, which is a function.
    pub(super) slots: u32,
}

#[derive(Debug, Clone)]
pub(super) struct If {
    pub(super) line: u32,
    pub(super) test: Expr,
    pub(super) body: Vec<Stmt>,
    pub(super) elifs: Vec<(u32, Expr, Vec<Stmt>)>,
    pub(super) other: Vec<Stmt>,
}

/// A macro, or the body of a call block.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) line: u32,
    pub(super) name: Option<Name>,
    pub(super) parameters: Vec<Name>,
    /// Of the last parameters.
    pub(super) defaults: Vec<Expr>,
    pub(super) body: Vec<Stmt>,
    pub(super) scope: Scope,
    pub(super) slots: u32,
    /// Where they live, if the body uses them.
    pub(super) caller: Option<u32>,
    pub(super) kwargs: Option<u32>,
    pub(super) varargs: Option<u32>,
}

/// `{% call %}`, or `{% generation %}`, which calls nothing.
#[derive(Debug, Clone)]
pub(super) struct CallBlock {
    pub(super) line: u32,
    pub(super) call: Option<Call>,
    pub(super) function: Arc<Function>,
}

#[derive(Debug, Clone)]
pub(super) struct Block {
    pub(super) line: u32,
    pub(super) scope: Scope,
    pub(super) body: Vec<Stmt>,
}

#[derive(Debug, Clone)]
pub(super) enum Stmt {
    Output(Vec<Part>),
    For(Arc<For>),
    If(Box<If>),
    Macro(Arc<Function>),
    CallBlock(Box<CallBlock>),
    FilterBlock(Box<(FilterCall, Block)>),
    With(Box<(Vec<(Target, Expr)>, Block)>),
    Scope(Box<Block>),
    Assign(u32, Target, Expr),
    AssignBlock(Box<(Target, Option<FilterCall>, Block)>),
    Break(u32),
    Continue(u32),
}
