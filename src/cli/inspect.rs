//! `inspect`: what a model is, before anything is asked of it.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use serde::Serialize;

use super::card_check::{self, Checked};
use super::exit::Exit;
use super::failure::Failure;
use super::output;
use crate::config::{self, Flags, INSPECT};
use crate::engine::{Bos, Engine as _, ReadAt, ReadPolicy};
use crate::model::{ModelEngine, Report};
use crate::rollout::AnswerOnly;
use crate::sidecar::StartError;
use crate::sidecar::sample::{self, ANSWER, Chat, Ends, QUESTION, Sample, Token};
use crate::telemetry::Telemetry;

/// Show a model: architecture, sizes, head, attributes, weightings, template, version, files. Of several, one after the other; as
/// JSON a list.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  reward-sidecar inspect --model demo --json | jq .attributes")]
pub struct Inspect {
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    /// Score the rollouts of which the model's card prints the scores, and say how far off they are; exit 1 if too far
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    flags: Flags<INSPECT>,
}

/// Files named in the text; a checkpoint may have thousands.
const FILES_SHOWN: usize = 12;

/// The report, the template itself, and a conversation as the model reads it.
#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    report: &'a Report,
    template: Option<&'a str>,
    /// Further templates by their names.
    named_templates: &'a BTreeMap<String, String>,
    sample: Option<Sample>,
    /// With `--check`.
    checked: Option<Vec<Checked>>,
}

impl Inspect {
    pub fn run(self) -> Result<Exit, Failure> {
        let loaded = config::load_here(&self.flags)?;
        let model = loaded.settings.model()?;
        Telemetry::logs(&loaded)?;
        let engines = ModelEngine::load_all(&model)?;
        let (mut texts, mut passed) = (Vec::new(), true);
        for engine in engines {
            let (text, this_passed) = self.text(engine, &loaded.settings)?;
            texts.push(text);
            passed &= this_passed;
        }
        let several_as_json = self.json && texts.len() > 1;
        output::print(&if several_as_json { format!("[\n{}]\n", texts.join(",")) } else { texts.join("\n") })?;
        Ok(if passed { Exit::DONE } else { Exit::CHECK_FAILED })
    }

    /// What is said of a model, and whether it passed its card checks.
    fn text(&self, engine: ModelEngine, settings: &config::Settings) -> Result<(String, bool), Failure> {
        let (card, report) = (engine.card().clone(), engine.report());
        let sample = sample::of(&card).map_err(StartError::Text)?;
        let (template, named_templates) = (card.text.chat_template.as_deref(), &card.text.named_templates);
        let checked =
            if self.check { Some(card_check::score(Box::new(engine), &report.card_checks, settings)?) } else { None };
        let passed = checked.as_deref().is_none_or(card_check::passed);
        let inspected = Inspected { report: &report, template, named_templates, sample, checked };
        if !self.json {
            return Ok((to_text(&inspected), passed));
        }
        let json = serde_json::to_string_pretty(&inspected);
        Ok((json.map_err(|e| Failure::internal(format!("the report is no JSON: {e}")))? + "\n", passed))
    }
}

