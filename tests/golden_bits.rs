//! The bits of rewards, held against those that are stored for this revision of the arithmetic: every type of weights, on every
//! instruction set that the machine has, for fixtures of several architectures, heads and formats, encoders among them.
//!
//! `tests/fixtures/golden/bits.json` has them as hexadecimal float32 bit patterns. It is written by
//! `cargo test --test golden_bits -- --ignored write`, which refuses to write other bits for a revision that is there.

#[path = "common/reference.rs"]
mod reference;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use reward_sidecar::batch::MicroBatch;
use reward_sidecar::engine::Engine;
use reward_sidecar::model::compute::kernels::{Isa, REVISION, WeightType, constants};
use reward_sidecar::model::{Config, Dtype, ModelEngine};
use sha2::{Digest, Sha256};

use reference::{fixtures, reference};

/// Architectures, activations, rotary scalings, soft caps, windows, biases, a quantised file.
const FIXTURES: [&str; 14] = [
    "encoder/bert",
    "encoder/deberta-v3",
    "gguf/llama-q8_0",
    "hf/gemma2",
    "hf/internlm2",
    "hf/llama-rope-yarn-mscale",
    "hf/llama-tp24",
    "hf/llama3-sharded",
    "hf/mistral-window",
    "hf/nemotron-biases-f16",
    "hf/qwen2",
    "hf/qwen2-yarn",
    "hf/qwen3",
    "hf/qwen3.5",
];

const HELP: &str = "Whoever means to move bits raises REVISION in src/model/compute/kernels/revision.rs, so that no model version \
                    stands for two numbers, and runs `cargo test --test golden_bits -- --ignored write`";

/// What is stored.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stored {
    /// Every revision that there has been, in ascending order. Lines are added and never changed: a fixture or a constant that is
    /// new has one more in the present revision, whose others stay.
    revisions: Vec<Revision>,
    /// For each fixture and type of weights, the bits of its rewards, row after row.
    bits: Bits,
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Revision {
    revision: u32,
    /// Of the constants of its arithmetic.
    constants: Digests,
    /// Of its bits.
    bits: Digests,
}

/// SHA-256 of each, by name; of all together in the first revision.
#[derive(serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
enum Digests {
    Each(BTreeMap<String, String>),
    All(String),
}

impl Digests {
    fn of<'a>(named: impl IntoIterator<Item = (&'a str, impl serde::Serialize)>) -> Self {
        Self::Each(named.into_iter().map(|(name, value)| (name.to_owned(), digest(&value))).collect())
    }

    fn each(&self) -> &BTreeMap<String, String> {
        match self {
            Self::Each(digests) => digests,
            Self::All(_) => panic!("digests of a revision that is past"),
        }
    }
}

/// The digests of this program's constants.
fn of_constants() -> Digests {
    Digests::of(constants())
}

fn of_bits(bits: &Bits) -> Digests {
    Digests::of(bits.iter().map(|(fixture, types)| (&**fixture, types)))
}

type Bits = BTreeMap<String, BTreeMap<String, Vec<String>>>;

fn file() -> PathBuf {
    fixtures().join("golden/bits.json")
}

fn stored() -> Stored {
    serde_json::from_slice(&fs::read(file()).unwrap()).unwrap()
}

fn digest(value: &impl serde::Serialize) -> String {
    let digest = Sha256::digest(serde_json::to_vec(value).unwrap());
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The rewards of a fixture's first rollouts, packed together.
fn bits(fixture: &str, weights: WeightType, isa: Isa) -> Vec<String> {
    let folder = fixtures().join(fixture);
    let reference = reference(&folder);
    let (gguf, head) = (folder.join("model.gguf"), folder.join("head.safetensors"));
    let config = Config {
        model: if gguf.exists() { gguf } else { folder }.to_str().unwrap().into(),
        head: head.exists().then_some(head),
        preset: "none".into(),
        dtype: Dtype::Weights(weights),
        isa: Some(isa),
        threads: 2,
        cache_dir: "/nonexistent".into(),
        ..Config::default()
    };
    let mut engine = ModelEngine::load(&config).unwrap_or_else(|e| panic!("{fixture}: {e}"));
    let rollouts: Vec<&[u32]> = reference.cases.iter().map(|case| &case.input_ids[..]).take(8).collect();
    let table = engine.score(&MicroBatch::pack(&rollouts, true)).unwrap();
    let values = (0..table.rows()).flat_map(|row| table.row(row).unwrap());
    values.map(|value| format!("{:08x}", value.to_bits())).collect()
}

fn all_bits(isa: Isa) -> Bits {
    let of = |fixture: &str| {
        WeightType::ALL.map(|weights| (weights.name().to_owned(), bits(fixture, weights, isa))).into_iter().collect()
    };
    FIXTURES.map(|fixture| (fixture.to_owned(), of(fixture))).into_iter().collect()
}

#[test]
fn bits_are_those_of_the_revision_on_every_instruction_set() {
    let stored = stored().bits;
    for isa in Isa::available() {
        let found = all_bits(isa);
        assert!(found.keys().eq(stored.keys()), "the fixtures are others than those that are stored. {HELP}");
        for (fixture, types) in &found {
            for (weights, bits) in types {
                let expected = stored[fixture].get(weights);
                assert_eq!(
                    Some(bits),
                    expected,
                    "{fixture} as {weights} on {}: its bits have moved. {HELP}",
                    isa.name()
                );
            }
        }
    }
}

/// Whoever changes a constant or the stored bits without a new revision is told here.
#[test]
fn what_is_stored_belongs_to_the_revision() {
    let Stored { revisions, bits } = stored();
    assert!(revisions.windows(2).all(|pair| pair[0].revision < pair[1].revision), "revisions ascend");
    let last = revisions.last().unwrap();
    assert_eq!(last.revision, REVISION, "the stored bits are of another revision. {HELP}");
    assert_eq!(last.bits.each(), of_bits(&bits).each(), "the stored bits were changed under one revision. {HELP}");
    let constants = constants();
    assert_eq!(
        last.constants.each(),
        of_constants().each(),
        "the constants are {constants:?}, not those of it. {HELP}"
    );
}

#[test]
#[ignore = "writes what the other tests compare with"]
fn write() {
    let bits = all_bits(Isa::detect());
    let mut revisions = if file().exists() { stored().revisions } else { Vec::new() };
    let new = Revision { revision: REVISION, constants: of_constants(), bits: of_bits(&bits) };
    match revisions.iter_mut().find(|stored| stored.revision == REVISION) {
        Some(stored) => {
            for (stored, new) in [(&stored.constants, &new.constants), (&stored.bits, &new.bits)] {
                assert!(stored.each().iter().all(|(name, digest)| new.each().get(name) == Some(digest)), "{HELP}");
            }
            *stored = new;
        }
        None => revisions.push(new),
    }
    fs::write(file(), serde_json::to_string_pretty(&Stored { revisions, bits }).unwrap() + "\n").unwrap();
}
