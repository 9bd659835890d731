//! A tokenizer's vocabulary in short, so that a caller who sends ids can tell whether they are the model's.
//!
//! The invariant: whoever has the same pairs of id and token gets the same fingerprint; the protocol's message `Tokenizer` says
//! how, to the byte.

use std::collections::BTreeSet;

use sha2::{Digest as _, Sha256};
use tokenizers::Tokenizer;

use crate::engine::Vocabulary;

/// Ids that share a hash.
const BLOCK: u32 = 256;

/// Bytes that are kept of a block's hash.
const KEPT: usize = 8;

/// Where an id is not below this, no blocks are hashed.
const HASHED_IDS: u32 = 1 << 21;

/// The lowest pairs that are shown.
const SHOWN: usize = 16;

/// The vocabulary of a tokenizer, added tokens included. `named` are the tokens that the model has names for.
pub(super) fn of<'a>(tokenizer: &Tokenizer, named: impl Iterator<Item = &'a str>) -> Vocabulary {
    let mut pairs: Vec<(u32, String)> = tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
    // Strings are compared by their UTF-8 bytes.
    pairs.sort();
    let named: BTreeSet<&str> = named.collect();
    let shown = |(at, pair): &(usize, &(u32, String))| *at < SHOWN || named.contains(pair.1.as_str());
    Vocabulary {
        fingerprint: sha256(&pairs).iter().map(|byte| format!("{byte:02x}")).collect(),
        size: u32::try_from(pairs.len()).unwrap_or(u32::MAX),
        block_hashes: block_hashes(&pairs),
        samples: pairs.iter().enumerate().filter(shown).map(|(_, pair)| pair.clone()).collect(),
    }
}

/// The beginnings of the hashes of all blocks up to that of the highest id. A file may name any id: no card grows with it.
fn block_hashes(pairs: &[(u32, String)]) -> Vec<u8> {
    let Some((highest, _)) = pairs.last().filter(|(highest, _)| *highest < HASHED_IDS) else { return Vec::new() };
    let mut rest = pairs;
    let mut hashes = Vec::with_capacity((highest / BLOCK + 1) as usize * KEPT);
    for block in 0..=highest / BLOCK {
        let (here, behind) = rest.split_at(rest.partition_point(|(id, _)| id / BLOCK == block));
        hashes.extend_from_slice(&sha256(here)[..KEPT]);
        rest = behind;
    }
    hashes
}

fn sha256(pairs: &[(u32, String)]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for (id, token) in pairs {
        hash.update(id.to_le_bytes());
        // No token is as long as 4 GiB: the file that it comes from is in memory.
        hash.update((token.len() as u32).to_le_bytes());
        hash.update(token);
    }
    hash.finalize().into()
}
