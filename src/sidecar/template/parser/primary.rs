//! What operators stand between: literals, names, brackets, and the items, calls, filters and tests behind them.
//!
//! The invariant: a filter or a test knows its function from here on, if there is one.

use std::sync::Arc;

use super::super::filters;
use super::super::lexer::Token;
use super::super::syntax::{Arguments, Call, Expr, FilterCall, Literal, Name, Slice, Slot, TestCall, Unary};
use super::{Parser, Result, Tall};

impl Parser {
    pub(super) fn primary(&mut self) -> Result<Tall> {
        let expr = match self.current().clone() {
            Token::Name(name) => {
                self.next();
                match name.as_str() {
                    "true" | "True" => Expr::Literal(Literal::Bool(true)),
                    "false" | "False" => Expr::Literal(Literal::Bool(false)),
                    "none" | "None" => Expr::Literal(Literal::None),
                    _ => Expr::Name(Name { name: name.into(), slot: Slot::default() }),
                }
            }
            Token::Text(mut text) => {
                self.next();
                while let Token::Text(more) = self.current() {
                    text.push_str(more);
                    self.next();
                }
                self.literal(&text)
            }
            Token::Int(number) => {
                self.next();
                Expr::Literal(Literal::Int(number))
            }
            Token::Float(number) => {
                self.next();
                Expr::Literal(Literal::Float(number))
            }
            Token::Operator("(") => {
                self.next();
                let tall = self.tuple(true, true, None)?;
                self.expect_operator(")")?;
                return Ok(tall);
            }
            Token::Operator("[") => return self.list(),
            Token::Operator("{") => return self.dict(),
            other => return self.fail(format!("unexpected {}", other.describe())),
        };
        Ok((expr, 1))
    }

    fn tuple_ends(&self, word: Option<&str>) -> bool {
        matches!(self.current(), Token::VariableEnd | Token::BlockEnd | Token::Operator(")"))
            || word.is_some_and(|word| self.is_name(word))
    }

    /// An expression, or several with commas between, which are a tuple.
    pub(super) fn tuple(&mut self, conditional: bool, in_parentheses: bool, end: Option<&str>) -> Result<Tall> {
        let (mut items, mut height, mut is_tuple) = (Vec::new(), 0, false);
        loop {
            if !items.is_empty() {
                self.expect_operator(",")?;
            }
            if self.tuple_ends(end) {
                break;
            }
            let (item, item_height) = self.expression(conditional)?;
            height = height.max(item_height);
            items.push(item);
            if !self.is_operator(",") {
                break;
            }
            is_tuple = true;
        }
        if !is_tuple {
            if let Some(item) = items.pop() {
                return Ok((item, height));
            }
            if !in_parentheses {
                return self.fail(format!("expected an expression, got {}", self.current().describe()));
            }
        }
        Ok((Expr::Tuple(items), self.above(&[height])?))
    }

    fn list(&mut self) -> Result<Tall> {
        self.expect_operator("[")?;
        let (mut items, mut height) = (Vec::new(), 0);
        while !self.is_operator("]") {
            if !items.is_empty() {
                self.expect_operator(",")?;
            }
            if self.is_operator("]") {
                break;
            }
            let (item, item_height) = self.expression(true)?;
            height = height.max(item_height);
            items.push(item);
        }
        self.expect_operator("]")?;
        Ok((Expr::List(items), self.above(&[height])?))
    }

    fn dict(&mut self) -> Result<Tall> {
        self.expect_operator("{")?;
        let (mut items, mut height) = (Vec::new(), 0);
        while !self.is_operator("}") {
            if !items.is_empty() {
                self.expect_operator(",")?;
            }
            if self.is_operator("}") {
                break;
            }
            let (key, key_height) = self.expression(true)?;
            self.expect_operator(":")?;
            let (value, value_height) = self.expression(true)?;
            height = height.max(key_height).max(value_height);
            items.push((key, value));
        }
        self.expect_operator("}")?;
        Ok((Expr::Dict(items), self.above(&[height])?))
    }

    /// Attributes, items and calls behind an expression.
    pub(super) fn postfix(&mut self, mut tall: Tall) -> Result<Tall> {
        loop {
            tall = match self.current() {
                Token::Operator("." | "[") => self.subscript(tall)?,
                Token::Operator("(") => self.call(tall)?,
                _ => return Ok(tall),
            };
        }
    }

    pub(super) fn filters_and_tests(&mut self, mut tall: Tall) -> Result<Tall> {
        loop {
            tall = match self.current() {
                Token::Operator("|") => {
                    self.next();
                    let (filter, height) = self.filter(Some(tall))?;
                    (Expr::Filter(Box::new(filter)), height)
                }
                Token::Name(name) if name == "is" => self.test(tall)?,
                Token::Operator("(") => self.call(tall)?,
                _ => return Ok(tall),
            };
        }
    }

    fn subscript(&mut self, (value, height): Tall) -> Result<Tall> {
        if self.next() == Token::Operator(".") {
            let height = self.above(&[height])?;
            return match self.next() {
                Token::Name(name) => Ok((Expr::Attribute(Box::new(value), name.into()), height)),
                Token::Int(number) => {
                    let number = Expr::Literal(Literal::Int(number));
                    Ok((Expr::Item(Box::new((value, number))), height))
                }
                _ => self.fail("expected a name or a number behind the point"),
            };
        }
        let (mut items, mut slices, mut tallest) = (Vec::new(), Vec::new(), height);
        while !self.is_operator("]") {
            if !items.is_empty() || !slices.is_empty() {
                self.expect_operator(",")?;
            }
            let start = if self.is_operator(":") { None } else { Some(self.expression(true)?) };
            tallest = tallest.max(start.as_ref().map_or(0, |(_, height)| *height));
            match start {
                Some((start, _)) if !self.is_operator(":") => items.push(start),
                start => {
                    let (slice, height) = self.slice(start.map(|(start, _)| start))?;
                    tallest = tallest.max(height);
                    slices.push(slice);
                }
            }
        }
        self.expect_operator("]")?;
        let height = self.above(&[tallest])? + 1;
        match (items.len(), slices.pop()) {
            (1, None) => Ok((Expr::Item(Box::new((value, items.remove(0)))), height)),
            (0, Some(slice)) if slices.is_empty() => Ok((Expr::Slice(Box::new((value, slice))), height)),
            (_, None) => Ok((Expr::Item(Box::new((value, Expr::Tuple(items)))), height)),
            _ => self.fail("a slice among several subscripts"),
        }
    }

