//! The map that rewrites characters before text is cut: a trie of byte strings in a double array, and the texts that they
//! become. The library that applies it trusts every index in it, at the first text that leads there; so all of them are
//! checked here.
//!
//! Format: `src/normalizer.cc` of SentencePiece (`DecodePrecompiledCharsMap`) and `darts.h`.

/// Checks a map; the error is a sentence without the file's name.
pub fn check(map: &[u8]) -> Result<(), String> {
    sound(map).ok_or_else(|| "has a malformed precompiled_charsmap".to_owned())
}

/// Bytes of the trie, the trie, the texts one after the other with a zero behind each.
fn sound(map: &[u8]) -> Option<()> {
    let (length, rest) = map.split_first_chunk()?;
    let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
    let (trie, texts) = rest.split_at_checked(length)?;
    let (units, []) = trie.as_chunks() else { return None };
    let units: Vec<u32> = units.iter().map(|unit| u32::from_le_bytes(*unit)).collect();
    let texts = str::from_utf8(texts).ok()?;

    // A node is where its children are, each at the node's place with its label's bits turned.
    let mut seen = vec![false; units.len()];
    let mut open = vec![offset(*units.first()?)];
    while let Some(node) = open.pop() {
        // Whatever byte comes next, the place for it must be there.
        if (node | 0xff) >= units.len() {
            return None;
        }
        if std::mem::replace(&mut seen[node], true) {
            continue;
        }
        for label in 1..=0xff {
            let unit = units[node ^ label];
            if (unit & (1 << 31 | 0xff)) as usize != label {
                continue;
            }
            let child = node ^ label ^ offset(unit);
            if unit >> 8 & 1 == 1 {
                let text = (units.get(child)? & !(1 << 31)) as usize;
                texts.get(text..)?;
            }
            open.push(child);
        }
    }
    Some(())
}

fn offset(unit: u32) -> usize {
    ((unit >> 10) << ((unit & 1 << 9) >> 6)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A trie that rewrites `a` to the text at a place, with the units changed.
    fn map(place: u32, texts: &str, change: impl FnOnce(&mut Vec<u32>)) -> Vec<u8> {
        let mut units = vec![0; 512];
        // The root's children are around 256; below `a` there is nothing but the leaf, at 258.
        units[0] = 256 << 10;
        units[256 ^ 0x61] = (256 ^ 0x61 ^ 258) << 10 | 1 << 8 | 0x61;
        units[258] = 1 << 31 | place;
        change(&mut units);
        let trie: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        [&(trie.len() as u32).to_le_bytes(), &trie[..], texts.as_bytes()].concat()
    }

    #[test]
    fn indices_must_lead_somewhere() {
        let plain = |_: &mut Vec<u32>| ();
        assert!(check(&map(3, "é\0x\0", plain)).is_ok());
        assert!(check(&map(5, "é\0x\0", plain)).is_ok());
        // Beyond the texts, within a letter, and places that are not there.
        assert!(check(&map(6, "é\0x\0", plain)).is_err());
        assert!(check(&map(1, "é\0x\0", plain)).is_err());
        assert!(check(&map(3, "é\0x\0", |units| units.truncate(511))).is_err());
        assert!(check(&map(3, "é\0x\0", |units| units[0] = 512 << 10)).is_err());
        assert!(check(&map(3, "é\0x\0", |units| units[0x161] |= 1 << 20)).is_err());
        // A circle ends.
        assert!(check(&map(3, "é\0x\0", |units| units[0x161] = 0x61 << 10 | 0x61)).is_ok());
    }

    #[test]
    fn a_map_must_be_whole() {
        for map in [&[][..], &u32::MAX.to_le_bytes(), &[0; 4], &[3, 0, 0, 0, 1, 2, 3]] {
            assert!(check(map).is_err());
        }
    }
}
