//! What is refused when a template is loaded, since it would need the clock, chance, or a type that there is not.
//!
//! The invariant: whatever cannot be had is named with its line at the load, never at the first rollout.

use super::filters::REFUSED;
use super::syntax::{Context, Expr, FilterCall, Function, Literal, Part, Stmt, Unary};
use super::walk::names;

type Result = std::result::Result<(), String>;

/// Methods whose results are of types that there are not: bytes, and tables that only Python's own code makes.
const METHODS: [&str; 6] = ["encode", "from_bytes", "fromhex", "hex", "maketrans", "to_bytes"];

const DAY: &str = "strftime_now asks for today's date, and a reward must not depend on the day; set one with --template-date \
                   YYYY-MM-DD";

/// Looks through a template. `dated`: whether there is a day that `strftime_now` tells. The error names line and construct.
pub(super) fn check(body: &[Stmt], dated: bool) -> Result {
    let (mut sets_date, mut sets_lipsum) = (false, false);
    names(body, &mut |name, context| {
        sets_date |= context != Context::Load && &**name == "strftime_now";
        sets_lipsum |= context != Context::Load && &**name == "lipsum";
    });
    let mut check = Check { line: 1, needs_date: !dated && !sets_date, sets_lipsum };
    check.body(body, false)
}

struct Check {
    line: u32,
    /// Whether calling `strftime_now` is an error where it is not asked for first.
    needs_date: bool,
    sets_lipsum: bool,
}

impl Check {
    fn fail(&self, what: impl std::fmt::Display) -> Result {
        Err(format!("line {}: {what}", self.line))
    }

    /// `guarded`: it is known here that `strftime_now` is defined.
    fn body(&mut self, body: &[Stmt], guarded: bool) -> Result {
        body.iter().try_for_each(|stmt| self.stmt(stmt, guarded))
    }

    fn stmt(&mut self, stmt: &Stmt, guarded: bool) -> Result {
        match stmt {
            Stmt::Output(parts) => parts.iter().try_for_each(|part| match part {
                Part::Data(..) => Ok(()),
                Part::Value(line, value) => {
                    self.line = *line;
                    self.expr(value, guarded)
                }
            }),
            Stmt::If(if_) => {
                self.line = if_.line;
                self.expr(&if_.test, guarded)?;
                let (then, mut other) = guards(&if_.test);
                self.body(&if_.body, guarded || then)?;
                for (line, test, body) in &if_.elifs {
                    self.line = *line;
                    self.expr(test, guarded || other)?;
                    let (then, otherwise) = guards(test);
                    self.body(body, guarded || other || then)?;
                    other |= otherwise;
                }
                self.body(&if_.other, guarded || other)
            }
            Stmt::For(for_) => {
                self.line = for_.line;
                self.expr(&for_.iter, guarded)?;
                for_.condition.iter().try_for_each(|condition| self.expr(&condition.test, guarded))?;
                self.body(&for_.body, guarded)?;
                self.body(&for_.other, guarded)
            }
            Stmt::Macro(function) => self.function(function, guarded),
            Stmt::CallBlock(block) => {
                self.line = block.line;
                if let Some(call) = &block.call {
                    self.expr(&call.callee, guarded)?;
                    let mut result = Ok(());
                    call.arguments.each(&mut |expr| result = result.clone().and_then(|()| self.expr(expr, guarded)));
                    result?;
                }
                self.function(&block.function, guarded)
            }
            Stmt::FilterBlock(block) => {
                self.line = block.1.line;
                self.filter(&block.0, guarded)?;
                self.body(&block.1.body, guarded)
            }
            Stmt::With(with) => {
                self.line = with.1.line;
                with.0.iter().try_for_each(|(_, value)| self.expr(value, guarded))?;
                self.body(&with.1.body, guarded)
            }
            Stmt::Scope(block) => self.body(&block.body, guarded),
            Stmt::Assign(line, _, value) => {
                self.line = *line;
                self.expr(value, guarded)
            }
            Stmt::AssignBlock(block) => {
                self.line = block.2.line;
                block.1.iter().try_for_each(|filter| self.filter(filter, guarded))?;
                self.body(&block.2.body, guarded)
            }
            Stmt::Break(_) | Stmt::Continue(_) => Ok(()),
        }
    }

