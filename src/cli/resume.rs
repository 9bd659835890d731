//! What an interrupted run of `score` has written, and how another goes on from it.
//!
//! The invariant: only complete lines are kept, and each must be the answer to the row of the input that stands in its place.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::Deserialize;

/// Where the lines of a run that may be resumed are, until it is complete: beside its output.
pub fn path_for(output: &Path) -> PathBuf {
    let mut name: OsString = output.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

/// The lines that an earlier run has written.
pub struct Kept {
    lines: io::Lines<BufReader<File>>,
    /// How many there are.
    pub count: u64,
    /// Those of them that are or hold a rejection.
    pub rejected: u64,
    /// The model that gave the first reward, if there is one.
    pub model_version: Option<String>,
    path: PathBuf,
}

/// What is looked at of a line.
#[derive(Deserialize)]
struct KeptLine {
    id: Option<String>,
    line: Option<u64>,
    error: Option<serde::de::IgnoredAny>,
    model_version: Option<String>,
    chosen: Option<KeptPart>,
    rejected: Option<KeptPart>,
}

#[derive(Deserialize)]
struct KeptPart {
    error: Option<serde::de::IgnoredAny>,
    model_version: Option<String>,
}

/// Opens the file at `path` to go on writing behind its last complete line, and looks at what is in it. One process at a time may.
pub fn open(path: &Path) -> io::Result<(File, Kept)> {
    let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| io::Error::other("another run is writing there"))?;
    let mut kept = Kept { lines: lines(path)?, count: 0, rejected: 0, model_version: None, path: path.to_owned() };
    let mut reader = BufReader::new(File::open(path)?);
    let (mut complete, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let bytes = reader.read_until(b'\n', &mut line)?;
        // The last line of a run that was killed may be half of one.
        if line.last() != Some(&b'\n') {
            break;
        }
        let read: KeptLine = serde_json::from_slice(&line).map_err(|error| {
            let place = kept.count + 1;
            io::Error::new(io::ErrorKind::InvalidData, format!("line {place} is no line of a rewards file ({error})"))
        })?;
        kept.look_at(read);
        complete += bytes as u64;
    }
    file.set_len(complete)?;
    file.seek(SeekFrom::Start(complete))?;
    Ok((file, kept))
}

fn lines(path: &Path) -> io::Result<io::Lines<BufReader<File>>> {
    Ok(BufReader::new(File::open(path)?).lines())
}

/// How many complete lines a file has.
pub fn count_lines(path: &Path) -> io::Result<u64> {
    let (mut reader, mut buffer, mut count) = (File::open(path)?, vec![0; 1 << 16], 0);
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(count),
            bytes => count += buffer[..bytes].iter().filter(|&&byte| byte == b'\n').count() as u64,
        }
    }
}

impl Kept {
    fn look_at(&mut self, line: KeptLine) {
        let parts = [&line.chosen, &line.rejected];
        let parts = || parts.iter().filter_map(|part| part.as_ref());
        self.count += 1;
        self.rejected += u64::from(line.error.is_some() || parts().any(|part| part.error.is_some()));
        if self.model_version.is_none() {
            self.model_version =
                line.model_version.clone().or_else(|| parts().find_map(|part| part.model_version.clone()));
        }
    }

    /// Whether the next row of the input, the `number`th of its file, has been answered. `Ok(false)` once all lines are used up.
    ///
    /// # Errors
    ///
    /// The line in its place answers another row.
    pub fn answers(&mut self, id: Option<&str>, number: u64) -> io::Result<bool> {
        if self.count == 0 {
            return Ok(false);
        }
        self.count -= 1;
        let Some(line) = self.lines.next().transpose()? else { return Ok(false) };
        let found: KeptLine = serde_json::from_str(&line).map_err(io::Error::from)?;
        let same = match (&found.id, id) {
            (Some(found), Some(id)) => found == id,
            (None, None) => found.line.is_none_or(|line| line == number),
            _ => false,
        };
        if same {
            return Ok(true);
        }
        let name = |id: Option<&str>| id.map_or_else(|| "a row without an id".to_owned(), |id| format!("'{id}'"));
        let (expected, found, path) = (name(id), name(found.id.as_deref()), self.path.display());
        let why = format!(
            "row {number} is {expected}, but in its place {path} has the answer to {found}: it is of another input; remove it \
             to begin anew"
        );
        Err(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const LINES: &str = "{\"id\":\"a\",\"reward\":1,\"model_version\":\"m@1\"}\n{\"id\":null,\"line\":2,\"error\":{}}\n\
                         {\"id\":\"c\",\"chosen\":{\"reward\":1},\"rejected\":{\"error\":{}}}\n";

    #[test]
    fn half_a_line_is_cut_off_and_the_rest_is_counted() {
        let folder = tempfile::tempdir().unwrap();
        let path = path_for(&folder.path().join("rewards.jsonl"));
        assert!(path.ends_with("rewards.jsonl.partial"));
        std::fs::write(&path, format!("{LINES}{{\"id\":\"d\",\"rew")).unwrap();
        let (mut file, mut kept) = open(&path).unwrap();
        assert_eq!((kept.count, kept.rejected, kept.model_version.as_deref()), (3, 2, Some("m@1")));
        assert!(open(&path).err().unwrap().to_string().contains("another run"));
        file.write_all(b"{\"id\":\"d\"}\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{LINES}{{\"id\":\"d\"}}\n"));
        assert_eq!(count_lines(&path).unwrap(), 4);
        assert!(kept.answers(Some("a"), 1).unwrap() && kept.answers(None, 2).unwrap());
        let other = kept.answers(Some("x"), 3).unwrap_err().to_string();
        assert!(other.contains("row 3 is 'x'") && other.contains("the answer to 'c'"), "{other}");
        assert!(!kept.answers(Some("d"), 4).unwrap());
    }

    #[test]
    fn what_is_no_rewards_file_is_not_cut() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notes.partial");
        std::fs::write(&path, "my notes\nmore").unwrap();
        assert!(open(&path).err().unwrap().to_string().contains("line 1 is no line of a rewards file"));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "my notes\nmore");
    }
}