fn to_text(Inspected { report, template, named_templates, sample, checked }: &Inspected) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn Display| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<14} {value}");
    };
    let shape = &report.shape;
    line("name", &report.name);
    line("model version", &report.model_version);
    line("architecture", &report.architecture);
    match &report.preset {
        None => line("preset", &"none"),
        Some(preset) => {
            line("preset", &format!("{} ({})", preset.name, preset.why));
            preset.unverified.iter().for_each(|sentence| line("unverified", sentence));
        }
    }
    match checked.as_deref() {
        Some([]) => line("card check", &"no score on this model's card is known"),
        Some(checked) => checked.iter().for_each(|checked| line("card check", &checked.line())),
        None if report.card_checks.is_empty() => {}
        None => line("card check", &format!("{}, scored with --check", report.card_checks.len())),
    }
    line(
        "sizes",
        &format!(
            "{} layers, hidden {}, feed-forward {}, {} heads ({} for keys and values) of {}",
            shape.layers, shape.hidden, shape.feed_forward, shape.heads, shape.kv_heads, shape.head_dim
        ),
    );
    let options = report.head.options.iter().map(|(name, value)| format!(", {name} = {value}"));
    line("head", &format!("{}, {} weights{}", report.head.kind, report.head_parameters, options.collect::<String>()));
    line("read", &reads(&report.reads));
    line("bos", &begins(report.bos, sample.as_ref()));
    if let Some(AnswerOnly { open, close, .. }) = &report.answer_only {
        let marks = if open.is_empty() { "the template's own marks".to_owned() } else { format!("{open} and {close}") };
        line(
            "answer only",
            &format!("what stands between {marks} is not scored, unless a rollout says answer_only = false"),
        );
    }
    line("attributes", &report.attributes.join(", "));
    for (name, weights) in &report.weightings {
        let default = if report.default_weighting.as_ref() == Some(name) { " (default)" } else { "" };
        let weights: Vec<String> = weights.iter().map(|(attribute, weight)| format!("{attribute}={weight}")).collect();
        line("weighting", &format!("{name}{default}: {}", weights.join(", ")));
    }
    if report.weightings.is_empty() {
        line("weighting", &"none: every rollout brings its own weights");
    }
    line("context", &format!("{} tokens", shape.context));
    line("vocabulary", &format!("{} ids", shape.vocabulary));
    line("parameters", &format!("{} and {} in the head", report.parameters.total(), report.head_parameters));
    line("precision", &report.precision);
    if let Some(choice) = &report.precision_choice {
        let tried = choice.tried.iter().map(|(name, deviation)| format!("{name} {deviation:.4}")).collect::<Vec<_>>();
        line(
            "fast",
            &format!("{} at most on {} made-up rollouts: {}", choice.bound, choice.rollouts, tried.join(", ")),
        );
    }
    if let Some(format) = &report.quantisation {
        line("quantised", &format!("{format} in the files, read as plain weights; activations are not rounded"));
    }
    line("arithmetic", &format!("revision {}", report.arithmetic_revision));
    for (rank, bytes) in report.bytes_per_rank.iter().enumerate() {
        line("memory", &format!("rank {rank}: {:.1} MiB of weights", *bytes as f64 / f64::from(1 << 20)));
    }
    let per_token = report.prefix_cache_bytes_per_token;
    let context_mib = (per_token * shape.context) as f64 / f64::from(1 << 20);
    line("prefix cache", &format!("{per_token} bytes a token, {context_mib:.1} MiB for one whole context"));
    let degrees: Vec<String> = report.degrees.iter().map(usize::to_string).collect();
    line("degrees", &format!("tp may be {}", degrees.join(", ")));
    line("threads", &report.threads);
    if !report.unread_settings.is_empty() {
        line("not looked at", &report.unread_settings.join(", "));
    }
    if !report.ignored_settings.is_empty() {
        line("left out", &report.ignored_settings.join(", "));
    }
    for file in report.files.iter().take(FILES_SHOWN) {
        line("file", &file.display());
    }
    if let Some(more) = report.files.len().checked_sub(FILES_SHOWN).filter(|more| *more > 0) {
        line("", &format!("and {more} more; --json names all of them"));
    }
    line("tokenizer", if report.tokenizer { &"yes" } else { &"none: token ids only" });
    if let Some(chat) = sample.as_ref().and_then(|sample| sample.chat.as_ref()) {
        sample_lines(chat, &mut line);
    }
    if !named_templates.is_empty() {
        line("templates", &named_templates.keys().map(String::as_str).collect::<Vec<_>>().join(", "));
    }
    match template {
        None => line("chat template", &"none: no conversations"),
        Some(template) => {
            line("chat template", &"");
            for template_line in template.lines() {
                let _ = writeln!(text, "  | {template_line}");
            }
        }
    }
    text
}

