//! A tiny, real policy-gradient loop whose reward comes from the sidecar.
//!
//! The policy is a softmax over six canned answers to each of four questions: 24 logits in place of a language model.
//! Every step samples a group of answers to each question, streams them to the sidecar, and follows the gradient of
//! REINFORCE with a leave-one-out baseline (RLOO: Kool et al. 2019, Ahmadian et al. 2024): the advantage of a sample is
//! its reward less the mean reward of its group's others. The mean reward must rise; the exit code is 1 if it does not.
//!
//! ```text
//! cargo run --release --example reinforce_loop [grpc://HOST:PORT | unix:///PATH]
//! ```

#![allow(clippy::disallowed_methods, reason = "this trains a policy; no reward is computed here")]

use std::process::ExitCode;

use reward_sidecar::client::Client;
use reward_sidecar::rollout::{Input, Message, Rollout};

const STEPS: usize = 20;
/// Samples per question and step.
const GROUP: usize = 8;
const LEARNING_RATE: f64 = 0.5;
const SEED: u64 = 7;

const ANSWERS: usize = 6;

/// A question with its answers: a good one, a short one, two that miss the question, two that are garbled.
const QUESTIONS: [(&str, [&str; ANSWERS]); 4] = [
    (
        "Why does bread dough have to rest?",
        [
            "While it rests, the yeast turns sugar into gas, which makes the dough light, and the gluten relaxes, so that \
             the dough can be shaped without tearing. A long, cool rest also gives it more flavour.",
            "So that it rises.",
            "Paris is the capital of France and lies on the Seine.",
            "Tighten the screws in turn, never one after the other all the way.",
            "Rest dough the the bread gas does rest why have bread to to dough dough.",
            "It it it it it rests rests because because because because because",
        ],
    ),
    (
        "How do I stop procrastinating?",
        [
            "Begin with a piece so small that it is hard to refuse: five minutes on the first step. Put the phone in \
             another room, decide the evening before what comes first, and let yourself off once it is done.",
            "Just start.",
            "Elephants are the largest animals that live on land.",
            "The recipe needs two eggs, a cup of flour and a pinch of salt.",
            "Start phone the stop five off the how procrastinating minutes do evening let.",
            "Do do not not do do not not do do not not do do",
        ],
    ),
    (
        "What makes a good password?",
        [
            "Length counts most: four or five random words are easy to remember and hard to guess. Use a different one \
             for every site, keep them in a password manager, and turn on a second factor where you can.",
            "Make it long.",
            "The river floods its banks every spring when the snow melts.",
            "She played the violin for eleven years before she turned to the cello.",
            "Password words site a length random good what the makes counts manager every.",
            "Good good password good good password good good password",
        ],
    ),
    (
        "Can you explain what inflation is?",
        [
            "Inflation means that prices rise in general, so that the same money buys less than before. It is measured \
             by the price of a basket of everyday goods; at two per cent a year, what costs 100 now will cost 102 next year.",
            "Prices go up.",
            "To reach the station, turn left at the church and walk for ten minutes.",
            "Tulips are planted in autumn and flower in the spring.",
            "Money basket the explain rises inflation goods what you less buys is can before.",
            "Is is inflation inflation is is inflation inflation is",
        ],
    ),
];

/// SplitMix64 (Steele, Lea and Flood 2014): small, seeded, good enough for sampling.
struct Rng(u64);

impl Rng {
    /// Uniform in [0, 1), of 53 bits.
    fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// An index, drawn with the given probabilities.
    fn draw(&mut self, probabilities: &[f64; ANSWERS]) -> usize {
        let mut left = self.uniform();
        for (index, p) in probabilities.iter().enumerate() {
            left -= p;
            if left < 0.0 {
                return index;
            }
        }
        ANSWERS - 1
    }
}

fn softmax(logits: &[f64; ANSWERS]) -> [f64; ANSWERS] {
    let highest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps = logits.map(|logit| (logit - highest).exp());
    let sum: f64 = exps.iter().sum();
    exps.map(|exp| exp / sum)
}

/// One ascent step on the logits of one question.
fn reinforce(logits: &mut [f64; ANSWERS], samples: &[usize; GROUP], rewards: &[f64]) {
    let probabilities = softmax(logits);
    let sum: f64 = rewards.iter().sum();
    for (&sample, reward) in samples.iter().zip(rewards) {
        let advantage = reward - (sum - reward) / (GROUP - 1) as f64;
        for (answer, logit) in logits.iter_mut().enumerate() {
            // Gradient of log softmax at the sampled answer.
            let gradient = f64::from(u8::from(answer == sample)) - probabilities[answer];
            *logit += LEARNING_RATE * advantage * gradient / GROUP as f64;
        }
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "grpc://127.0.0.1:50051".into());
    let client = Client::connect(address).await?;
    println!("reward model: {}\n", client.card().await?.model.name);

    let mut rng = Rng(SEED);
    let mut logits = [[0.0; ANSWERS]; QUESTIONS.len()];
    let mut means: Vec<f64> = Vec::new();
    for step in 1..=STEPS {
        let samples = logits.map(|logits| std::array::from_fn(|_| rng.draw(&softmax(&logits))));
        // The whole step goes out pipelined, and comes back in order.
        let mut rewards = Vec::new();
        for outcome in client.score_all(rollouts(step, &samples)).await? {
            rewards.push(f64::from(outcome?.reward));
        }
        for ((logits, samples), rewards) in logits.iter_mut().zip(&samples).zip(rewards.chunks_exact(GROUP)) {
            reinforce(logits, samples, rewards);
        }
        let mean = rewards.iter().sum::<f64>() / rewards.len() as f64;
        let first = *means.first().unwrap_or(&mean);
        means.push(mean);
        // A bar that begins at the first step's mean: an eighth of the reward's unit to a mark.
        let bar = "▇".repeat(((mean - first) * 8.0).max(0.0) as usize);
        println!("step {step:2}   mean reward {mean:+7.3}  {bar}");
    }

    println!("\nwhat the policy has come to prefer:");
    for (logits, (question, answers)) in logits.iter().zip(&QUESTIONS) {
        let probabilities = softmax(logits);
        let best = (0..ANSWERS).max_by(|&a, &b| probabilities[a].total_cmp(&probabilities[b])).unwrap_or(0);
        println!("  {question}\n    {:3.0} %  {:.90}", 100.0 * probabilities[best], answers[best]);
    }
    let (first, last) = (means[0], means[STEPS - 1]);
    println!("\nmean reward: first step {first:+.3}, last step {last:+.3}");
    client.close().await;
    if last > first {
        Ok(ExitCode::SUCCESS)
    } else {
        eprintln!("the mean reward did not rise");
        Ok(ExitCode::FAILURE)
    }
}

fn rollouts(step: usize, samples: &[[usize; GROUP]; QUESTIONS.len()]) -> impl Iterator<Item = Rollout> {
    samples.iter().zip(&QUESTIONS).enumerate().flat_map(move |(q, (samples, (question, answers)))| {
        samples.iter().enumerate().map(move |(i, &answer)| Rollout {
            id: format!("step {step}, question {q}, sample {i}"),
            group: format!("{step}/{q}"),
            input: Some(Input::chat([Message::new("user", *question)], answers[answer])),
            ..Rollout::default()
        })
    })
}
