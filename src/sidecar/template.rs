//! Chat templates, exactly as transformers renders them.

use std::collections::BTreeMap;
use std::io::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Environment, ErrorKind, Value};
use serde::Serialize as _;

use crate::limits::MAX_TEMPLATE_STEPS;
use crate::reward::{Code, Rejection};
use crate::rollout::Message;

/// A model's chat template.
pub(super) struct Template {
    environment: Environment<'static>,
    variables: Value,
}

const TEMPLATE: &str = "chat_template";

impl Template {
    /// A template (Jinja), and the variables that it may use beside the messages. The error says what is wrong with it.
    pub(super) fn new(source: &str, variables: &BTreeMap<String, String>) -> Result<Self, String> {
        if source.trim().is_empty() {
            return Err("the model's chat template is empty".into());
        }
        let environment = environment(source).map_err(|e| format!("the model's chat template: {e:#}"))?;
        Ok(Self { environment, variables: Value::from_serialize(variables) })
    }

    /// The conversation's text.
    pub(super) fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, Rejection> {
        let template = self.environment.get_template(TEMPLATE).map_err(|e| refused(&e))?;
        template
            // As transformers calls it where there are none of either.
            .render(minijinja::context! {
                messages, add_generation_prompt, tools => (), documents => (), ..self.variables.clone()
            })
            .map_err(|e| refused(&e))
    }
}

/// The template with what transformers gives it: trimmed blocks, Python's string methods and JSON, `raise_exception`. Not
/// `strftime_now`: a reward must not depend on the day, and templates that know it have a fixed date for those who
/// do not.
fn environment(source: &str) -> Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", to_json);
    environment.set_fuel(Some(MAX_TEMPLATE_STEPS));
    environment.add_template_owned(TEMPLATE, without_generation_marks(source))?;
    Ok(environment)
}

/// `{% generation %}` marks what the assistant wrote, for training; transformers renders what is inside as it stands.
fn without_generation_marks(source: &str) -> String {
    let mut plain = String::with_capacity(source.len());
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%")
        && let Some((inside, after)) = tag.split_once("%}")
    {
        // The signs trim white space around the tag, and stay.
        let word = inside.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        let inside = match word {
            "generation" => inside.replace(word, "if true"),
            "endgeneration" => inside.replace(word, "endif"),
            _ => inside.to_owned(),
        };
        plain.extend([before, "{%", &inside, "%}"]);
        rest = after;
    }
    plain + rest
}

/// `tojson` as transformers has it: Python's `json.dumps(value, ensure_ascii=False, indent=indent)`.
fn to_json(value: &Value, options: Kwargs) -> Result<String, minijinja::Error> {
    let indent: Option<usize> = options.get("indent")?;
    options.assert_all_used()?;
    let mut json = Vec::new();
    let written = match indent {
        Some(spaces) => {
            let spaces = " ".repeat(spaces.min(16));
            let formatter = serde_json::ser::PrettyFormatter::with_indent(spaces.as_bytes());
            value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, formatter))
        }
        None => value.serialize(&mut serde_json::Serializer::with_formatter(&mut json, PythonSpacing)),
    };
    let fail = |e: &dyn std::fmt::Display| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string());
    written.map_err(|e| fail(&e))?;
    String::from_utf8(json).map_err(|e| fail(&e))
}

/// A blank behind commas and colons.
struct PythonSpacing;

impl serde_json::ser::Formatter for PythonSpacing {
    fn begin_array_value<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, out: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, out: &mut W) -> io::Result<()> {
        out.write_all(b": ")
    }
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

    fn template(source: &str) -> Template {
        Template::new(source, &BTreeMap::from([("bos_token".into(), "<s>".into())])).unwrap()
    }

    fn render(source: &str, messages: &[Message]) -> Result<String, Rejection> {
        template(source).render(messages, false)
    }

    /// What transformers 5.23 makes of it.
    #[test]
    fn json_is_pythons_json() {
        let source =
            "{{ messages[0]|tojson }}{{ [1, none, 2.5]|tojson(indent=2) }}{% if tools is defined %}!{% endif %}";
        // That a turn is to be scored is nothing for the template.
        let message = Message { score: true, ..Message::new("user", "<b> 'é'\n") };
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
        let plain = "a\n{%- for m in messages %}\n{% if true %}\n{{ m.content }}\n{%- endif -%}\n {% endfor %}b";
        assert_eq!(without_generation_marks(marked), plain);
        let messages = [Message::new("user", "x"), Message::new("assistant", "y")];
        assert_eq!(render(marked, &messages), render(plain, &messages));
        for untouched in ["", "{% open", "{{ generation }}", "{% set generation = 1 %}", "%} {%"] {
            assert_eq!(without_generation_marks(untouched), untouched);
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
            )
            .unwrap()
        }

        const SYSTEM: &str = "<extra_id_0>System\n\
            A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, \
            and polite answers to the user's questions.\n";

        /// The reference model's text, character for character as its card and `steerlm/common.py` have it.
        #[test]
        fn the_reference_template_is_the_published_one() {
            let template = preset(include_str!("../../presets/nemotron-4-340b-reward.toml"));
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
            let template = preset(include_str!("../../presets/llama-3.3-nemotron-70b-reward-principle.toml"));
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
