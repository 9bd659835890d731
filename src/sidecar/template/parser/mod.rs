//! Tokens into a tree, as Jinja2's parser does.
//!
//! The invariant: no tree is deeper than [`MAX_HEIGHT`] and [`MAX_BLOCKS`] allow, so that whatever walks it, or drops it, has stack enough.

mod expression;
mod primary;
mod statement;

use std::collections::HashMap;
use std::sync::Arc;

use super::lexer::Token;
use super::syntax::{Expr, Literal, Stmt};

/// Deepest expression.
const MAX_HEIGHT: u32 = 100;

/// Most calls of the parser for expressions in one another: two for a pair of brackets.
const MAX_DEPTH: u32 = 140;

/// Deepest nesting of statements.
const MAX_BLOCKS: u32 = 50;

pub(super) type Result<T> = std::result::Result<T, String>;

/// An expression and its height.
type Tall = (Expr, u32);

/// What a template is made of.
pub(super) struct Parsed {
    pub(super) body: Vec<Stmt>,
    /// How many texts of the template have a number.
    pub(super) texts: usize,
}

/// The tree of a template. The error names the line.
pub(super) fn parse(tokens: Vec<(u32, Token)>) -> Result<Parsed> {
    let mut parser = Parser { tokens, at: 0, texts: HashMap::new(), depth: 0, blocks: 0 };
    let body = parser.statements(&[])?;
    Ok(Parsed { body, texts: parser.texts.len() })
}

struct Parser {
    tokens: Vec<(u32, Token)>,
    at: usize,
    texts: HashMap<Arc<str>, usize>,
    /// Of calls of the parser for expressions inside expressions.
    depth: u32,
    blocks: u32,
}

impl Parser {
    fn current(&self) -> &Token {
        // The last token is the end, and nothing goes beyond it.
        &self.tokens[self.at].1
    }

    fn look(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].1
    }

    fn line(&self) -> u32 {
        self.tokens[self.at].0
    }

    fn next(&mut self) -> Token {
        let token = self.current().clone();
        self.at = (self.at + 1).min(self.tokens.len() - 1);
        token
    }

    fn fail<T>(&self, what: impl std::fmt::Display) -> Result<T> {
        Err(format!("line {}: {what}", self.line()))
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.current(), Token::Name(current) if current == name)
    }

    fn is_operator(&self, sign: &str) -> bool {
        matches!(self.current(), Token::Operator(current) if *current == sign)
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let is = self.is_name(name);
        if is {
            self.next();
        }
        is
    }

    fn skip_operator(&mut self, sign: &str) -> bool {
        let is = self.is_operator(sign);
        if is {
            self.next();
        }
        is
    }

    fn expect_operator(&mut self, sign: &str) -> Result<()> {
        if self.skip_operator(sign) {
            Ok(())
        } else {
            self.fail(format!("expected '{sign}', got {}", self.current().describe()))
        }
    }

    fn expect_name(&mut self, name: &str) -> Result<()> {
        if self.skip_name(name) {
            Ok(())
        } else {
            self.fail(format!("expected '{name}', got {}", self.current().describe()))
        }
    }

    fn expect(&mut self, token: &Token) -> Result<()> {
        if self.current() == token {
            self.next();
            return Ok(());
        }
        self.fail(format!("expected {}, got {}", token.describe(), self.current().describe()))
    }

    fn any_name(&mut self) -> Result<Arc<str>> {
        match self.current() {
            Token::Name(name) => {
                let name = Arc::from(name.as_str());
                self.next();
                Ok(name)
            }
            other => self.fail(format!("expected a name, got {}", other.describe())),
        }
    }

    /// A text of the template with its number.
    fn text(&mut self, text: &str) -> (Arc<str>, usize) {
        if let Some((text, &number)) = self.texts.get_key_value(text) {
            return (text.clone(), number);
        }
        let (text, number): (Arc<str>, _) = (text.into(), self.texts.len());
        self.texts.insert(text.clone(), number);
        (text, number)
    }

    fn literal(&mut self, text: &str) -> Expr {
        let (text, number) = self.text(text);
        Expr::Literal(Literal::Text(text, number))
    }
}
