//! The names in expressions.
//!
//! The invariant: what Jinja2 computes when it compiles is marked, where that makes a difference.

use super::super::symbols::Symbols;
use super::super::syntax::{Arguments, Expr, FilterCall, Literal};
use super::{Compiler, Result};

impl Compiler {
    pub(super) fn filter(&mut self, filter: &mut FilterCall, symbols: &Symbols, soft: bool) -> Result<()> {
        if filter.function.is_none() && !soft {
            self.line = filter.line;
            return self.fail(format!("there is no filter '{}'", filter.name));
        }
        if let Some(value) = &mut filter.value {
            self.expr(value, symbols, soft)?;
        }
        self.arguments(&mut filter.arguments, symbols, soft)
    }

    pub(super) fn arguments(&mut self, arguments: &mut Arguments, symbols: &Symbols, soft: bool) -> Result<()> {
        let named = arguments.named.iter_mut().map(|(_, value)| value);
        let more = arguments.more_places.iter_mut().chain(&mut arguments.more_named);
        arguments.places.iter_mut().chain(named).chain(more).try_for_each(|expr| self.expr(expr, symbols, soft))
    }

    pub(super) fn expr(&mut self, expr: &mut Expr, symbols: &Symbols, soft: bool) -> Result<()> {
        let outer = self.constant;
        self.constant =
            outer || !matches!(expr, Expr::Slice(_) | Expr::Literal(_) | Expr::Name(_)) && is_constant(expr);
        self.parts(expr, symbols, soft, outer)?;
        self.constant = outer;
        Ok(())
    }

    fn parts(&mut self, expr: &mut Expr, symbols: &Symbols, soft: bool, constant: bool) -> Result<()> {
        match expr {
            Expr::Literal(_) => Ok(()),
            Expr::Name(name) => self.name(name, symbols),
            Expr::Tuple(items) | Expr::List(items) | Expr::Concat(items) => {
                items.iter_mut().try_for_each(|item| self.expr(item, symbols, soft))
            }
            Expr::Dict(items) => items.iter_mut().try_for_each(|(key, value)| {
                self.expr(key, symbols, soft)?;
                self.expr(value, symbols, soft)
            }),
            Expr::Unary(_, value) | Expr::Attribute(value, _) => self.expr(value, symbols, soft),
            Expr::Binary(_, pair) | Expr::And(pair) | Expr::Or(pair) | Expr::Item(pair) => {
                self.expr(&mut pair.0, symbols, soft)?;
                self.expr(&mut pair.1, symbols, soft)
            }
            Expr::Compare(first, others) => {
                self.expr(first, symbols, soft)?;
                others.iter_mut().try_for_each(|(_, other)| self.expr(other, symbols, soft))
            }
            Expr::Filter(filter) => self.filter(filter, symbols, soft),
            Expr::Test(test) => {
                if test.function.is_none() && !soft {
                    self.line = test.line;
                    return self.fail(format!("there is no test '{}'", test.name));
                }
                self.expr(&mut test.value, symbols, soft)?;
                self.arguments(&mut test.arguments, symbols, soft)
            }
            Expr::Call(call) => {
                self.expr(&mut call.callee, symbols, soft)?;
                self.arguments(&mut call.arguments, symbols, soft)
            }
            Expr::Slice(slice) => {
                let (value, bounds) = &mut **slice;
                bounds.constant = constant && self.constant;
                self.expr(value, symbols, soft)?;
                let bounds = [&mut bounds.start, &mut bounds.stop, &mut bounds.step].into_iter().flatten();
                bounds.into_iter().try_for_each(|bound| self.expr(bound, symbols, soft))
            }
            Expr::Conditional(conditional) => {
                self.expr(&mut conditional.then, symbols, true)?;
                self.expr(&mut conditional.test, symbols, true)?;
                conditional.other.iter_mut().try_for_each(|other| self.expr(other, symbols, true))
            }
        }
    }
}

/// Whether Jinja2 can compute it when it compiles.
pub(super) fn is_constant(expr: &Expr) -> bool {
    const NEED_CONTEXT: [&str; 5] = ["map", "select", "reject", "selectattr", "rejectattr"];
    match expr {
        Expr::Name(_) | Expr::Call(_) => return false,
        Expr::Filter(filter) if filter.function.is_none() || NEED_CONTEXT.contains(&&*filter.name) => return false,
        Expr::Test(test) if test.function.is_none() => return false,
        // Undefined is false, so that nothing else is looked at.
        Expr::And(pair) if matches!(&pair.0, Expr::Slice(slice) if !matches!(&slice.0, Expr::Literal(Literal::Text(..)))) =>
        {
            return is_constant(&pair.0);
        }
        _ => {}
    }
    let mut constant = true;
    expr.each(&mut |inner| constant = constant && is_constant(inner));
    constant
}
