//! HTTP/1.1 by hand (RFC 9112): what goes over the socket is what the test says.

use std::collections::HashMap;

use reward_sidecar::sidecar::{HttpAddress, Sidecar};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: HashMap<String, String>,
    pub body: Vec<u8>,
    /// Whether the body ended as HTTP has it.
    pub whole: bool,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn lines(&self) -> Vec<Value> {
        self.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// The code of a refusal.
    #[track_caller]
    pub fn refused(&self, status: u16) -> String {
        assert_eq!(self.status, status, "{}", self.text());
        let error = &self.json()["error"];
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{}", self.text());
        error["code"].as_str().unwrap().to_owned()
    }
}

/// A float32 as a reader of ours takes it: through float64.
#[track_caller]
pub fn number(value: &Value) -> f32 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number")) as f32
}

/// Several of them.
#[track_caller]
pub fn numbers(values: &Value) -> Vec<f32> {
    values.as_array().unwrap_or_else(|| panic!("{values} is no list")).iter().map(number).collect()
}

/// Where the sidecar's first HTTP address is.
pub fn address(sidecar: &Sidecar) -> String {
    match &sidecar.http_addresses()[0] {
        HttpAddress::Tcp(address) => address.clone(),
        HttpAddress::Unix(path) => panic!("{} is no TCP address", path.display()),
    }
}

pub async fn connect(sidecar: &Sidecar) -> TcpStream {
    TcpStream::connect(address(sidecar)).await.unwrap()
}

/// One request on a connection of its own.
pub async fn post(sidecar: &Sidecar, path: &str, body: &str) -> Answer {
    send(sidecar, path, &[], body.as_bytes()).await
}

pub async fn send(sidecar: &Sidecar, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = connect(sidecar).await;
    write(&mut stream, "POST", path, headers, body).await;
    read(&mut stream).await
}

pub async fn get(sidecar: &Sidecar, path: &str) -> Answer {
    let mut stream = connect(sidecar).await;
    write(&mut stream, "GET", path, &[], b"").await;
    read(&mut stream).await
}

pub async fn write(stream: &mut TcpStream, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(&[head.as_bytes(), body].concat()).await.unwrap();
}

/// The next answer on a connection.
pub async fn read(stream: &mut TcpStream) -> Answer {
    let mut received = Vec::new();
    let head = loop {
        if let Some(end) = find(&received, b"\r\n\r\n") {
            break end;
        }
        assert!(more(stream, &mut received).await, "the connection ended: {}", String::from_utf8_lossy(&received));
    };
    let mut body = received.split_off(head + 4);
    let text = String::from_utf8(received).unwrap();
    let mut lines = text.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        let (body, whole) = chunks(stream, body).await;
        return Answer { status, headers, body, whole };
    }
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    while body.len() < length {
        assert!(more(stream, &mut body).await, "the connection ended within a body");
    }
    Answer { status, headers, body, whole: true }
}

async fn chunks(stream: &mut TcpStream, mut received: Vec<u8>) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = find(&received, b"\r\n") else {
            if more(stream, &mut received).await {
                continue;
            }
            return (body, false);
        };
        let size = usize::from_str_radix(std::str::from_utf8(&received[..end]).unwrap(), 16).unwrap();
        while received.len() < end + 2 + size + 2 {
            if !more(stream, &mut received).await {
                return (body, false);
            }
        }
        body.extend_from_slice(&received[end + 2..end + 2 + size]);
        received.drain(..end + 2 + size + 2);
        if size == 0 {
            return (body, true);
        }
    }
}

async fn more(stream: &mut TcpStream, received: &mut Vec<u8>) -> bool {
    stream.read_buf(received).await.is_ok_and(|n| n > 0)
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
