//! Scores a rollout file through a running sidecar and shows, group by group, which completion is worth most.
//!
//! ```text
//! cargo run --release --example demo [grpc://HOST:PORT | unix:///PATH [FILE]]
//! ```
//!
//! FILE is JSON Lines with `id`, `group`, `prompt` (text or messages) and `completion`; the default is
//! `examples/rollouts.jsonl`. The exit code is 1 if a rollout was rejected.

use std::collections::{BTreeMap, HashMap};
use std::io::{IsTerminal as _, stdout};
use std::process::ExitCode;
use std::time::Instant;

use reward_sidecar::client::Client;
use reward_sidecar::reward::Outcome;
use reward_sidecar::rollout::{FinishReason, Input, Message, Rollout};

/// Characters of a prompt and of a completion that are shown; the table then has 100 columns.
const PROMPT: usize = 80;
const COMPLETION: usize = 52;

/// One line of the file.
#[derive(serde::Deserialize)]
struct Line {
    id: String,
    #[serde(default)]
    group: String,
    prompt: Prompt,
    completion: String,
    #[serde(default)]
    finish_reason: FinishReason,
}

#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Prompt {
    Text(String),
    Messages(Vec<Message>),
}

impl Line {
    fn messages(&self) -> Vec<Message> {
        match &self.prompt {
            Prompt::Text(text) => vec![Message::new("user", text)],
            Prompt::Messages(messages) => messages.clone(),
        }
    }

    fn rollout(&self) -> Rollout {
        Rollout {
            id: self.id.clone(),
            group: self.group.clone(),
            input: Some(Input::chat(self.messages(), self.completion.clone())),
            finish_reason: self.finish_reason,
            ..Rollout::default()
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "grpc://127.0.0.1:50051".into());
    let file = arguments.next().unwrap_or_else(|| "examples/rollouts.jsonl".into());
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
    let lines = (1..)
        .zip(text.lines())
        .map(|(number, line)| serde_json::from_str(line).map_err(|error| format!("{file}, line {number}: {error}")))
        .collect::<Result<Vec<Line>, _>>()?;

    let client = Client::connect(address.as_str()).await?;
    let card = client.card().await?;
    println!("{} ({}), version {}, at {address}", card.model.name, card.model.architecture, card.model.model_version);

    let start = Instant::now();
    let mut outcomes: HashMap<String, Outcome> = HashMap::new();
    let mut answers = client.stream(lines.iter().map(Line::rollout));
    while let Some((id, answer)) = answers.next().await {
        outcomes.insert(id, answer?);
    }
    let seconds = start.elapsed().as_secs_f64();
    client.close().await;
    if outcomes.len() < lines.len() {
        return Err(format!("{file}: {} ids for {} rollouts; give each its own", outcomes.len(), lines.len()).into());
    }

    let mut groups: BTreeMap<&str, Vec<(&Line, &Outcome)>> = BTreeMap::new();
    for line in &lines {
        groups.entry(&line.group).or_default().push((line, &outcomes[&line.id]));
    }
    for members in groups.into_values() {
        show(members, &card.model.attributes);
    }

    let rewarded = outcomes.values().flatten();
    let tokens: u32 = rewarded.clone().map(|rewards| rewards.tokens).sum();
    let rejected = outcomes.len() - rewarded.count();
    println!(
        "\n{} rollouts, {tokens} tokens, {:.0} ms: {:.1} rollouts/s; {rejected} rejected",
        outcomes.len(),
        seconds * 1e3,
        outcomes.len() as f64 / seconds
    );
    Ok(if rejected == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One group's table, best first.
fn show(mut members: Vec<(&Line, &Outcome)>, attributes: &[String]) {
    let (strong, faint, plain) = if stdout().is_terminal() { ("\x1b[1m", "\x1b[2m", "\x1b[0m") } else { ("", "", "") };
    members.sort_by(|(_, a), (_, b)| reward(b).total_cmp(&reward(a)));
    let prompt = members[0].0.messages().pop().map(|last| last.content).unwrap_or_default();
    println!("\n{strong}{}{plain}", shortened(&prompt, PROMPT));
    let headers: String = attributes.iter().map(|name| format!("{:>7}", abbreviated(name))).collect();
    println!("{faint}  # {:>7}{headers}  completion{plain}", "reward");
    for (rank, (line, outcome)) in (1..).zip(members) {
        let completion = match (line.completion.as_str(), line.finish_reason) {
            ("", _) => "(empty)".into(),
            (completion, FinishReason::Length) => format!("{} [cut off]", shortened(completion, COMPLETION - 10)),
            (completion, _) => shortened(completion, COMPLETION),
        };
        match outcome {
            Ok(rewards) => {
                let values: String = rewards.attributes.iter().map(|value| format!("{value:7.2}")).collect();
                let emphasis = if rank == 1 { strong } else { "" };
                println!("{emphasis}{rank:3} {:+7.2}{values}  {completion}{plain}", rewards.reward);
            }
            Err(rejection) => println!("  - {completion}: {rejection}"),
        }
    }
}

/// What a rollout is ranked by; a rejected one comes last.
fn reward(outcome: &Outcome) -> f32 {
    outcome.as_ref().map_or(f32::NEG_INFINITY, |rewards| rewards.reward)
}

fn abbreviated(name: &str) -> String {
    if name.chars().count() <= 6 { name.into() } else { format!("{}.", name.chars().take(4).collect::<String>()) }
}

/// On one line, and no longer than `limit` characters.
fn shortened(text: &str, limit: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= limit {
        return line;
    }
    format!("{}…", line.chars().take(limit - 1).collect::<String>())
}
