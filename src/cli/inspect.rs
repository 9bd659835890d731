//! `inspect`: what a model is, before anything is asked of it.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use reward_sidecar::config::{self, Flags, INSPECT};
use reward_sidecar::engine::ModelCard;
use reward_sidecar::model;
use serde_json::json;

use super::failure::Failure;
use crate::telemetry::Telemetry;

/// Show a model: architecture, attributes, weightings, template, version.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "Example:\n  reward-sidecar inspect --model demo --json | jq .attributes")]
pub struct Inspect {
    #[command(flatten)]
    flags: Flags<INSPECT>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub fn run(self) -> Result<ExitCode, Failure> {
        let settings = config::load_here(&self.flags)?.settings;
        let model = settings.model()?;
        Telemetry::start(&settings.log, None)?;
        let engine = model::load(&model)?;
        let text = if self.json { to_json(engine.card()) } else { to_text(engine.card()) };
        std::io::stdout().write_all(text.as_bytes()).map_err(|error| Failure::output("standard output", &error))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn to_json(card: &ModelCard) -> String {
    let card = json!({
        "name": card.name,
        "model_version": &*card.model_version,
        "architecture": card.architecture,
        "attributes": card.attributes,
        "weightings": card.weightings,
        "default_weighting": card.default_weighting,
        "context_tokens": card.context_tokens,
        "vocabulary_size": card.vocabulary_size,
        "has_tokenizer": card.text.tokenizer_json.is_some(),
        "chat_template": card.text.chat_template,
    });
    format!("{card:#}\n")
}

fn to_text(card: &ModelCard) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name:<18} {value}");
    };
    line("name", &card.name);
    line("model version", &card.model_version);
    line("architecture", &card.architecture);
    line("attributes", &card.attributes.join(", "));
    for (name, weights) in &card.weightings {
        let default = if card.default_weighting.as_ref() == Some(name) { " (default)" } else { "" };
        let weights: Vec<String> = weights.iter().map(|(attribute, weight)| format!("{attribute}={weight}")).collect();
        line("weighting", &format!("{name}{default}: {}", weights.join(", ")));
    }
    line("context", &format!("{} tokens", card.context_tokens));
    line("vocabulary", &format!("{} ids", card.vocabulary_size));
    line("tokenizer", if card.text.tokenizer_json.is_some() { "yes" } else { "none: token ids only" });
    match &card.text.chat_template {
        None => line("chat template", "none: no chat input"),
        Some(template) => {
            line("chat template", "");
            for template_line in template.lines() {
                let _ = writeln!(text, "  | {template_line}");
            }
        }
    }
    text
}
