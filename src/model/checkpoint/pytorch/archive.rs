//! The zip archive that `torch.save` writes: where the pickle and each storage's bytes are in the file. Entries are
//! stored, never compressed, so that they can be read in place.

use std::collections::HashMap;
use std::io::Cursor;
use std::ops::Range;

use zip::{CompressionMethod, ZipArchive};

/// How a file is converted that is older than the archive, or compressed, or otherwise not what is read here.
const CONVERT: &str = "write it again with PyTorch: python -c \"import sys, torch; p = sys.argv[1]; \
                       torch.save(torch.load(p, map_location='cpu', weights_only=True), p)\" FILE";

/// Bytes of a pickle at most: a tensor takes about 300.
const MAX_PICKLE_BYTES: usize = 16 << 20;

/// Places of an archive's parts in its file. Every range was checked against the file's length.
#[derive(Debug)]
pub struct Archive {
    pickle: Range<usize>,
    storages: HashMap<String, Range<usize>>,
}

impl Archive {
    /// Reads the directory of an archive; the error is a sentence without the file's name.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        if !bytes.starts_with(b"PK\x03\x04") {
            return Err(match bytes {
                // The pickled magic number that PyTorch before 1.6 put in front, and its older tar archives.
                [0x80, 2, 0x8a, 10, ..] => format!("was written by PyTorch before 1.6, or in its format; {CONVERT}"),
                [] => "is empty".into(),
                _ => "is no zip archive, as torch.save writes them since PyTorch 1.6".into(),
            });
        }
        let malformed = |e: zip::result::ZipError| format!("is not a readable zip archive: {e}");
        let mut archive = ZipArchive::new(Cursor::new(bytes)).map_err(malformed)?;
        let mut entries = HashMap::new();
        for index in 0..archive.len() {
            let entry = archive.by_index_raw(index).map_err(malformed)?;
            let name = String::from_utf8(entry.name_raw().to_vec())
                .map_err(|_| "has an entry of which the name is no UTF-8")?;
            if entry.compression() != CompressionMethod::Stored || entry.encrypted() {
                return Err(format!("has a compressed or encrypted entry {name:?}; {CONVERT}"));
            }
            let range = entry.data_start().and_then(|start| {
                let (start, size) = (usize::try_from(start).ok()?, usize::try_from(entry.size()).ok()?);
                Some(start..start.checked_add(size)?).filter(|range| range.end <= bytes.len())
            });
            let range = range.ok_or_else(|| format!("is cut: entry {name:?} reaches past the end of the file"))?;
            entries.insert(name, range);
        }
        Self::find(bytes, &entries)
    }

    /// Everything lies in one folder of the archive; what it is called depends on the file's name when it was saved.
    fn find(bytes: &[u8], entries: &HashMap<String, Range<usize>>) -> Result<Self, String> {
        let mut folders = entries.keys().filter_map(|name| name.strip_suffix("/data.pkl"));
        let (Some(folder), None) = (folders.next(), folders.next()) else {
            return Err("is a zip archive without exactly one data.pkl, which torch.save writes".into());
        };
        if entries.contains_key(&format!("{folder}/constants.pkl")) {
            return Err("is a TorchScript program, not a state dict".into());
        }
        if let Some(order) = entries.get(&format!("{folder}/byteorder"))
            && &bytes[order.clone()] != b"little"
        {
            return Err("holds big-endian numbers; only little-endian ones are read".into());
        }
        let pickle = entries[&format!("{folder}/data.pkl")].clone();
        if pickle.len() > MAX_PICKLE_BYTES {
            return Err(format!("has a data.pkl of {} bytes; at most {MAX_PICKLE_BYTES} are read", pickle.len()));
        }
        let prefix = format!("{folder}/data/");
        let storages = entries
            .iter()
            .filter_map(|(name, range)| Some((name.strip_prefix(&prefix)?.to_owned(), range.clone())))
            .collect();
        Ok(Self { pickle, storages })
    }

    /// The pickle's bytes, of the bytes that the archive was read from.
    pub fn pickle<'a>(&self, bytes: &'a [u8]) -> &'a [u8] {
        &bytes[self.pickle.clone()]
    }

    /// Where a storage's bytes are in the file.
    pub fn storage(&self, key: &str) -> Option<Range<usize>> {
        self.storages.get(key).cloned()
    }
}
