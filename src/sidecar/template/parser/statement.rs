//! Statements, and the text between them.
//!
//! The invariant: what is not supported is refused here, by its name.

use std::sync::Arc;

use super::super::lexer::Token;
use super::super::syntax::Condition;
use super::super::syntax::{
    Block, Call, CallBlock, Expr, FilterCall, For, Function, If, Name, Part, Slot, Stmt, Target,
};
use super::{MAX_BLOCKS, Parser, Result, Tall};

impl Parser {
    /// Statements up to one of the words, which stays the current token; up to the template's end if there are none.
    pub(super) fn statements(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        self.blocks += 1;
        if self.blocks > MAX_BLOCKS {
            return self.fail(format!("statements are nested deeper than {MAX_BLOCKS}"));
        }
        let (mut body, mut parts) = (Vec::new(), Vec::new());
        loop {
            let line = self.line();
            match self.current().clone() {
                Token::Data(data) => {
                    self.next();
                    parts.push(Part::Data(data.into()));
                }
                Token::VariableBegin => {
                    self.next();
                    let line = self.line();
                    let (value, _) = self.tuple(true, false, None)?;
                    self.expect(&Token::VariableEnd)?;
                    parts.push(Part::Value(line, value));
                }
                Token::BlockBegin => {
                    if !parts.is_empty() {
                        body.push(Stmt::Output(std::mem::take(&mut parts)));
                    }
                    self.next();
                    if ends.iter().any(|end| self.is_name(end)) {
                        self.blocks -= 1;
                        return Ok(body);
                    }
                    body.push(self.statement(ends)?);
                    self.expect(&Token::BlockEnd)?;
                }
                Token::End if ends.is_empty() => {
                    if !parts.is_empty() {
                        body.push(Stmt::Output(parts));
                    }
                    self.blocks -= 1;
                    return Ok(body);
                }
                other => {
                    let wanted = ends.join(" or ");
                    return Err(format!("line {line}: expected {wanted}, got {}", other.describe()));
                }
            }
        }
    }

    /// The body of a statement: the end of its tag, and what follows up to one of the words.
    fn body(&mut self, ends: &[&str]) -> Result<Vec<Stmt>> {
        self.skip_operator(":");
        self.expect(&Token::BlockEnd)?;
        self.statements(ends)
    }

    /// The same, and the word is passed.
    fn whole_body(&mut self, end: &str) -> Result<Vec<Stmt>> {
        let body = self.body(&[end])?;
        self.next();
        Ok(body)
    }

    fn statement(&mut self, ends: &[&str]) -> Result<Stmt> {
        let line = self.line();
        let Token::Name(name) = self.current().clone() else { return self.fail("expected the name of a statement") };
        match name.as_str() {
            "for" => self.for_(),
            "if" => self.if_(),
            "set" => self.set(),
            "macro" => self.macro_(),
            "call" => self.call_block(),
            "filter" => self.filter_block(),
            "with" => self.with(),
            "print" => self.print(),
            "autoescape" => self.autoescape(),
            "generation" => self.generation(),
            "break" => {
                self.next();
                Ok(Stmt::Break(line))
            }
            "continue" => {
                self.next();
                Ok(Stmt::Continue(line))
            }
            "block" | "extends" | "include" | "import" | "from" => {
                self.fail(format!("{{% {name} %}} is not supported: a chat template is one file"))
            }
            _ if ends.is_empty() => self.fail(format!("unknown statement '{name}'")),
            _ => self.fail(format!("unknown statement '{name}', expected {}", ends.join(" or "))),
        }
    }

    fn for_(&mut self) -> Result<Stmt> {
        let line = self.line();
        self.next();
        let target = self.targets(Some("in"), false)?;
        self.expect_name("in")?;
        let (iter, _) = self.tuple(false, false, Some("recursive"))?;
        let test = if self.skip_name("if") { Some(self.expression(true)?.0) } else { None };
        let recursive = self.skip_name("recursive");
        let body = self.body(&["endfor", "else"])?;
        let other = if self.next() == Token::Name("else".into()) { self.whole_body("endfor")? } else { Vec::new() };
        let condition = test.map(|test| Condition { target: target.clone(), test, scope: Vec::new(), slots: 0 });
        Ok(Stmt::For(Arc::new(For {
            line,
            target,
            iter,
            condition,
            recursive,
            loop_slot: None,
            scope: Vec::new(),
            body,
            other_scope: Vec::new(),
            other,
            slots: 0,
        })))
    }