/// How conversations and texts begin, in words.
fn begins(rule: Bos, sample: Option<&Sample>) -> String {
    let put = |token: Option<&Option<Token>>, none: &str| match token.and_then(Option::as_ref) {
        Some(token) => format!("{token} where there is none"),
        None => none.to_owned(),
    };
    match rule {
        Bos::Never => "never: none is added to chats or text".to_owned(),
        Bos::AsTokenizer => {
            let text = put(sample.map(|sample| &sample.text_begins_with), "none is added, as the tokenizer puts none");
            format!("as-tokenizer: chats as the template writes them, none is added; text: {text}")
        }
        Bos::One => {
            format!(
                "one: chats and text: {}",
                put(sample.map(|sample| &sample.chat_begins_with), "no tokenizer, no text")
            )
        }
    }
}

/// The sample conversation's tokens.
fn sample_lines(chat: &Chat, line: &mut impl FnMut(&str, &dyn Display)) {
    match chat {
        Chat::Refused(reason) => line("sample", &format!("not shown: {reason}")),
        Chat::Taken { templated, read, others_begin_with } => {
            line("sample", &format!("user {QUESTION:?}, assistant {ANSWER:?}"));
            if read == templated {
                line("  read", read);
            } else {
                line("  templated", templated);
                line("  read", read);
            }
            if let Some(token) = others_begin_with {
                let pipelines = format!(
                    "two public pipelines differ here: the template does not write {token}, but the tokenizer puts it before a \
                     text. apply_chat_template(tokenize=True) has none, and is followed here; rendering first and tokenizing \
                     with special tokens has one, which bos = \"one\" in a preset follows"
                );
                line("  note", &pipelines);
            }
        }
    }
}

impl Display for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let list = |tokens: &[Token]| tokens.iter().map(Token::to_string).collect::<Vec<_>>().join(" ");
        let between = if self.tokens > self.first.len() + self.last.len() { " ... " } else { " " };
        write!(f, "{} tokens: {}{between}{}", self.tokens, list(&self.first), list(&self.last))
    }
}

impl Display for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} ({})", self.text, self.id)
    }
}

/// Where the head reads, in words.
fn reads(policy: &ReadPolicy) -> String {
    let mut words = match policy.at {
        ReadAt::LastToken if !policy.anchors.is_empty() => {
            format!("at the tokens {:?}, each of which every rollout must hold once, in this order", policy.anchors)
        }
        ReadAt::LastToken => "at the last token".to_owned(),
        ReadAt::EveryToken { token, reduce } if policy.behind.is_empty() => {
            format!("at every token {token}, rollout by {}", name_of(&reduce))
        }
        ReadAt::EveryToken { token, reduce } => {
            format!("at every token {token} behind {:?}, rollout by {}", policy.behind, name_of(&reduce))
        }
    };
    let forms = if policy.text_only {
        "but for token ids, which are read at their last one"
    } else {
        "be it behind text or token ids"
    };
    if let Some(token) = policy.append {
        let _ = write!(words, ", which is {token}: appended where it is missing, {forms}");
    }
    if let Some(token) = policy.ends_with {
        let _ = write!(words, ", which must be {token}, {forms}: a rollout that does not end with it is rejected");
    }
    if let Some(skip) = policy.skip {
        let _ = write!(words, "; tokens {skip} at the end are passed over");
    }
    if let Some(end) = policy.ends_before {
        let _ = write!(words, "; what comes from the first token {end} on is left out");
    }
    if !policy.strip.is_empty() {
        let _ = write!(words, "; a text's last {:?} are stripped first", policy.strip);
    }
    if !policy.needs.is_empty() {
        let _ = write!(words, "; every rollout must hold the tokens {:?}", policy.needs);
    }
    words
}

/// The name that a value has in files.
fn name_of(value: &impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(name)) => name,
        other => format!("{other:?}"),
    }
}
