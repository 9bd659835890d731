//! What is measured with: a rollout file, or texts that are made up, the same on every machine.

use std::path::Path;

use crate::cli::failure::Failure;
use crate::cli::rollout_file;
use crate::rollout::{Input, Message, Rollout};

/// Rollouts with a name.
pub struct Workload {
    pub name: String,
    pub rollouts: Vec<Rollout>,
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
    Ok(Workload { name, rollouts })
}

/// 96 rollouts that share nothing but what the template says.
pub fn independent() -> Workload {
    let mut words = Words(1);
    let rollouts = (0..96).map(|i| {
        let prompt = vec![user(words.sentence(20, 80))];
        rollout(format!("i{i}"), String::new(), prompt, words.sentence(10, 150))
    });
    Workload { name: "independent (made up)".into(), rollouts: rollouts.collect() }
}

/// 8 conversations of three turns, 16 completions each.
pub fn groups() -> Workload {
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
    Workload { name: "groups of 16 (made up)".into(), rollouts }
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