    fn if_(&mut self) -> Result<Stmt> {
        const ENDS: [&str; 3] = ["elif", "else", "endif"];
        let line = self.line();
        self.next();
        let (test, _) = self.tuple(false, false, None)?;
        let mut result = If { line, test, body: self.body(&ENDS)?, elifs: Vec::new(), other: Vec::new() };
        loop {
            let line = self.line();
            match self.next() {
                Token::Name(word) if word == "elif" => {
                    let (test, _) = self.tuple(false, false, None)?;
                    let body = self.body(&ENDS)?;
                    result.elifs.push((line, test, body));
                }
                Token::Name(word) if word == "else" => {
                    result.other = self.whole_body("endif")?;
                    break;
                }
                _ => break,
            }
        }
        Ok(Stmt::If(Box::new(result)))
    }

    fn set(&mut self) -> Result<Stmt> {
        let line = self.line();
        self.next();
        let target = self.targets(None, true)?;
        if self.skip_operator("=") {
            let (value, _) = self.tuple(true, false, None)?;
            return Ok(Stmt::Assign(line, target, value));
        }
        let filter = self.inline_filters()?;
        let body = self.whole_body("endset")?;
        Ok(Stmt::AssignBlock(Box::new((target, filter, Block { line, scope: Vec::new(), body }))))
    }

    /// `| filter | filter` over a block's text.
    fn inline_filters(&mut self) -> Result<Option<FilterCall>> {
        let mut filter: Option<(FilterCall, u32)> = None;
        while self.skip_operator("|") {
            let value: Option<Tall> = filter.take().map(|(filter, height)| (Expr::Filter(Box::new(filter)), height));
            filter = Some(self.filter(value)?);
        }
        Ok(filter.map(|(filter, _)| filter))
    }

    fn macro_(&mut self) -> Result<Stmt> {
        let line = self.line();
        self.next();
        let name = self.name_target()?;
        let (parameters, defaults) = self.signature()?;
        let body = self.whole_body("endmacro")?;
        Ok(Stmt::Macro(Arc::new(function(line, Some(name), parameters, defaults, body))))
    }

    fn signature(&mut self) -> Result<(Vec<Name>, Vec<Expr>)> {
        self.expect_operator("(")?;
        let (mut parameters, mut defaults) = (Vec::<Name>::new(), Vec::new());
        while !self.is_operator(")") {
            if !parameters.is_empty() {
                self.expect_operator(",")?;
            }
            let name = self.name_target()?;
            if parameters.iter().any(|other| other.name == name.name) {
                return self.fail(format!("two parameters are called '{}'", name.name));
            }
            if self.skip_operator("=") {
                defaults.push(self.expression(true)?.0);
            } else if !defaults.is_empty() {
                return self.fail("a parameter without a default behind one with");
            }
            parameters.push(name);
        }
        self.expect_operator(")")?;
        Ok((parameters, defaults))
    }

    fn call_block(&mut self) -> Result<Stmt> {
        let line = self.line();
        self.next();
        let (parameters, defaults) = if self.is_operator("(") { self.signature()? } else { (Vec::new(), Vec::new()) };
        let (Expr::Call(call), _) = self.expression(true)? else { return self.fail("expected a call") };
        let body = self.whole_body("endcall")?;
        Ok(call_block(line, Some(*call), function(line, None, parameters, defaults, body)))
    }

    /// `{% generation %}` marks what the assistant wrote, for training. It is a call block around a function that calls
    /// its body.
    fn generation(&mut self) -> Result<Stmt> {
        let line = self.line();
        self.next();
        let body = self.whole_body("endgeneration")?;
        Ok(call_block(line, None, function(line, None, Vec::new(), Vec::new(), body)))
    }

