//! What a request's query asks for: weights and other options that the bodies of trainers have no place for.
//!
//! Invariant: a name that is none of ours is refused, so that a misspelt weight never goes unnoticed.

use std::sync::Arc;

use super::reply::Refusal;
use crate::json::rollout::parse_aggregation;
use crate::rollout::{AggregationSpec, AnswerOnly};

/// What the query says, for all rollouts of the request.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Options {
    /// `w.NAME=0.65`, `weighting=NAME`, `aggregation={...}`.
    pub aggregation: Arc<AggregationSpec>,
    /// The model that is to score, by its name; empty where the query names none.
    pub model: String,
    /// Milliseconds from receipt.
    pub deadline_ms: Option<u64>,
    /// Higher goes first.
    pub priority: i32,
    /// `answer_only=true`, `false`, or nothing: as the model's preset has it.
    pub answer_only: Option<AnswerOnly>,
    /// What a rejected rollout is answered with, where the dialect knows no error.
    pub on_rejection: Option<f64>,
    /// Whether attributes are wanted beside the number that a client reads.
    pub as_object: bool,
}

const NAMES: &str =
    "model, w.ATTRIBUTE, weighting, aggregation, deadline_ms, priority, answer_only, on_rejection, form";

impl Options {
    /// Reads a query, without its question mark.
    pub fn parse(query: &str) -> Result<Self, Refusal> {
        let (mut options, mut aggregation) = (Self::default(), AggregationSpec::default());
        let mut pairs: Vec<(String, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            pairs.push((decode(name)?, decode(value)?));
        }
        // The whole first; single weights then count beside it.
        pairs.sort_by_key(|(name, _)| name != "aggregation");
        for (name, value) in &pairs {
            match name.as_str() {
                "aggregation" => {
                    aggregation = parse_aggregation(value).map_err(|why| bad(name, &why))?;
                }
                "model" => options.model.clone_from(value),
                "weighting" => aggregation.weighting = Some(value.clone()),
                "deadline_ms" => options.deadline_ms = Some(number(name, value)?),
                "priority" => options.priority = number(name, value)?,
                "answer_only" => options.answer_only = Some(answer_only(value)?),
                "on_rejection" => options.on_rejection = on_rejection(value)?,
                "form" => options.as_object = form(value)?,
                _ => match name.strip_prefix("w.") {
                    Some(attribute) => {
                        let weight = number(name, value)?;
                        if aggregation.weights.insert(attribute.to_owned(), weight).is_some() {
                            return Err(bad(name, "given twice"));
                        }
                    }
                    None => return Err(bad(name, &format!("there is no such option; there are {NAMES}"))),
                },
            }
        }
        options.aggregation = aggregation.into();
        Ok(options)
    }
}

fn bad(name: &str, why: &str) -> Refusal {
    Refusal::bad_request("BAD_OPTION", format!("query: {name}: {why}"))
}

fn number<T: std::str::FromStr>(name: &str, value: &str) -> Result<T, Refusal> {
    value.parse().map_err(|_| bad(name, &format!("'{value}' is not a number that fits")))
}

fn on_rejection(value: &str) -> Result<Option<f64>, Refusal> {
    if value == "fail" {
        return Ok(None);
    }
    let number: f64 = number("on_rejection", value)?;
    let finite = || bad("on_rejection", "write fail, or a finite number");
    if number.is_finite() { Ok(Some(number)) } else { Err(finite()) }
}

fn answer_only(value: &str) -> Result<AnswerOnly, Refusal> {
    match value {
        "true" => Ok(AnswerOnly::default()),
        "false" => Ok(AnswerOnly::OFF),
        _ => Err(bad("answer_only", "write true or false")),
    }
}

fn form(value: &str) -> Result<bool, Refusal> {
    match value {
        "object" => Ok(true),
        "number" => Ok(false),
        _ => Err(bad("form", "write object or number")),
    }
}

/// Percent-encoding undone (RFC 3986, section 2.1), and `+` as forms have it.
fn decode(text: &str) -> Result<String, Refusal> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
                let code = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                rest = rest.get(2..).unwrap_or_default();
                code.ok_or_else(|| bad(text, "'%' without two hexadecimal digits behind it"))?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_| bad(text, "not valid UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_and_options() {
        let options =
            Options::parse("w.helpfulness=0.65&w.a%20b=-1&deadline_ms=5&priority=-2&form=object&model=a%2Fb").unwrap();
        assert_eq!(options.aggregation.weights, [("a b".into(), -1.0), ("helpfulness".into(), 0.65)].into());
        assert_eq!((options.deadline_ms, options.priority, options.as_object), (Some(5), -2, true));
        assert_eq!(options.model, "a/b");
        let options = Options::parse("w.a=1&aggregation=%7B%22offset%22%3A2.5%7D&weighting=x").unwrap();
        assert_eq!((options.aggregation.offset, options.aggregation.weights.len()), (Some(2.5), 1));
        assert_eq!(options.aggregation.weighting.as_deref(), Some("x"));
        assert_eq!(Options::parse("on_rejection=-3.5").unwrap().on_rejection, Some(-3.5));
        assert_eq!(Options::parse("on_rejection=fail").unwrap().on_rejection, None);
        assert_eq!(Options::parse("answer_only=true").unwrap().answer_only, Some(AnswerOnly::default()));
        assert_eq!(Options::parse("answer_only=false").unwrap().answer_only, Some(AnswerOnly::OFF));
        assert_eq!(Options::parse("").unwrap(), Options::default());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (query, names) in [
            ("wieght=1", "wieght: there is no such option"),
            ("w.a=x", "w.a: 'x' is not a number"),
            ("w.a=1&w.a=2", "w.a: given twice"),
            ("on_rejection=NaN", "a finite number"),
            ("deadline_ms=-1", "deadline_ms: '-1'"),
            ("form=list", "form: write object"),
            ("answer_only=yes", "answer_only: write true or false"),
            ("w.a=%4", "hexadecimal"),
            ("w.%ff=1", "UTF-8"),
            ("aggregation={}x", "aggregation: "),
        ] {
            let refusal = Options::parse(query).unwrap_err();
            assert_eq!((refusal.status.as_u16(), refusal.code), (400, "BAD_OPTION"));
            assert!(refusal.message.contains(names), "{query}: {}", refusal.message);
        }
    }
}
