//! Lines of a body, as they come.
//!
//! Invariant: of a line that is not complete no more is held than the budget has admitted, but for a first part of fixed length.

use axum::body::{Body, Bytes};

use super::rows::{Raw, is_blank};
use crate::limits::MAX_MESSAGE_BYTES;
use crate::sidecar::fair::{FairSemaphore, Permit};
use crate::sidecar::transport::http::body::{Frames, cost, too_large};
use crate::sidecar::transport::http::reply::Refusal;

/// Bytes of a line that are held without asking: as HTTP/2 holds of a stream.
const FREE: usize = 64 << 10;

/// See the module.
pub(super) struct Lines {
    frames: Frames,
    budget: FairSemaphore,
    caller: u64,
    /// What came and is not given away yet.
    pending: Bytes,
    /// The beginning of a line.
    line: Vec<u8>,
    held: Option<Permit>,
    number: u64,
    ended: bool,
}

impl Lines {
    pub fn new(body: Body, budget: FairSemaphore, caller: u64) -> Self {
        let frames = Frames(body);
        Self { frames, budget, caller, pending: Bytes::new(), line: Vec::new(), held: None, number: 0, ended: false }
    }

    /// The next line that is not blank, and what is held for it.
    pub async fn next(&mut self) -> Result<Option<(Raw, Option<Permit>)>, Refusal> {
        loop {
            if let Some(end) = self.pending.iter().position(|&byte| byte == b'\n') {
                let rest = self.pending.split_off(end + 1);
                let last = std::mem::replace(&mut self.pending, rest);
                self.take(&last[..end]).await?;
                if let Some(line) = self.complete().await? {
                    return Ok(Some(line));
                }
                continue;
            }
            let part = std::mem::take(&mut self.pending);
            self.take(&part).await?;
            if self.ended {
                return self.complete().await;
            }
            match self.frames.next(None).await? {
                Some(bytes) => self.pending = bytes,
                None => self.ended = true,
            }
        }
    }

    async fn take(&mut self, part: &[u8]) -> Result<(), Refusal> {
        let length = self.line.len() + part.len();
        if length > MAX_MESSAGE_BYTES {
            return Err(too_large(MAX_MESSAGE_BYTES));
        }
        if length > FREE && self.held.is_none() {
            // How long it will be nobody knows yet.
            self.held = Some(admit(&self.budget, self.caller, MAX_MESSAGE_BYTES).await?);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    async fn complete(&mut self) -> Result<Option<(Raw, Option<Permit>)>, Refusal> {
        self.number += 1;
        self.held = None;
        let json = std::mem::take(&mut self.line);
        if is_blank(&json) {
            return Ok(None);
        }
        let held = admit(&self.budget, self.caller, json.len()).await?;
        Ok(Some((Raw { number: self.number, json }, Some(held))))
    }
}

async fn admit(budget: &FairSemaphore, caller: u64, length: usize) -> Result<Permit, Refusal> {
    budget.acquire(caller, cost(length)).await.map_err(|_| Refusal::draining())
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    #[tokio::test]
    async fn lines_come_whole_however_they_are_cut() {
        let body = "{\"a\":1}\n\n  \n{\"b\":2}\r\n{\"c\":3}";
        for size in 1..body.len() {
            let frames: Vec<_> = body.as_bytes().chunks(size).map(|part| Ok::<_, Infallible>(part.to_vec())).collect();
            let body = Body::from_stream(tokio_stream::iter(frames));
            let mut lines = Lines::new(body, FairSemaphore::new(10, 1 << 20, 1), 1);
            let mut found = Vec::new();
            while let Some((raw, _)) = lines.next().await.unwrap() {
                found.push((raw.number, String::from_utf8(raw.json).unwrap().trim().to_owned()));
            }
            assert_eq!(found, [(1, "{\"a\":1}".into()), (4, "{\"b\":2}".into()), (5, "{\"c\":3}".into())], "{size}");
        }
    }
}
