//! The client against real sockets: answers, refusals, and everything an agent can do wrong.
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

/// A server of canned answers on a unix socket in a directory of its own.
pub(crate) struct Canned {
    directory: tempfile::TempDir,
    stopping: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// `GET /v1/status`.
    pub(crate) line: String,
    /// The body; null if there was none.
    pub(crate) body: Value,
}

impl Canned {
    /// Answers every request with the bytes that `answer` returns, then closes the connection.
    pub(crate) fn serve(mut answer: impl FnMut(Asked) -> Vec<u8> + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("agent.sock")).unwrap();
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                converse(stream, &mut answer);
            }
        });
        Self { directory, stopping, thread: Some(thread) }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }
}

impl Drop for Canned {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        drop(UnixStream::connect(self.socket()));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn converse(mut stream: UnixStream, answer: &mut impl FnMut(Asked) -> Vec<u8>) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    let head = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        match stream.read(&mut chunk) {
            Ok(0) | Err(_) => return,
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
        }
    };
    let text = String::from_utf8(bytes[..head].to_vec()).unwrap().to_ascii_lowercase();
    let length =
        text.split("content-length: ").nth(1).map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
    while bytes.len() < head + length {
        let count = stream.read(&mut chunk).unwrap();
        bytes.extend_from_slice(&chunk[..count]);
    }
    let line =
        String::from_utf8(bytes[..head].to_vec()).unwrap().lines().next().unwrap().replace(" HTTP/1.1", "");
    let body = serde_json::from_slice(&bytes[head..]).unwrap_or(Value::Null);
    let _ = stream.write_all(&answer(Asked { line, body }));
}

/// An HTTP answer of an agent of this version.
pub(crate) fn http(status: u16, body: &str) -> Vec<u8> {
    http_of(env!("CARGO_PKG_VERSION"), status, body)
}

/// An HTTP answer of an agent of some version.
pub(crate) fn http_of(version: &str, status: u16, body: &str) -> Vec<u8> {
    let head = format!("{AGENT_VERSION_HEADER}: {version}\r\ncontent-length: {}", body.len());
    format!("HTTP/1.1 {status} X\r\n{head}\r\n\r\n{body}").into_bytes()
}

fn client(socket: &Path) -> BlockingClient {
    BlockingClient::new(Client::new(socket, Duration::from_secs(10))).unwrap()
}

#[test]
fn get_post_and_delete_carry_query_and_body() {
    let echo = |asked: Asked| http(200, &json!({ "line": asked.line, "body": asked.body }).to_string());
    let server = Canned::serve(echo);
    let client = client(&server.socket());
    let got: Value = client.get("/v1/resolve", &[("name", "a b&c=ü"), ("on", "web")]).unwrap();
    assert_eq!(got, json!({ "line": "GET /v1/resolve?name=a%20b%26c%3D%C3%BC&on=web", "body": null }));
    let posted: Value = client.post("/v1/detach", &json!({ "name": "web" })).unwrap();
    assert_eq!(posted, json!({ "line": "POST /v1/detach", "body": { "name": "web" } }));
    let deleted: Value = client.delete("/v1/node", &[("name", "h1")]).unwrap();
    assert_eq!(deleted["line"], "DELETE /v1/node?name=h1");
    let fetched = client.fetch("/metrics").unwrap();
    assert_eq!((fetched.status, fetched.text().contains("/metrics")), (200, true));
}

#[test]
fn a_large_answer_comes_whole() {
    let items: Vec<String> =
        (0..100_000).map(|n| format!("replica {n} of a service with a long name")).collect();
    let body = serde_json::to_string(&items).unwrap();
    let server = Canned::serve(move |_| http(200, &body));
    let got: Vec<String> = client(&server.socket()).get("/v1/services", &[]).unwrap();
    assert_eq!(got, items);
}

