//! What is measured with: a rollout file, or texts that are made up, the same on every machine and for every model that takes
//! conversations of their length.

use std::path::Path;

use crate::cli::failure::Failure;
use crate::cli::rollout_file;
use crate::engine::ModelCard;
use crate::rollout::{AnswerOnly, Input, Message, Rollout};
use crate::sidecar::made_up;

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
    /// The workload in a form that a model takes.
    pub fn workload(self, card: &ModelCard, form: Form) -> Workload {
        let words = |seed| Words { state: seed, shorter: form.shorter };
        let mut workload = match self {
            Self::Independent => independent(words(1)),
            Self::Groups => groups(words(2)),
            Self::Turns => turns(words(3)),
        };
        workload.reshape(card, form);
        workload
    }
}

/// How made-up conversations are sent: as they are, unless the model takes no such rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Form {
    /// What they are sent as.
    pub input: InputForm,
    /// How many times fewer words each text has.
    pub shorter: u64,
}

/// See [`Form`]. In the order in which they are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InputForm {
    /// Conversations, for the model's chat template.
    Chat,
    /// Texts: a line for each message.
    Text,
    /// Token ids: one for each word, and what the model's head looks for.
    Ids,
}

impl Form {
    /// What every model is tried with first.
    pub const FIRST: Self = Self { input: InputForm::Chat, shorter: 1 };

    /// Texts half as long; `None` where they would have hardly a word.
    pub fn shortened(self) -> Option<Self> {
        (self.shorter < 64).then_some(Self { shorter: self.shorter * 2, ..self })
    }

    /// Another form, for a model that does not take this one.
    pub fn other(self) -> Option<Self> {
        let input = match self.input {
            InputForm::Chat => InputForm::Text,
            InputForm::Text => InputForm::Ids,
            InputForm::Ids => return None,
        };
        Some(Self { input, ..self })
    }
}

impl std::fmt::Display for Form {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("made up")?;
        match self.input {
            InputForm::Chat => {}
            InputForm::Text => f.write_str(", as text")?,
            InputForm::Ids => f.write_str(", as token ids")?,
        }
        match self.shorter {
            1 => Ok(()),
            shorter => write!(f, ", 1/{shorter} as long"),
        }
    }
}

impl Workload {
    fn reshape(&mut self, card: &ModelCard, form: Form) {
        self.name = format!("{} ({form})", self.name);
        for rollout in self.rounds.iter_mut().flatten() {
            if card.default_weighting.is_none() {
                rollout.aggregation = made_up::aggregation(card).into();
            }
            // The words have none, and not every form tells.
            rollout.answer_only = Some(AnswerOnly::OFF);
            let Some(Input::Chat { messages, completion, .. }) = &rollout.input else { continue };
            let spoken = messages.iter().map(|message| message.content.as_str()).chain([completion.as_str()]);
            match form.input {
                InputForm::Chat => {}
                InputForm::Text => rollout.input = Some(Input::Text(spoken.collect::<Vec<_>>().join("\n"))),
                InputForm::Ids => {
                    let words = spoken.flat_map(str::split_whitespace);
                    let number = |word: &str| word.bytes().fold(0_u32, |n, byte| n.wrapping_mul(31) + u32::from(byte));
                    rollout.input = Some(Input::TokenIds(made_up::complete(card, words.map(number))));
                }
            }
        }
        if let Some(whole) = &mut self.whole {
            whole.reshape(card, form);
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

fn independent(mut words: Words) -> Workload {
    let rollouts = (0..96).map(|i| {
        let prompt = vec![user(words.sentence(20, 80))];
        rollout(format!("i{i}"), String::new(), prompt, words.sentence(10, 150))
    });
    Workload::at_once("independent".into(), rollouts.collect())
}

fn groups(mut words: Words) -> Workload {
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
    Workload::at_once("groups of 16".into(), rollouts)
}

/// Conversations as an agent or a person has them: each comes back a turn longer, after all others did.
fn turns(mut words: Words) -> Workload {
    const CONVERSATIONS: usize = 32;
    const TURNS: usize = 8;
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
    Workload { name: "32 conversations, turn by turn".into(), rounds, whole: Some(Box::new(whole)) }
}

fn user(content: String) -> Message {
    Message::new("user", content)
}

fn rollout(id: String, group: String, messages: Vec<Message>, completion: String) -> Rollout {
    Rollout { id, group, input: Some(Input::chat(messages, completion)), ..Rollout::default() }
}

/// Draws words, the same ones for the same seed (splitmix64, Steele et al. 2014).
struct Words {
    state: u64,
    /// How many times fewer of them a sentence has than was asked for.
    shorter: u64,
}

const WORDS: &str = "the a of to and in that it is was for on with as at by this from they which one had not but what all were \
    when we there can an your said use each how their if will up other about out many then them these so some her would make \
    like him into time has look two more write go see number no way could people my than first water been call who oil its now \
    find long down day did get come made may part river mountain question answer because between country city letter animal \
    paper together music often until children science idea enough table north girl almost above sometimes leave family body";

impl Words {
    fn below(&mut self, n: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn sentence(&mut self, least: u64, most: u64) -> String {
        let words: Vec<&str> = WORDS.split_whitespace().collect();
        let n = ((least + self.below(most - least)) / self.shorter).max(1);
        let picked: Vec<&str> = (0..n).map(|_| words[self.below(words.len() as u64) as usize]).collect();
        picked.join(" ") + "."
    }
}
