//! Many rollouts through one stream, printed as they finish: the order is the server's, the ids are ours.
//!
//! The rollouts come from an iterator that is asked for the next one only when there is room in flight, so an endless
//! generator would do as well: a sampler that runs ahead of the reward model is held back here.
//!
//! ```text
//! cargo run --release --example stream [grpc://HOST:PORT | unix:///PATH]
//! ```

use std::time::Instant;

use reward_sidecar::client::Client;
use reward_sidecar::rollout::{Input, Message, Rollout};

const PROMPTS: [&str; 4] = [
    "Name a good breakfast for a long hike.",
    "What is the point of a leap year?",
    "How do I get candle wax out of a tablecloth?",
    "Explain to a child why the sea is salty.",
];

/// Of differing length and relevance, so that they finish at different times and with different rewards.
const COMPLETIONS: [&str; 4] = [
    "Porridge with nuts and dried fruit: it keeps you going for hours without lying heavy on the stomach.",
    "The earth needs about a quarter of a day more than 365 days for one round, so every fourth year gets a day extra; \
     otherwise the seasons would slowly wander through the calendar.",
    "Let the wax harden, scrape off what comes off, then iron the rest through blotting paper: the warm wax moves \
     from the cloth into the paper. Change the paper until no new stain shows, and wash the cloth as usual.",
    "Rain washes tiny bits of salt out of the rocks, and rivers carry them to the sea. The sun takes the water away \
     again but leaves the salt behind, and so, over a very long time, the sea has become salty.",
];

fn rollouts() -> impl Iterator<Item = Rollout> {
    PROMPTS.iter().enumerate().flat_map(|(p, prompt)| {
        COMPLETIONS.iter().enumerate().map(move |(c, completion)| Rollout {
            id: format!("prompt {p}, completion {c}"),
            // Rollouts with the same prompt: the server may compute the prompt once.
            group: format!("{p}"),
            input: Some(Input::chat([Message::new("user", *prompt)], *completion)),
            ..Rollout::default()
        })
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "grpc://127.0.0.1:50051".into());
    let client = Client::connect(address).await?;

    let start = Instant::now();
    let mut answers = client.stream(rollouts());
    let (mut count, mut tokens) = (0, 0);
    while let Some((id, answer)) = answers.next().await {
        count += 1;
        let at_ms = start.elapsed().as_secs_f64() * 1e3;
        match answer? {
            Ok(rewards) => {
                tokens += rewards.tokens;
                println!("{at_ms:8.1} ms  {id:24} {:+.4}  ({} tokens)", rewards.reward, rewards.tokens);
            }
            Err(rejection) => println!("{at_ms:8.1} ms  {id:24} rejected: {rejection}"),
        }
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{count} rollouts, {tokens} tokens: {:.1} rollouts/s", f64::from(count) / seconds);
    client.close().await;
    Ok(())
}