#[test]
fn a_failure_of_the_agent_is_told_as_it_is() {
    let failure = json!({ "kind": "usage", "message": "which one?", "hints": ["a", "b"] }).to_string();
    let server = Canned::serve(move |_| http(422, &failure));
    let error = client(&server.socket()).post::<_, Value>("/v1/services", &json!({})).unwrap_err();
    assert_eq!(error.to_string(), "which one?");
    let failure = error.failure();
    assert_eq!((failure.kind, failure.hints), (FailureKind::Usage, vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn no_agent_is_told_from_a_lost_one() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    let error = client(&socket).get::<Value>("/v1/status", &[]).unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }), "{error:?}");
    assert_eq!(
        error.failure().message,
        format!("no agent at {}: No such file or directory (os error 2)", socket.display())
    );
    assert!(error.failure().hints[0].contains("svc-agent run --init"));
    drop(UnixListener::bind(&socket).unwrap());
    let error = client(&socket).get::<Value>("/v1/status", &[]).unwrap_err();
    assert!(matches!(error, ClientError::NoAgent { .. }), "a socket file without a listener: {error:?}");
    let server = Canned::serve(|_| Vec::new());
    let error = client(&server.socket()).get::<Value>("/v1/status", &[]).unwrap_err();
    assert!(matches!(error, ClientError::Lost { .. }), "{error:?}");
    assert!(error.to_string().contains("went away before it had answered GET /v1/status"), "{error}");
    let server = Canned::serve(|_| b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half\":".to_vec());
    let error = client(&server.socket()).get::<Value>("/v1/status", &[]).unwrap_err();
    assert!(matches!(error, ClientError::Lost { .. }), "a body cut short: {error:?}");
}

#[test]
fn a_silent_agent_times_out() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("agent.sock");
    // The kernel accepts the connection; nobody ever reads it.
    let _listener = UnixListener::bind(&socket).unwrap();
    let begun = Instant::now();
    let client = BlockingClient::new(Client::new(&socket, Duration::from_millis(50))).unwrap();
    let error = client.get::<Value>("/v1/status", &[]).unwrap_err();
    assert_eq!(error.to_string(), "no answer from the agent to GET /v1/status within 50ms");
    assert_eq!(error.failure().kind, FailureKind::TimedOut);
    let hints = error.failure().hints;
    assert!(hints[0].contains("log") && hints[1].contains("restart it"), "{hints:?}");
    assert!(!hints.iter().any(|hint| hint.contains("svc-agent status")), "a loop: {hints:?}");
    let other = client.get::<Value>("/v1/networks", &[]).unwrap_err().failure();
    assert!(other.hints.iter().any(|hint| hint.ends_with("svc-agent status")), "{other:?}");
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[test]
fn foreign_bytes_are_an_error_never_a_panic() {
    let answers: [(&[u8], &str); 4] = [
        (b"\xff\xfe\0 not HTTP at all\r\n\r\n", "makes no sense: invalid HTTP"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "makes no sense: expected value"),
        (b"HTTP/1.1 404 Not Found\r\ncontent-length: 6\r\n\r\nab\x1bcd\xff", "status 404 abcd\u{fffd}"),
        (b"HTTP/1.1 500 X\r\ncontent-length: 0\r\n\r\n", "status 500"),
    ];
    for (bytes, expected) in answers {
        let server = Canned::serve(move |_| bytes.to_vec());
        let error = client(&server.socket()).get::<Value>("/v1/status", &[]).unwrap_err();
        assert!(matches!(error, ClientError::Protocol { .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
        assert!(error.failure().hints[0].contains("svc-agent version"));
    }
}

#[test]
fn a_request_may_be_dropped_at_any_await() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = Canned::serve(|_| http(200, "[]"));
    let client = Client::new(server.socket(), Duration::from_secs(10));
    runtime.block_on(async {
        for polls in 0..20 {
            let mut left = polls;
            let request = client.get::<Value>("/v1/nodes", &[]);
            tokio::pin!(request);
            let abandoned = std::future::poll_fn(|context| {
                left -= 1;
                if left < 0 {
                    return std::task::Poll::Ready(None);
                }
                request.as_mut().poll(context).map(Some)
            });
            if let Some(answer) = abandoned.await {
                assert_eq!(answer.unwrap(), json!([]));
            }
        }
        assert_eq!(client.get::<Value>("/v1/nodes", &[]).await.unwrap(), json!([]));
    });
}