    /// What stands behind the first bound of a slice.
    fn slice(&mut self, start: Option<Expr>) -> Result<(Slice, u32)> {
        self.expect_operator(":")?;
        let mut height = 0;
        let mut bound = |parser: &mut Self| -> Result<Option<Expr>> {
            if [":", "]", ","].iter().any(|sign| parser.is_operator(sign)) {
                return Ok(None);
            }
            let (expr, its) = parser.expression(true)?;
            height = height.max(its);
            Ok(Some(expr))
        };
        let stop = bound(self)?;
        let step = if self.skip_operator(":") {
            if self.is_operator(":") {
                return self.fail("a slice has three bounds");
            }
            bound(self)?
        } else {
            None
        };
        Ok((Slice { start, stop, step, constant: false }, height))
    }

    fn call(&mut self, (callee, height): Tall) -> Result<Tall> {
        let line = self.line();
        let (arguments, arguments_height) = self.arguments()?;
        let height = self.above(&[height, arguments_height])?;
        Ok((Expr::Call(Box::new(Call { line, callee, arguments })), height))
    }

    fn arguments(&mut self) -> Result<(Arguments, u32)> {
        self.expect_operator("(")?;
        let (mut arguments, mut height, mut first) = (Arguments::default(), 0, true);
        while !self.is_operator(")") {
            if !first {
                self.expect_operator(",")?;
                if self.is_operator(")") {
                    break;
                }
            }
            first = false;
            height = height.max(self.argument(&mut arguments)?);
        }
        self.expect_operator(")")?;
        Ok((arguments, height))
    }

    fn argument(&mut self, arguments: &mut Arguments) -> Result<u32> {
        const WRONG: &str = "invalid arguments of a call";
        let (some_places, some_named) = (arguments.more_places.is_some(), arguments.more_named.is_some());
        if self.skip_operator("*") {
            if some_places || some_named {
                return self.fail(WRONG);
            }
            let (more, height) = self.expression(true)?;
            arguments.more_places = Some(more);
            return Ok(height);
        }
        if self.skip_operator("**") {
            if some_named {
                return self.fail(WRONG);
            }
            let (more, height) = self.expression(true)?;
            arguments.more_named = Some(more);
            return Ok(height);
        }
        if let Token::Name(name) = self.current()
            && *self.look() == Token::Operator("=")
        {
            let name: Arc<str> = name.as_str().into();
            if some_named || arguments.named.iter().any(|(other, _)| *other == name) {
                return self.fail(WRONG);
            }
            self.next();
            self.next();
            let (value, height) = self.expression(true)?;
            arguments.named.push((name, value));
            return Ok(height);
        }
        if some_places || some_named || !arguments.named.is_empty() {
            return self.fail(WRONG);
        }
        let (value, height) = self.expression(true)?;
        arguments.places.push(value);
        Ok(height)
    }

    fn dotted_name(&mut self) -> Result<String> {
        let mut name = self.any_name()?.to_string();
        while self.skip_operator(".") {
            name.push('.');
            name.push_str(&self.any_name()?);
        }
        Ok(name)
    }

    /// A filter behind its `|`, or at the beginning of a filter block.
    pub(super) fn filter(&mut self, value: Option<Tall>) -> Result<(FilterCall, u32)> {
        let line = self.line();
        let name = self.dotted_name()?;
        let (arguments, arguments_height) =
            if self.is_operator("(") { self.arguments()? } else { (Arguments::default(), 0) };
        let (value, height) = value.map_or((None, 0), |(value, height)| (Some(value), height));
        let height = self.above(&[height, arguments_height])?;
        let function = filters::find(&name);
        Ok((FilterCall { line, name: name.into(), function, value, arguments }, height))
    }

    fn test(&mut self, (value, height): Tall) -> Result<Tall> {
        self.next();
        let line = self.line();
        let negated = self.skip_name("not");
        let name = self.dotted_name()?;
        let (arguments, arguments_height) = match self.current() {
            Token::Operator("(") => self.arguments()?,
            Token::Name(next) if matches!(next.as_str(), "else" | "or" | "and") => (Arguments::default(), 0),
            Token::Name(next) if next == "is" => return self.fail("tests cannot be chained with is"),
            Token::Name(_) | Token::Text(_) | Token::Int(_) | Token::Float(_) | Token::Operator("[" | "{") => {
                let tall = self.primary()?;
                let (argument, height) = self.postfix(tall)?;
                (Arguments { places: vec![argument], ..Arguments::default() }, height)
            }
            _ => (Arguments::default(), 0),
        };
        let mut height = self.above(&[height, arguments_height])?;
        let function = filters::test(&name);
        let mut test = Expr::Test(Box::new(TestCall { line, name: name.into(), function, value, arguments }));
        if negated {
            height = self.above(&[height])?;
            test = Expr::Unary(Unary::Not, Box::new(test));
        }
        Ok((test, height))
    }
}
