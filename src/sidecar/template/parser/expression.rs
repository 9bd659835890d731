//! Expressions, with Jinja2's precedence: the comparison binds weaker than `+`, that than `~`, that than `*`, that than `**`,
//! that than the sign, the item, the call, the filter and the test.
//!
//! The invariant: each function gives the height of what it returns, and none goes beyond the highest.

use super::super::lexer::Token;
use super::super::syntax::{Binary, Comparison, Conditional, Expr, Unary};
use super::{MAX_DEPTH, MAX_HEIGHT, Parser, Result, Tall};

impl Parser {
    /// One higher than these.
    pub(super) fn above(&self, heights: &[u32]) -> Result<u32> {
        let height = heights.iter().max().copied().unwrap_or(0) + 1;
        if height > MAX_HEIGHT {
            self.fail(format!("the expression is nested deeper than {MAX_HEIGHT}"))
        } else {
            Ok(height)
        }
    }

    /// An expression without a comma at its top.
    pub(super) fn expression(&mut self, conditional: bool) -> Result<Tall> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(format!("the expression is nested deeper than {}", MAX_DEPTH / 2));
        }
        let result = if conditional { self.conditional() } else { self.or() };
        self.depth -= 1;
        result
    }

    fn conditional(&mut self) -> Result<Tall> {
        let mut line = self.line();
        let (mut then, mut height) = self.or()?;
        while self.skip_name("if") {
            let (test, test_height) = self.or()?;
            let (other, other_height) = if self.skip_name("else") {
                let (other, height) = self.expression(true)?;
                (Some(other), height)
            } else {
                (None, 0)
            };
            height = self.above(&[height, test_height, other_height])?;
            then = Expr::Conditional(Box::new(Conditional { line, test, then, other }));
            line = self.line();
        }
        Ok((then, height))
    }

    fn or(&mut self) -> Result<Tall> {
        let (mut left, mut height) = self.and()?;
        while self.skip_name("or") {
            let (right, right_height) = self.and()?;
            height = self.above(&[height, right_height])?;
            left = Expr::Or(Box::new((left, right)));
        }
        Ok((left, height))
    }

    fn and(&mut self) -> Result<Tall> {
        let (mut left, mut height) = self.not()?;
        while self.skip_name("and") {
            let (right, right_height) = self.not()?;
            height = self.above(&[height, right_height])?;
            left = Expr::And(Box::new((left, right)));
        }
        Ok((left, height))
    }

    fn not(&mut self) -> Result<Tall> {
        let mut count = 0;
        while self.skip_name("not") {
            count += 1;
        }
        let (mut expr, mut height) = self.compare()?;
        for _ in 0..count {
            height = self.above(&[height])?;
            expr = Expr::Unary(Unary::Not, Box::new(expr));
        }
        Ok((expr, height))
    }

    fn compare(&mut self) -> Result<Tall> {
        let (first, mut height) = self.sum()?;
        let mut others = Vec::new();
        loop {
            let comparison = match self.current() {
                Token::Operator("==") => Comparison::Eq,
                Token::Operator("!=") => Comparison::Ne,
                Token::Operator("<") => Comparison::Lt,
                Token::Operator("<=") => Comparison::Le,
                Token::Operator(">") => Comparison::Gt,
                Token::Operator(">=") => Comparison::Ge,
                Token::Name(name) if name == "in" => Comparison::In,
                Token::Name(name) if name == "not" && matches!(self.look(), Token::Name(name) if name == "in") => {
                    self.next();
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            let (other, other_height) = self.sum()?;
            height = height.max(other_height);
            others.push((comparison, other));
        }
        if others.is_empty() {
            return Ok((first, height));
        }
        Ok((Expr::Compare(Box::new(first), others), self.above(&[height])?))
    }

    /// Operators of one precedence, from the left.
    fn binary(&mut self, signs: &[(&str, Binary)], operand: fn(&mut Self) -> Result<Tall>) -> Result<Tall> {
        let (mut left, mut height) = operand(self)?;
        while let Some(&(_, operator)) = signs.iter().find(|(sign, _)| self.is_operator(sign)) {
            self.next();
            let (right, right_height) = operand(self)?;
            height = self.above(&[height, right_height])?;
            left = Expr::Binary(operator, Box::new((left, right)));
        }
        Ok((left, height))
    }

    fn sum(&mut self) -> Result<Tall> {
        self.binary(&[("+", Binary::Add), ("-", Binary::Sub)], Self::concat)
    }

    fn concat(&mut self) -> Result<Tall> {
        let (first, mut height) = self.product()?;
        if !self.is_operator("~") {
            return Ok((first, height));
        }
        let mut parts = vec![first];
        while self.skip_operator("~") {
            let (part, part_height) = self.product()?;
            height = height.max(part_height);
            parts.push(part);
        }
        Ok((Expr::Concat(parts), self.above(&[height])?))
    }

    fn product(&mut self) -> Result<Tall> {
        let signs = [("*", Binary::Mul), ("/", Binary::Div), ("//", Binary::FloorDiv), ("%", Binary::Mod)];
        self.binary(&signs, Self::power)
    }

    fn power(&mut self) -> Result<Tall> {
        self.binary(&[("**", Binary::Pow)], |parser| parser.unary(true))
    }

    fn unary(&mut self, with_filter: bool) -> Result<Tall> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return self.fail(format!("the expression is nested deeper than {}", MAX_DEPTH / 2));
        }
        let operator = match self.current() {
            Token::Operator("-") => Some(Unary::Neg),
            Token::Operator("+") => Some(Unary::Pos),
            _ => None,
        };
        let mut tall = match operator {
            Some(operator) => {
                self.next();
                let (expr, height) = self.unary(false)?;
                (Expr::Unary(operator, Box::new(expr)), self.above(&[height])?)
            }
            None => self.primary()?,
        };
        self.depth -= 1;
        tall = self.postfix(tall)?;
        if with_filter { self.filters_and_tests(tall) } else { Ok(tall) }
    }
}