    fn filter_block(&mut self) -> Result<Stmt> {
        let line = self.line();
        self.next();
        let (first, height) = self.filter(None)?;
        let mut filter = (first, height);
        while self.skip_operator("|") {
            filter = self.filter(Some((Expr::Filter(Box::new(filter.0)), filter.1)))?;
        }
        let body = self.whole_body("endfilter")?;
        Ok(Stmt::FilterBlock(Box::new((filter.0, Block { line, scope: Vec::new(), body }))))
    }

    fn with(&mut self) -> Result<Stmt> {
        let line = self.line();
        self.next();
        let mut values = Vec::new();
        while *self.current() != Token::BlockEnd {
            if !values.is_empty() {
                self.expect_operator(",")?;
            }
            let target = self.targets(None, false)?;
            self.expect_operator("=")?;
            values.push((target, self.expression(true)?.0));
        }
        let body = self.whole_body("endwith")?;
        Ok(Stmt::With(Box::new((values, Block { line, scope: Vec::new(), body }))))
    }

    fn print(&mut self) -> Result<Stmt> {
        self.next();
        let mut parts = Vec::new();
        while *self.current() != Token::BlockEnd {
            if !parts.is_empty() {
                self.expect_operator(",")?;
            }
            let line = self.line();
            parts.push(Part::Value(line, self.expression(true)?.0));
        }
        Ok(Stmt::Output(parts))
    }

    fn autoescape(&mut self) -> Result<Stmt> {
        let line = self.line();
        self.next();
        let (value, _) = self.expression(true)?;
        if !matches!(value, Expr::Literal(super::super::syntax::Literal::Bool(false))) {
            return self.fail("{% autoescape %} is not supported but with false");
        }
        let body = self.whole_body("endautoescape")?;
        Ok(Stmt::Scope(Box::new(Block { line, scope: Vec::new(), body })))
    }

    fn name_target(&mut self) -> Result<Name> {
        let name = self.any_name()?;
        if matches!(&*name, "true" | "false" | "none" | "True" | "False" | "None") {
            return self.fail(format!("'{name}' cannot be assigned to"));
        }
        Ok(Name { name, slot: Slot::default() })
    }

    /// One target, or several with commas between.
    fn targets(&mut self, end: Option<&str>, attributes: bool) -> Result<Target> {
        let (mut targets, mut is_tuple) = (Vec::new(), false);
        loop {
            if !targets.is_empty() {
                self.expect_operator(",")?;
            }
            let ends = matches!(self.current(), Token::VariableEnd | Token::BlockEnd | Token::Operator(")"));
            if ends || end.is_some_and(|word| self.is_name(word)) {
                break;
            }
            targets.push(self.target(attributes)?);
            if !self.is_operator(",") {
                break;
            }
            is_tuple = true;
        }
        match targets.pop() {
            Some(target) if !is_tuple => Ok(target),
            Some(target) => {
                targets.push(target);
                Ok(Target::Tuple(targets))
            }
            None => self.fail("expected a name to assign to"),
        }
    }

    fn target(&mut self, attributes: bool) -> Result<Target> {
        if self.is_operator("(") {
            let (expr, _) = self.primary()?;
            return self.as_target(expr);
        }
        let name = self.name_target()?;
        if attributes && self.skip_operator(".") {
            return Ok(Target::Attribute(name, self.any_name()?));
        }
        Ok(Target::Name(name))
    }

    fn as_target(&self, expr: Expr) -> Result<Target> {
        match expr {
            Expr::Name(name) => Ok(Target::Name(name)),
            Expr::Tuple(items) => {
                Ok(Target::Tuple(items.into_iter().map(|item| self.as_target(item)).collect::<Result<_>>()?))
            }
            _ => self.fail("this cannot be assigned to"),
        }
    }
}

fn function(line: u32, name: Option<Name>, parameters: Vec<Name>, defaults: Vec<Expr>, body: Vec<Stmt>) -> Function {
    Function {
        line,
        name,
        parameters,
        defaults,
        body,
        scope: Vec::new(),
        slots: 0,
        caller: None,
        kwargs: None,
        varargs: None,
    }
}

fn call_block(line: u32, call: Option<Call>, function: Function) -> Stmt {
    Stmt::CallBlock(Box::new(CallBlock { line, call, function: Arc::new(function) }))
}
