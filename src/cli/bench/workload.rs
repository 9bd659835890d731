//! What is measured with: a rollout file, or texts that are made up, the same on every machine.

use std::path::Path;

use crate::cli::failure::Failure;
use crate::cli::rollout_file;
use crate::rollout::{Input, Message, Rollout};

/// Rollouts with a name.
pub struct Workload {
    pub name: String,
    /// Sent one after the other, each once the one before it is answered.
    pub rounds: Vec<Vec<Rollout>>,
    /// What the rounds are compared with: the same rollouts in one round.
    pub whole: Option<Box<Workload>>,
}

impl Workload {
    fn at_once(name: String, rollouts: Vec<Rollout>) -> Self {
        Self { name, rounds: vec![rollouts], whole: None }
    }
}

/// A workload that is made up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum MadeUp {
    /// 96 rollouts that share nothing but what the template says
    Independent,
    /// 8 conversations of three turns, 16 completions each
    Groups,
    /// 32 conversations of 8 turns, sent turn by turn, and the same turns sent at once
    Turns,
}

impl MadeUp {
    pub fn workload(self) -> Workload {
        match self {
            Self::Independent => independent(),
            Self::Groups => groups(),
            Self::Turns => turns(),
        }
    }
}

/// A rollout file; a line that is not a rollout is an error here.
pub fn read(path: &Path) -> Result<Workload, Failure> {
    let fail = |why: String| Failure::usage("INPUT", format!("{}: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|e| fail(e.to_string()))?;
    let lines = bytes.split(|&b| b == b'\n').zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
    let rollouts = lines
        .map(|(line, number)| {
            rollout_file::parse_rollout(line, number).map_err(|rejection| fail(rejection.to_string()))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let name = path.file_stem().map_or_else(|| "input".into(), |stem| stem.to_string_lossy().into_owned());
    Ok(Workload::at_once(name, rollouts))
}

fn independent() -> Workload {
    let mut words = Words(1);
    let rollouts = (0..96).map(|i| {
        let prompt = vec![user(words.sentence(20, 80))];
        rollout(format!("i{i}"), String::new(), prompt, words.sentence(10, 150))
    });
    Workload::at_once("independent (made up)".into(), rollouts.collect())
}

fn groups() -> Workload {
    let mut words = Words(2);
    let mut rollouts = Vec::new();
    for g in 0..8 {
        let mut prompt = Vec::new();
        for _ in 0..2 {
            prompt.push(user(words.sentence(30, 90)));
            prompt.push(Message::new("assistant", words.sentence(60, 180)));
        }
        prompt.push(user(words.sentence(30, 90)));
        for i in 0..16 {
            rollouts.push(rollout(format!("g{g}-{i}"), format!("g{g}"), prompt.clone(), words.sentence(20, 160)));
        }
    }
    Workload::at_once("groups of 16 (made up)".into(), rollouts)
}

/// Conversations as an agent or a person has them: each comes back a turn longer, after all others did.
fn turns() -> Workload {
    const CONVERSATIONS: usize = 32;
    const TURNS: usize = 8;
    let mut words = Words(3);
    let mut conversations = vec![Vec::new(); CONVERSATIONS];
    let mut rounds = Vec::new();
    for turn in 0..TURNS {
        let mut round = Vec::new();
        for (c, messages) in conversations.iter_mut().enumerate() {
            messages.push(user(words.sentence(10, 50)));
            let completion = words.sentence(40, 120);
            round.push(rollout(format!("c{c}-{turn}"), format!("c{c}"), messages.clone(), completion.clone()));
            messages.push(Message::new("assistant", completion));
        }
        rounds.push(round);
    }
    let whole = Workload::at_once("the same turns at once".into(), rounds.concat());
    Workload { name: "32 conversations, turn by turn (made up)".into(), rounds, whole: Some(Box::new(whole)) }
}

fn user(content: String) -> Message {
    Message::new("user", content)
}

fn rollout(id: String, group: String, messages: Vec<Message>, completion: String) -> Rollout {
    Rollout { id, group, input: Some(Input::chat(messages, completion)), ..Rollout::default() }
}

/// Draws words, the same ones for the same seed (splitmix64, Steele et al. 2014).
struct Words(u64);

const WORDS: &str = "the a of to and in that it is was for on with as at by this from they which one had not but what all were \
    when we there can an your said use each how their if will up other about out many then them these so some her would make \
    like him into time has look two more write go see number no way could people my than first water been call who oil its now \
    find long down day did get come made may part river mountain question answer because between country city letter animal \
    paper together music often until children science idea enough table north girl almost above sometimes leave family body";

impl Words {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn sentence(&mut self, least: u64, most: u64) -> String {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let n = least + self.below(most - least);
        let picked: Vec<&str> = (0..n).map(|_| words[self.below(words.len() as u64) as usize]).collect();
        picked.join(" ") + "."
    }
}
