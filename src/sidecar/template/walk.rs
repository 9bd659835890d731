//! What stands in an expression or a statement, in the order in which Jinja2's visitors go through it.
//!
//! The invariant: every part is visited once.

use std::sync::Arc;

use super::syntax::{Arguments, Context, Expr, Part, Stmt, Target};

impl Arguments {
    pub(super) fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        self.places.iter().for_each(&mut *visit);
        self.named.iter().for_each(|(_, value)| visit(value));
        self.more_places.iter().for_each(&mut *visit);
        self.more_named.iter().for_each(visit);
    }
}

impl Expr {
    /// The expressions directly inside.
    pub(super) fn each<'a>(&'a self, visit: &mut dyn FnMut(&'a Expr)) {
        match self {
            Self::Literal(_) | Self::Name(_) => {}
            Self::Tuple(items) | Self::List(items) | Self::Concat(items) => items.iter().for_each(visit),
            Self::Dict(items) => items.iter().for_each(|(key, value)| {
                visit(key);
                visit(value);
            }),
            Self::Unary(_, value) | Self::Attribute(value, _) => visit(value),
            Self::Binary(_, pair) | Self::And(pair) | Self::Or(pair) | Self::Item(pair) => {
                visit(&pair.0);
                visit(&pair.1);
            }
            Self::Compare(first, others) => {
                visit(first);
                others.iter().for_each(|(_, other)| visit(other));
            }
            Self::Filter(filter) => {
                filter.value.iter().for_each(&mut *visit);
                filter.arguments.each(visit);
            }
            Self::Test(test) => {
                visit(&test.value);
                test.arguments.each(visit);
            }
            Self::Call(call) => {
                visit(&call.callee);
                call.arguments.each(visit);
            }
            Self::Slice(slice) => {
                visit(&slice.0);
                let bounds = &slice.1;
                [&bounds.start, &bounds.stop, &bounds.step].into_iter().flatten().for_each(visit);
            }
            Self::Conditional(conditional) => {
                visit(&conditional.test);
                visit(&conditional.then);
                conditional.other.iter().for_each(visit);
            }
        }
    }

    fn names(&self, visit: &mut dyn FnMut(&Arc<str>, Context)) {
        match self {
            Self::Name(name) => visit(&name.name, Context::Load),
            other => other.each(&mut |inner| inner.names(visit)),
        }
    }
}

impl Target {
    fn names(&self, context: Context, visit: &mut dyn FnMut(&Arc<str>, Context)) {
        match self {
            Self::Name(name) => visit(&name.name, context),
            // Jinja2's visitors of names do not see these.
            Self::Attribute(..) => {}
            Self::Tuple(targets) => targets.iter().for_each(|target| target.names(context, visit)),
        }
    }
}

/// Every name in statements, those of inner scopes and functions included.
pub(super) fn names(body: &[Stmt], visit: &mut dyn FnMut(&Arc<str>, Context)) {
    body.iter().for_each(|stmt| names_of(stmt, visit));
}

pub(super) fn names_of(stmt: &Stmt, visit: &mut dyn FnMut(&Arc<str>, Context)) {
    match stmt {
        Stmt::Output(parts) => parts.iter().for_each(|part| {
            if let Part::Value(_, value) = part {
                value.names(visit);
            }
        }),
        Stmt::For(for_) => {
            for_.target.names(Context::Store, visit);
            for_.iter.names(visit);
            names(&for_.body, visit);
            names(&for_.other, visit);
            if let Some(condition) = &for_.condition {
                condition.test.names(visit);
            }
        }
        Stmt::If(if_) => {
            if_.test.names(visit);
            names(&if_.body, visit);
            for (_, test, body) in &if_.elifs {
                test.names(visit);
                names(body, visit);
            }
            names(&if_.other, visit);
        }
        Stmt::Macro(function) => {
            function.parameters.iter().for_each(|name| visit(&name.name, Context::Param));
            function.defaults.iter().for_each(|default| default.names(visit));
            names(&function.body, visit);
        }
        Stmt::CallBlock(block) => {
            if let Some(call) = &block.call {
                call.callee.names(visit);
                call.arguments.each(&mut |expr| expr.names(visit));
            }
            block.function.parameters.iter().for_each(|name| visit(&name.name, Context::Param));
            block.function.defaults.iter().for_each(|default| default.names(visit));
            names(&block.function.body, visit);
        }
        Stmt::FilterBlock(block) => {
            names(&block.1.body, visit);
            filter_names(&block.0, visit);
        }
        Stmt::With(with) => {
            with.0.iter().for_each(|(target, _)| target.names(Context::Param, visit));
            with.0.iter().for_each(|(_, value)| value.names(visit));
            names(&with.1.body, visit);
        }
        Stmt::Scope(block) => names(&block.body, visit),
        Stmt::Assign(_, target, value) => {
            target.names(Context::Store, visit);
            value.names(visit);
        }
        Stmt::AssignBlock(block) => {
            block.0.names(Context::Store, visit);
            block.1.iter().for_each(|filter| filter_names(filter, visit));
            names(&block.2.body, visit);
        }
        Stmt::Break(_) | Stmt::Continue(_) => {}
    }
}

fn filter_names(filter: &super::syntax::FilterCall, visit: &mut dyn FnMut(&Arc<str>, Context)) {
    filter.value.iter().for_each(|value| value.names(visit));
    filter.arguments.each(&mut |expr| expr.names(visit));
}

/// Whether statements read a name before any of them sets it.
pub(super) fn reads(body: &[Stmt], name: &str) -> bool {
    let (mut reads, mut set) = (false, false);
    names(body, &mut |other, context| {
        if &**other == name {
            if context == Context::Load && !set {
                reads = true;
            } else if context != Context::Load {
                set = true;
            }
        }
    });
    reads
}
