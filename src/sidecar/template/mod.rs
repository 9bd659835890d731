//! Chat templates as transformers renders them: Jinja2 3.1.6 in its immutable sandbox, with trimmed blocks, loop controls, `tojson`,
//! `raise_exception`, `strftime_now` and `{% generation %}`. Read, checked and run here, on values that are Python's.
//!
//! The invariant: what a template writes is what Jinja2 writes, character for character, or it is refused: when it is loaded,
//! with line and construct, if that can be told from the source (`check`; the list stands below), or as a rejection of the
//! one rollout. Known marks tell which of it comes from the completion.
//!
//! Refused at the load: blocks, `extends`, `include`, `import`; `autoescape` but with `false`; `random`, `lipsum`, `pprint`,
//! `urlize`; `encode`, `hex`, `maketrans`, `to_bytes`; `\N{…}` and halves of surrogate pairs in a string; integers beyond
//! 127 bits; expressions deeper than 100 and statements deeper than 50.
//! Refused where they come up: integers beyond 127 bits, complex numbers, differences of a dictionary's views, what Python
//! prints with an address in memory, and what is beyond the limits on steps, bytes and depth.

mod access;
mod budget;
mod check;
mod date;
mod filters;
mod format;
mod globals;
mod html;
mod json;
mod lexer;
mod methods;
mod operators;
mod parser;
mod run;
mod scope;
mod sort;
mod symbols;
mod syntax;
mod tests_;
mod unicode;
mod value;
mod walk;

use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use self::budget::Kind;
pub use self::date::Date;
use self::run::Program;
pub use self::value::COMPLETION;
use self::value::{Cx, Value};
use crate::limits::MAX_TEMPLATE_SOURCE_BYTES;
use crate::reward::{Code, Rejection};

/// A model's chat template.
pub struct Template {
    program: Arc<Program>,
    variables: BTreeMap<String, String>,
}

/// A conversation as the template writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The text.
    pub text: String,
    /// What of it comes from the completion.
    pub completion: Completion,
}

/// The places in a written text that come from what stood inside a newtype struct called [`COMPLETION`]: as it stood there, or
/// made of it (in upper case, say, or as JSON).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Completion {
    /// Bytes of the text: sorted, not empty, and none touches another. Empty if the template wrote none of it.
    pub ranges: Vec<Range<usize>>,
}

impl Template {
    /// A template (Jinja), the variables that it may use beside the messages, and the day that `strftime_now` tells. Without a
    /// day `strftime_now` is undefined, and a template that calls it without asking is refused.
    ///
    /// # Errors
    ///
    /// What is wrong with the template, with the line.
    pub fn new(source: &str, variables: &BTreeMap<String, String>, date: Option<Date>) -> Result<Self, String> {
        if source.trim().is_empty() {
            return Err("the model's chat template is empty".into());
        }
        if source.len() > MAX_TEMPLATE_SOURCE_BYTES {
            let most = MAX_TEMPLATE_SOURCE_BYTES >> 10;
            return Err(format!("the model's chat template: its source is longer than {most} KiB"));
        }
        let program = read(source, date).map_err(|e| format!("the model's chat template: {e}"))?;
        Ok(Self { program: Arc::new(program), variables: variables.clone() })
    }

    /// Whether it reads a variable of this name that it is given.
    pub fn reads(&self, name: &str) -> bool {
        walk::reads(&self.program.body, name)
    }

    /// The text for some variables (`messages`, `tools`, `documents`, `add_generation_prompt`, ...): a map, or a struct, that
    /// serde can write. They go before those of the model.
    ///
    /// # Errors
    ///
    /// `BAD_MESSAGES`: the template refuses the messages, or takes too many steps or too much memory.
    pub fn render(&self, variables: &impl serde::Serialize) -> Result<Written, Rejection> {
        let cx = Rc::new(Cx::default());
        let refused = |reason: String| {
            let message = format!("chat: the model's chat template refused the messages: {reason}");
            Rejection::new(Code::BadMessages, message)
        };
        let mut values = value::variables(&cx, variables).map_err(|e| refused(e.to_string()))?;
        for (name, text) in &self.variables {
            if !values.contains_key(name.as_str()) {
                let text: Value = cx.text(text.as_str()).map_err(|e| refused(e.to_string()))?;
                values.insert(name.as_str().into(), text);
            }
        }
        match run::run(&self.program, &cx, values) {
            Ok(text) => {
                Ok(Written { text: text.to_string(), completion: Completion { ranges: text.marks().to_vec() } })
            }
            Err((_, error)) if error.kind() == Kind::Raised => Err(refused(error.to_string())),
            Err((line, error)) => Err(refused(format!("line {line}: {error}"))),
        }
    }
}

fn read(source: &str, date: Option<Date>) -> Result<Program, String> {
    let mut parsed = parser::parse(lexer::tokens(source)?)?;
    check::check(&parsed.body, date.is_some())?;
    let root = scope::resolve(&mut parsed.body)?;
    Ok(Program { body: parsed.body, root, texts: parsed.texts, date })
}

#[cfg(test)]
mod tests;
