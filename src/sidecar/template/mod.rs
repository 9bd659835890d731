//! Chat templates as transformers renders them: Jinja2 in its immutable sandbox, with trimmed blocks, `tojson`,
//! `raise_exception` and `{% generation %}`. minijinja reads and runs them; what it does differently from Python stands in the
//! files beside this one: `text` (methods of texts), `print` (how values are printed), `json`, `date`, `source` (the
//! template's text before it is read).
//!
//! The invariant: what this does differently from Jinja2 is known: `tests/fixtures/templates/known.txt` lists every case that differs, and a
//! new one fails the tests. What can be told from the source alone is refused when the template is loaded.

mod date;
mod json;
mod print;
mod source;
mod text;

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;

use minijinja::value::ValueKind;
use minijinja::{Environment, ErrorKind, Value};

pub use self::date::Date;
use crate::limits::MAX_TEMPLATE_STEPS;
use crate::reward::{Code, Rejection};

/// A model's chat template.
pub struct Template {
    environment: Environment<'static>,
    variables: Value,
}

const TEMPLATE: &str = "chat_template";

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
        let source = source::prepare(source);
        source::check(&source, date).map_err(|e| format!("the model's chat template: {e}"))?;
        let environment = environment(source, date).map_err(|e| format!("the model's chat template: {e:#}"))?;
        Ok(Self { environment, variables: Value::from_serialize(variables) })
    }

    /// The text of a conversation whose variables (`messages`, `tools`, `documents`, `add_generation_prompt`, ...) are any
    /// values that serde can write, in their order.
    ///
    /// # Errors
    ///
    /// The template refuses the messages, or takes too many steps.
    pub fn render_values(&self, variables: impl serde::Serialize) -> Result<String, Rejection> {
        self.render_with(&Value::from_serialize(variables))
    }

    fn render_with(&self, variables: &Value) -> Result<String, Rejection> {
        let template = self.environment.get_template(TEMPLATE).map_err(|e| refused(&e))?;
        let context = minijinja::context! { ..print::as_python(variables), ..self.variables.clone() };
        // The engine panics on some expressions, as the slice of an empty text from behind. A rendering shares nothing that it
        // changes, so that nothing is left half-changed.
        match std::panic::catch_unwind(AssertUnwindSafe(|| template.render(context))) {
            Ok(rendered) => rendered.map_err(|e| refused(&e)),
            Err(_) => Err(Rejection::new(
                Code::BadMessages,
                "chat: the template engine broke on these messages; the server's log has the reason. Send text that carries the \
                 template already, or token ids",
            )),
        }
    }
}

/// The template with what transformers gives it, as Python does it.
fn environment(source: String, date: Option<Date>) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_formatter(|out, _, value| {
        match value.as_str() {
            Some(text) => out.write_str(text)?,
            None => out.write_str(&print::text(value)?)?,
        }
        Ok(())
    });
    environment.set_unknown_method_callback(|state, value, method, args| {
        match value.as_str().and_then(|text| text::method(text, method, args)) {
            Some(result) => result,
            None if method == "items" && args.is_empty() && value.kind() == ValueKind::Map => print::items(value),
            None => minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args),
        }
    });
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    if let Some(date) = date {
        environment.add_function("strftime_now", move |format: &str| {
            date.format(format).map_err(|e| minijinja::Error::new(ErrorKind::InvalidOperation, e))
        });
    }
    environment.add_filter("tojson", json::to_json);
    environment.add_filter("items", |value: &Value| match value.kind() {
        ValueKind::Undefined => Ok(print::list(Vec::new())),
        ValueKind::Map => print::items(value),
        _ => Err(minijinja::Error::new(ErrorKind::InvalidOperation, "items: not a mapping")),
    });
    environment.add_filter("string", |value: &Value| print::text(value));
    environment.add_filter("trim", |value: &Value, characters: Option<&str>| {
        Ok::<_, minijinja::Error>(text::trimmed(&print::text(value)?, characters, true, true).to_owned())
    });
    environment.add_filter("join", |value: &Value, between: Option<&Value>| {
        let between = between.map_or_else(|| Ok(String::new()), print::text)?;
        if value.is_undefined() {
            return Ok(String::new());
        }
        let items: Result<Vec<_>, _> = value.try_iter()?.map(|item| print::text(&item)).collect();
        Ok::<_, minijinja::Error>(items?.join(&between))
    });
    environment.add_test("iterable", |value: &Value| {
        !value.is_none() && (value.kind() == ValueKind::String || value.try_iter().is_ok())
    });
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.set_fuel(Some(MAX_TEMPLATE_STEPS));
    environment.add_template_owned(TEMPLATE, source)?;
    Ok(environment)
}

