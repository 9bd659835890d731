//! The smallest client: one rollout, one reward.
//!
//! ```text
//! reward-sidecar serve --model demo --grpc 127.0.0.1:50051 &
//! cargo run --release --example score_once [grpc://HOST:PORT | unix:///PATH]
//! ```

use reward_sidecar::client::Client;
use reward_sidecar::rollout::{Input, Message, Rollout};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "grpc://127.0.0.1:50051".into());
    let client = Client::connect(address).await?;

    let rollout = Rollout {
        id: "once".into(),
        input: Some(Input::chat(
            [Message::new("user", "Why do cats purr?")],
            "Mostly when they are content, for instance while being stroked; but a cat may also purr to calm itself when it \
             is ill or afraid.",
        )),
        ..Rollout::default()
    };
    // The first `?` is for the connection, the second for this rollout: it may be rejected.
    let rewards = client.score(rollout).await??;

    let card = client.card().await?;
    for (name, value) in card.model.attributes.iter().zip(&rewards.attributes) {
        println!("{name:>16} {value:+.4}");
    }
    println!("{:>16} {:+.4}", "reward", rewards.reward);
    println!("{} tokens, model version {}", rewards.tokens, rewards.model_version);
    client.close().await;
    Ok(())
}