    fn function(&mut self, function: &Function, guarded: bool) -> Result {
        self.line = function.line;
        function.defaults.iter().try_for_each(|default| self.expr(default, guarded))?;
        self.body(&function.body, guarded)
    }

    fn filter(&mut self, filter: &FilterCall, guarded: bool) -> Result {
        self.line = filter.line;
        let is_map = &*filter.name == "map";
        let mapped = filter.arguments.places.first().filter(|_| is_map);
        let mapped = mapped
            .and_then(|first| if let Expr::Literal(Literal::Text(name, _)) = first { Some(&**name) } else { None });
        for name in [Some(&*filter.name), mapped].into_iter().flatten() {
            if REFUSED.contains(&name) {
                return self.fail(format!("the filter '{name}' is not supported"));
            }
        }
        filter.value.iter().try_for_each(|value| self.expr(value, guarded))?;
        let mut result = Ok(());
        filter.arguments.each(&mut |expr| result = result.clone().and_then(|()| self.expr(expr, guarded)));
        result
    }

    fn expr(&mut self, expr: &Expr, guarded: bool) -> Result {
        match expr {
            Expr::Filter(filter) => self.filter(filter, guarded),
            Expr::Name(name) if &*name.name == "lipsum" && !self.sets_lipsum => {
                self.fail("lipsum writes another text each time, and is not supported")
            }
            Expr::Conditional(conditional) => {
                self.expr(&conditional.test, guarded)?;
                let (then, other) = guards(&conditional.test);
                self.expr(&conditional.then, guarded || then)?;
                conditional.other.iter().try_for_each(|value| self.expr(value, guarded || other))
            }
            Expr::And(pair) => {
                self.expr(&pair.0, guarded)?;
                self.expr(&pair.1, guarded || guards(&pair.0).0)
            }
            Expr::Or(pair) => {
                self.expr(&pair.0, guarded)?;
                self.expr(&pair.1, guarded || guards(&pair.0).1)
            }
            other => {
                if let Expr::Call(call) = other {
                    match &call.callee {
                        Expr::Name(name) if &*name.name == "strftime_now" && self.needs_date && !guarded => {
                            self.line = call.line;
                            return self.fail(DAY);
                        }
                        Expr::Attribute(_, name) if METHODS.contains(&&**name) => {
                            self.line = call.line;
                            return self.fail(format!("the method '{name}' is not supported"));
                        }
                        _ => {}
                    }
                }
                let mut result = Ok(());
                other.each(&mut |inner| result = result.clone().and_then(|()| self.expr(inner, guarded)));
                result
            }
        }
    }
}

/// Whether `strftime_now` is defined where a test holds, and where it does not.
fn guards(test: &Expr) -> (bool, bool) {
    match test {
        Expr::Name(name) if &*name.name == "strftime_now" => (true, false),
        Expr::Test(test) if matches!(&test.value, Expr::Name(name) if &*name.name == "strftime_now") => {
            match &*test.name {
                "defined" => (true, false),
                "undefined" => (false, true),
                _ => (false, false),
            }
        }
        Expr::Unary(Unary::Not, inner) => {
            let (then, other) = guards(inner);
            (other, then)
        }
        Expr::And(pair) => {
            let (a, b) = (guards(&pair.0), guards(&pair.1));
            (a.0 || b.0, a.1 && b.1)
        }
        Expr::Or(pair) => {
            let (a, b) = (guards(&pair.0), guards(&pair.1));
            (a.0 && b.0, a.1 || b.1)
        }
        _ => (false, false),
    }
}