fn refused(error: &minijinja::Error) -> Rejection {
    let detail = match error.kind() {
        ErrorKind::OutOfFuel => format!("it takes more than {MAX_TEMPLATE_STEPS} steps; does it loop for ever?"),
        kind => error.detail().map_or_else(|| kind.to_string(), str::to_owned),
    };
    Rejection::new(Code::BadMessages, format!("chat: the model's chat template refused the messages: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Message;

    /// A message as transformers gives it.
    #[derive(serde::Serialize)]
    struct Shown<'a> {
        role: &'a str,
        content: &'a str,
    }

    impl Template {
        fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Rejection> {
            let messages: Vec<_> = messages.iter().map(|m| Shown { role: &m.role, content: &m.content }).collect();
            self.render_with(&minijinja::context! { messages, add_generation_prompt, tools => (), documents => () })
        }
    }

    fn template(source: &str) -> Template {
        Template::new(source, &BTreeMap::from([("bos_token".into(), "<s>".into())]), None).unwrap()
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, Rejection> {
        template(source).render(messages, false)
    }

    /// What transformers 5.23 makes of it.
    #[test]
    fn json_is_pythons_json() {
        let source =
            "{{ messages[0]|tojson }}{{ [1, none, 2.5]|tojson(indent=2) }}{% if tools is defined %}!{% endif %}";
        let message = Message::new("user", "<b> 'é'\n");
        let rendered = render(source, &[message]).unwrap();
        assert_eq!(rendered, "{\"role\": \"user\", \"content\": \"<b> 'é'\\n\"}[\n  1,\n  null,\n  2.5\n]!");
    }

    #[test]
    fn what_a_template_refuses_is_a_rejection() {
        let strict =
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}";
        let rejection = render(strict, &[Message::new("system", "be brief")]).unwrap_err();
        assert_eq!(rejection.code, Code::BadMessages);
        assert!(rejection.message.contains("System role not supported"), "{rejection}");
    }

    #[test]
    fn a_template_that_loops_for_ever_ends() {
        let endless = "{% for a in range(100000) %}{% for b in range(100000) %}{% if a < 0 %}!{% endif %}{% endfor %}{% endfor %}";
        let rejection = render(endless, &[Message::new("user", "hi")]).unwrap_err();
        assert_eq!(rejection.code, Code::BadMessages);
        assert!(rejection.message.contains("for ever"), "{rejection}");
    }

    #[test]
    fn as_many_messages_as_there_may_be_are_rendered() {
        let source =
            "{{ bos_token }}{% for m in messages %}{{ '<' + m['role'] + '>' + m['content'].strip() }}{% endfor %}";
        let messages = vec![Message::new("user", " x "); crate::limits::MAX_MESSAGES];
        assert_eq!(render(source, &messages).unwrap(), format!("<s>{}", "<user>x".repeat(messages.len())));
    }

    #[test]
    fn generation_marks_are_no_obstacle() {
        let marked =
            "a\n{%- for m in messages %}\n{% generation %}\n{{ m.content }}\n{%- endgeneration -%}\n {% endfor %}b";
        let plain = "a\n{%- for m in messages %}\n{% with %}\n{{ m.content }}\n{%- endwith -%}\n {% endfor %}b";
        assert_eq!(source::without_generation_marks(marked), plain);
        let messages = [Message::new("user", "x"), Message::new("assistant", "y")];
        assert_eq!(render(marked, &messages), render(plain, &messages));
        for untouched in ["", "{% open", "{{ generation }}", "{% set generation = 1 %}", "%} {%"] {
            assert_eq!(source::without_generation_marks(untouched), untouched);
        }
    }

    /// Templates of presets, which are TOML: that is read where there are models.
    #[cfg(feature = "model")]
    mod presets {
        use super::*;

        /// The template of a preset in the program.
        fn preset(text: &str) -> Template {
            let preset: toml::Table = text.parse().unwrap();
            Template::new(
                preset["chat_template"].as_str().unwrap(),
                &BTreeMap::from([("bos_token".into(), "<|begin_of_text|>".into())]),
                None,
            )
            .unwrap()
        }

        const SYSTEM: &str = "<extra_id_0>System\n\
            A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, \
            and polite answers to the user's questions.\n";

        /// The reference model's text, character for character as its card and `steerlm/common.py` have it.
        #[test]
        fn the_reference_template_is_the_published_one() {
            let template = preset(include_str!("../../../presets/nemotron-4-340b-reward.toml"));
            let (user, assistant) = (|text| Message::new("user", text), |text| Message::new("assistant", text));
            let one = [user("What is 1+1?"), assistant("Ooogo boogu shmugu loogu")];
            let expected = format!(
                "{SYSTEM}<extra_id_1>User\nWhat is 1+1?\n<extra_id_1>Assistant\nOoogo boogu shmugu loogu\n<extra_id_2>"
            );
            assert_eq!(template.render(&one, false).unwrap(), expected);
            // A later turn is scored by all that comes before it, and nothing is trimmed.
            let two = [&one[..], &[user(" And\n2+2? "), assistant("")]].concat();
            let behind = "<extra_id_1>User\n And\n2+2? \n<extra_id_1>Assistant\n\n<extra_id_2>";
            let prompt = expected.strip_suffix("<extra_id_2>").unwrap();
            assert_eq!(template.render(&two, false).unwrap(), format!("{prompt}{behind}"));
            // What the policy saw is the beginning of what is scored.
            let seen = template.render(&one[..1], true).unwrap();
            assert!(expected.starts_with(&seen) && seen.ends_with("<extra_id_1>Assistant\n"), "{seen}");
            // The one system prompt may be said, and no other.
            let said = SYSTEM.trim_start_matches("<extra_id_0>System\n").trim_end();
            let with = |system: &str| template.render(&[&[Message::new("system", system)], &one[..]].concat(), false);
            assert_eq!(with(said).unwrap(), expected);
            assert!(with("Be brief.").unwrap_err().message.contains("one system prompt"));
            assert!(template.render(&[Message::new("tool", "4")], false).is_err());
        }

        /// The example on the model card, with the date that Llama 3.3's template has where there is no clock.
        #[test]
        fn a_principle_is_asked_for_behind_the_response() {
            let template = preset(include_str!("../../../presets/llama-3.3-nemotron-70b-reward-principle.toml"));
            let principle = Message::new("principle", "correctness");
            let turns = [Message::new("user", "What is 1+1?"), Message::new("assistant", " 1+1=2\n")];
            let expected = "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December \
                2023\nToday Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is 1+1?<|eot_id|>\
                <|start_header_id|>assistant<|end_header_id|>\n\n1+1=2<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n\
                Evaluate the response to the previous prompt in terms of whether it satisfies this principle: correctness. \
                Only answer Yes or No.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
            let rendered = template.render(&[std::slice::from_ref(&principle), &turns[..]].concat(), false).unwrap();
            assert_eq!(rendered, expected);
            let system = [Message::new("system", "Be brief. "), principle.clone(), turns[0].clone()];
            let seen = template.render(&system, true).unwrap();
            assert!(seen.contains("26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user"), "{seen}");
            assert!(seen.ends_with("1+1?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"), "{seen}");
            for messages in [turns.to_vec(), [vec![principle.clone(), principle], turns.to_vec()].concat()] {
                assert!(template.render(&messages, false).unwrap_err().message.contains("exactly one message"));
            }
        }
    }
}
