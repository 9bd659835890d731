//! Best of n: of several completions to one prompt, keep the one with the highest reward.
//!
//! All groups are in flight at once, and each is settled the moment its last reward arrives; a trainer would begin to
//! fine-tune on the winners while other groups are still being scored. A completion that is rejected takes no part.
//!
//! ```text
//! cargo run --release --example rejection_sampling [grpc://HOST:PORT | unix:///PATH]
//! ```

use reward_sidecar::client::Client;
use reward_sidecar::rollout::{Input, Message, Rollout};

/// A prompt and what the policy sampled for it.
struct Group {
    prompt: &'static str,
    completions: [&'static str; 4],
}

const GROUPS: [Group; 3] = [
    Group {
        prompt: "My houseplant has yellow leaves. What should I do?",
        completions: [
            "Water less.",
            "Check the soil first: yellow leaves most often mean too much water. If it is wet, let it dry before you \
             water again and see that the pot drains; if it is dry, water more often. Then move the plant nearer to \
             a window.",
            "The stock market closed higher on Friday, led by banks and energy.",
            "Leaves yellow the yellow do should houseplant leaves the the my yellow what.",
        ],
    },
    Group {
        prompt: "Suggest a title for a story about a lighthouse keeper who collects letters.",
        completions: [
            "A lighthouse is a tower with a strong lamp that warns ships of rocks.",
            "\"The Keeper of Unsent Letters\": it names both of the things he keeps, the light and the words of others, \
             and leaves open why the letters never reached anybody.",
            "title title title title title title",
            "Sure!",
        ],
    },
    Group {
        prompt: "How can I remember people's names better?",
        completions: [
            "I do not know.",
            "Preheat the oven to 180 degrees and butter the tin.",
            "Say the name aloud when you first hear it, and tie it to something you can see: Rose with the red scarf. \
             Use it once more when you say goodbye, and write down new names in the evening.",
            "Names are better remember can I people by by remembering, the of it how.",
        ],
    },
];

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "grpc://127.0.0.1:50051".into());
    let client = Client::connect(address).await?;

    // The id says where an answer belongs: "group/completion".
    let rollouts = GROUPS.iter().enumerate().flat_map(|(g, group)| {
        group.completions.iter().enumerate().map(move |(c, completion)| Rollout {
            id: format!("{g}/{c}"),
            group: format!("{g}"),
            input: Some(Input::chat([Message::new("user", group.prompt)], *completion)),
            ..Rollout::default()
        })
    });

    let mut missing = GROUPS.map(|group| group.completions.len());
    let mut best: [Option<(f32, usize)>; GROUPS.len()] = [None; GROUPS.len()];
    let mut answers = client.stream(rollouts);
    while let Some((id, answer)) = answers.next().await {
        let (g, c) = id.split_once('/').ok_or("an id that was never sent")?;
        let (g, c): (usize, usize) = (g.parse()?, c.parse()?);
        match answer? {
            Ok(rewards) if best[g].is_none_or(|(most, _)| rewards.reward > most) => best[g] = Some((rewards.reward, c)),
            Ok(_) => {}
            Err(rejection) => eprintln!("{id}: {rejection}"),
        }
        missing[g] -= 1;
        if missing[g] == 0 {
            let Group { prompt, completions } = &GROUPS[g];
            println!("{prompt}");
            match best[g] {
                Some((reward, c)) => {
                    println!("  best of {}, reward {reward:+.3}:\n  {}\n", completions.len(), completions[c])
                }
                None => println!("  no completion could be scored\n"),
            }
        }
    }
    client.close().await;
    Ok(())
}
