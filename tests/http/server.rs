//! Connections, limits, equal requests, and the end.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use reward_sidecar::engine::{EchoEngine, ReadPolicy};
use reward_sidecar::sidecar::{Config, Sidecar};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;

use crate::client::*;
use crate::common::{CONTEXT, Gate, Gated, words};
use crate::{http, sidecar};

#[tokio::test]
async fn says_how_it_is() {
    let sidecar = sidecar(http()).await;
    assert_eq!(get(&sidecar, "/health").await.text(), "alive\n");
    assert_eq!(get(&sidecar, "/ready").await.text(), "ready\n");
    let models = get(&sidecar, "/v1/models").await.ok();
    assert_eq!((&models["object"], &models["data"][0]["id"]), (&"list".into(), &"echo".into()));
    assert_eq!(get(&sidecar, "/nothing").await.refused(404), "NO_ROUTE");
    assert_eq!(get(&sidecar, "/get_reward").await.refused(405), "NO_METHOD");
}

#[tokio::test]
async fn another_version_than_the_wanted_one_is_412() {
    let sidecar = sidecar(http()).await;
    for (version, status) in [("echo-2", 200), ("echo-1", 412)] {
        for (path, body) in [("/get_reward", r#"{"query":"w1"}"#), ("/v1/rewards", r#"{"text":"w1"}"#)] {
            let answer = send(&sidecar, path, &[("X-Model-Version", version)], body.as_bytes()).await;
            assert_eq!(answer.status, status, "{}", answer.text());
        }
    }
}

#[tokio::test]
async fn a_body_that_is_too_long_is_413_before_it_is_sent() {
    let sidecar = sidecar(http()).await;
    let mut stream = connect(&sidecar).await;
    let head = "POST /get_reward HTTP/1.1\r\nHost: test\r\nContent-Length: 999999999\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read(&mut stream).await.refused(413), "BODY_TOO_LARGE");
    // One that does not say how long it is.
    let mut stream = connect(&sidecar).await;
    let head = "POST /get_reward HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    // A byte more than the least limit, which a context this short has; nothing is left unread, so that nothing is reset.
    stream.write_all(&[b"100001\r\n".as_slice(), &[b' '; (1 << 20) + 1]].concat()).await.unwrap();
    assert_eq!(read(&mut stream).await.refused(413), "BODY_TOO_LARGE");
}

/// A sidecar whose engine waits, and what opens it.
async fn gated(config: Config) -> (Sidecar, Arc<Gate>) {
    let gate = Arc::new(Gate::default());
    let engine = EchoEngine::new(CONTEXT).taking(words(), ReadPolicy::default());
    let engine = Gated { engine, gate: Arc::clone(&gate) };
    let config = Config { known_answer_ms: 0, ..config };
    (Sidecar::start(config, Box::new(engine)).await.unwrap(), gate)
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn equal_requests_under_way_are_scored_once() {
    let (sidecar, gate) = gated(http()).await;
    let mut streams = Vec::new();
    let bodies =
        [r#"{"query":["w1 w2"]}"#, r#"{"query":["w1 w2"]}"#, r#"{"query":["w1 w2"] }"#, r#"{"query":["w1 w2"]}"#];
    for body in bodies {
        let mut stream = connect(&sidecar).await;
        write(&mut stream, "POST", "/get_reward", &[], body.as_bytes()).await;
        streams.push(stream);
    }
    // Two different bodies.
    until(|| sidecar.unanswered() == 2).await;
    // Who asked first leaves, and ends nothing for the others.
    drop(streams.remove(0));
    let mut other = connect(&sidecar).await;
    write(&mut other, "POST", "/get_reward?w.length=2", &[], bodies[0].as_bytes()).await;
    until(|| sidecar.unanswered() == 3).await;
    gate.open();
    for stream in &mut streams {
        assert_eq!(numbers(&read(stream).await.ok()["rewards"]), [2.0]);
    }
    assert_eq!(numbers(&read(&mut other).await.ok()["rewards"]), [4.0]);
    assert_eq!(gate.reached.load(Ordering::SeqCst), 3);
    // Answered is answered: nothing is kept.
    assert_eq!(numbers(&post(&sidecar, "/get_reward", bodies[0]).await.ok()["rewards"]), [2.0]);
    assert_eq!(gate.reached.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_client_that_leaves_frees_its_room() {
    let (sidecar, gate) = gated(http()).await;
    let mut stream = connect(&sidecar).await;
    write(&mut stream, "POST", "/get_reward", &[], br#"{"query":["w1","w2 w3"]}"#).await;
    until(|| gate.reached.load(Ordering::SeqCst) > 0).await;
    let mut second = connect(&sidecar).await;
    write(&mut second, "POST", "/get_reward", &[], br#"{"query":["w4"]}"#).await;
    until(|| sidecar.unanswered() == 3).await;
    drop(second);
    until(|| sidecar.unanswered() == 2).await;
    gate.open();
    assert_eq!(numbers(&read(&mut stream).await.ok()["rewards"]), [1.0, 2.0]);
}

#[tokio::test]
async fn a_drain_answers_what_was_asked_and_refuses_the_rest() {
    let (sidecar, gate) = gated(http()).await;
    let (mut asked, mut idle) = (connect(&sidecar).await, connect(&sidecar).await);
    write(&mut idle, "GET", "/health", &[], b"").await;
    read(&mut idle).await;
    write(&mut asked, "POST", "/rm", &[], br#"{"prompt":"w1","response":" w2"}"#).await;
    until(|| sidecar.unanswered() == 1).await;
    let drained = tokio::spawn(sidecar.drain());
    loop {
        write(&mut idle, "POST", "/rm", &[], br#"{"prompt":"w3","response":""}"#).await;
        let answer = read(&mut idle).await;
        if answer.status == 503 {
            assert_eq!((answer.refused(503).as_str(), answer.headers["retry-after"].as_str()), ("DRAINING", "1"));
            break;
        }
    }
    gate.open();
    assert_eq!(number(&read(&mut asked).await.ok()), 2.0);
    drained.await.unwrap().unwrap();
    // And the idle connection is closed.
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn thousands_connect_at_once() {
    const CLIENTS: usize = 400;
    let sidecar = Arc::new(sidecar(http()).await);
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let sidecar = Arc::clone(&sidecar);
        clients.spawn(async move {
            let body = json!({"query": [format!("w{} w{}", n % 100, n / 100)]}).to_string();
            numbers(&post(&sidecar, "/get_reward", &body).await.ok()["rewards"])
        });
    }
    assert_eq!(clients.join_all().await, vec![vec![2.0]; CLIENTS]);
}

#[tokio::test]
async fn under_pressure_the_longest_idle_connection_makes_room() {
    let sidecar = sidecar(Config { http_connections: 2, ..http() }).await;
    let mut idle = connect(&sidecar).await;
    write(&mut idle, "GET", "/health", &[], b"").await;
    assert_eq!(read(&mut idle).await.status, 200);
    // The second takes the last place, so the first is closed; the third finds a place.
    let mut held = connect(&sidecar).await;
    write(&mut held, "GET", "/health", &[], b"").await;
    assert_eq!(read(&mut held).await.headers.get("connection").map(String::as_str), Some("close"));
    assert_eq!(idle.read(&mut [0; 16]).await.unwrap_or(0), 0, "the idle one was closed");
    assert_eq!(get(&sidecar, "/health").await.status, 200);
}

#[tokio::test]
async fn unix_sockets_and_their_users() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("http.sock");
    let address = format!("unix:{}", path.display()).parse().unwrap();
    let sidecar = sidecar(Config { http: vec![address], ..Config::default() }).await;
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let body = r#"{"query":"w1 w2"}"#;
    let request = format!(
        "POST /get_reward HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("\"rewards\":2.0"), "{answer}");
    drop(sidecar);
}

#[tokio::test]
async fn http2_without_tls_is_served_too() {
    let sidecar = sidecar(http()).await;
    // The preface and an empty SETTINGS frame (RFC 9113, sections 3.4 and 6.5).
    let mut stream = connect(&sidecar).await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "the server's SETTINGS: {frame:?}");
}
