//! The API's client: one HTTP request per connection over the agent's unix socket.
//!
//! A connection per request costs some 50 µs on a unix socket and leaves no state that an agent's restart could spoil.
//! The methods of [`Client`] are async and may be dropped at any await; [`BlockingClient`] wraps them for plain threads.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::{Failure, FailureKind};
use super::{AGENT_VERSION_HEADER, API_VERSION, API_VERSION_HEADER};

/// The longest answer that is read, in bytes: 100,000 replicas take some 20 MB.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A client of the agent at one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
    timeout: Duration,
    /// What the agent said of its version with its first answer.
    agent_version: Arc<OnceLock<String>>,
}

/// Why a request has no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody accepts connections at the socket; nothing was asked.
    #[error("no agent at {}", socket.display())]
    NoAgent {
        /// Where one was expected.
        socket: PathBuf,
        /// What connecting came back with.
        source: io::Error,
    },
    /// The agent went away before it had answered; a change may or may not have been made.
    #[error("the agent at {} went away before it had answered {request}", socket.display())]
    Lost {
        /// Where it was.
        socket: PathBuf,
        /// Method and path.
        request: String,
        /// What the connection ended with.
        source: hyper::Error,
    },
    /// The agent said no, and why. Its `kind` tells a usage error and a time-out of the agent's own from a refusal.
    #[error("{}", .0.message)]
    Refused(Failure),
    /// No answer within the client's time-out; a change may still be made.
    #[error("no answer from the agent to {request} within {}", humantime::format_duration(*after))]
    TimedOut {
        /// Method and path.
        request: String,
        /// The time-out.
        after: Duration,
    },
    /// What came back is not what this version of the API says.
    #[error("the agent's answer to {request} makes no sense: {what}")]
    Protocol {
        /// Method and path.
        request: String,
        /// What came back.
        what: String,
    },
}

/// An answer before it is understood.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status code.
    pub status: u16,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// The body as text; bytes that are no UTF-8 are replaced.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Client {
    /// A client that gives every request `timeout` from connecting to the last byte.
    pub fn new(socket: impl Into<PathBuf>, timeout: Duration) -> Self {
        Self { socket: socket.into(), timeout, agent_version: Arc::default() }
    }

    /// The same client with another time-out.
    pub fn with_timeout(&self, timeout: Duration) -> Self {
        Self { timeout, ..self.clone() }
    }

    /// The agent's version, once it has answered anything; agents before 0.1.0 do not say it.
    pub fn agent_version(&self) -> Option<&str> {
        self.agent_version.get().map(String::as_str)
    }

    /// The socket it asks.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// GET; `query` is encoded here.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        self.ask(Method::GET, &target(path, query), Bytes::new()).await
    }

    /// POST with a JSON body.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Protocol {
            request: format!("POST {path}"),
            what: format!("the request has no JSON form: {error}"),
        })?;
        self.ask(Method::POST, path, body.into()).await
    }

    /// DELETE; `query` is encoded here.
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        self.ask(Method::DELETE, &target(path, query), Bytes::new()).await
    }

    /// GET without looking at the answer: for `/metrics` and `/readyz`, which are no JSON.
    ///
    /// # Errors
    /// Every [`ClientError`] but `Refused`: any status is a reply.
    pub async fn fetch(&self, path: &str) -> Result<Reply, ClientError> {
        self.exchange(Method::GET, path, Bytes::new()).await
    }

    async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        target: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let request = format!("{method} {target}");
        let reply = self.exchange(method, target, body).await?;
        understand(&request, &reply)
    }

    async fn exchange(&self, method: Method, target: &str, body: Bytes) -> Result<Reply, ClientError> {
        let request = format!("{method} {target}");
        let deadline = tokio::time::timeout(self.timeout, self.converse(method, target, body)).await;
        deadline.unwrap_or_else(|_| Err(ClientError::TimedOut { request, after: self.timeout }))
    }

    async fn converse(&self, method: Method, target: &str, body: Bytes) -> Result<Reply, ClientError> {
        let request = format!("{method} {target}");
        let protocol = |what: String| ClientError::Protocol { request: request.clone(), what };
        let lost =
            |source| ClientError::Lost { socket: self.socket.clone(), request: request.clone(), source };
        let message = Request::builder()
            .method(method)
            .uri(target)
            .header(header::HOST, "svc-agent")
            .header(header::CONTENT_TYPE, "application/json")
            .header(API_VERSION_HEADER, API_VERSION)
            .body(Full::new(body))
            .map_err(|error| protocol(format!("the request cannot be written: {error}")))?;
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|source| ClientError::NoAgent { socket: self.socket.clone(), source })?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        let talk = async {
            let answer = sender
                .send_request(message)
                .await
                .map_err(|error| if error.is_parse() { protocol(error.to_string()) } else { lost(error) })?;
            let status = answer.status().as_u16();
            if let Some(version) = answer.headers().get(AGENT_VERSION_HEADER).and_then(|it| it.to_str().ok())
            {
                self.agent_version.get_or_init(|| version.to_owned());
            }
            let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await;
            match body {
                Ok(body) => Ok(Reply { status, body: body.to_bytes() }),
                Err(error) => match error.downcast::<hyper::Error>() {
                    Ok(error) => Err(lost(*error)),
                    Err(error) => Err(protocol(error.to_string())),
                },
            }
        };
        // The connection moves the bytes; polled here, it ends with the request and needs no task of its own.
        tokio::pin!(talk);
        tokio::select! {
            reply = &mut talk => reply,
            _ = connection => talk.await,
        }
    }
}

/// From status and body to the result that was asked for.
fn understand<T: DeserializeOwned>(request: &str, reply: &Reply) -> Result<T, ClientError> {
    let protocol = |what: String| ClientError::Protocol { request: request.to_owned(), what };
    let success = StatusCode::from_u16(reply.status).is_ok_and(|status| status.is_success());
    if success {
        return serde_json::from_slice(&reply.body).map_err(|error| protocol(error.to_string()));
    }
    match serde_json::from_slice::<Failure>(&reply.body) {
        Ok(failure) => Err(ClientError::Refused(failure)),
        Err(_) => {
            let text: String = reply.text().chars().filter(|c| !c.is_control()).take(200).collect();
            Err(protocol(format!("status {} {text}", reply.status)))
        }
    }
}

impl ClientError {
    /// The error as the agent would have put it, with what to do next.
    pub fn failure(&self) -> Failure {
        let source = std::error::Error::source(self).map(|source| format!(": {source}")).unwrap_or_default();
        let told = |kind, hints: &[&str]| Failure {
            kind,
            message: format!("{self}{source}"),
            hints: hints.iter().map(|hint| (*hint).to_owned()).collect(),
        };
        match self {
            Self::NoAgent { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                told(FailureKind::Refused, &["the socket is root's: run this as root"])
            }
            Self::NoAgent { .. } => told(
                FailureKind::Refused,
                &[
                    "start it: svc-agent run --init on the first host, svc-agent run --join ADDR on the others",
                    "if its socket is elsewhere: --socket PATH",
                ],
            ),
            Self::Lost { .. } => told(
                FailureKind::Refused,
                &["ask again once it is back: svc-agent status", "the same command may be repeated"],
            ),
            Self::Refused(failure) => failure.clone(),
            // Whoever has just asked for the status is not helped by being sent there again.
            Self::TimedOut { request, .. } if request.ends_with(super::routes::STATUS) => told(
                FailureKind::TimedOut,
                &[
                    "see in its log what it is busy with (its standard error; under systemd: journalctl -u UNIT)",
                    "if it does not answer later either, restart it: forwarding goes on meanwhile",
                ],
            ),
            Self::TimedOut { .. } => told(
                FailureKind::TimedOut,
                &["wait longer with --timeout DUR", "see what it is busy with: svc-agent status"],
            ),
            Self::Protocol { .. } => told(
                FailureKind::Refused,
                &["command line and agent may be of different versions: compare them with svc-agent version"],
            ),
        }
    }
}

/// A request target: the path, and the query percent-encoded (RFC 3986, section 2.3 lists what may stay).
fn target(path: &str, query: &[(&str, &str)]) -> String {
    let mut target = path.to_owned();
    for (index, (name, value)) in query.iter().enumerate() {
        target.push(if index == 0 { '?' } else { '&' });
        encode(name, &mut target);
        target.push('=');
        encode(value, &mut target);
    }
    target
}

fn encode(text: &str, target: &mut String) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            target.push(char::from(byte));
        } else {
            target.push_str(&format!("%{byte:02X}"));
        }
    }
}

/// [`Client`] for plain threads; not to be used inside a tokio runtime.
#[derive(Debug)]
pub struct BlockingClient {
    client: Client,
    runtime: tokio::runtime::Runtime,
}

impl BlockingClient {
    /// Wraps a client with a runtime of its own.
    ///
    /// # Errors
    /// The system's, when it has no file descriptors left for a runtime.
    pub fn new(client: Client) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { client, runtime })
    }

    /// As [`Client::get`].
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, ClientError> {
        self.runtime.block_on(self.client.get(path, query))
    }

    /// As [`Client::post`].
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub fn post<B: Serialize + ?Sized, T: DeserializeOwned>(
        &self,
        path: &str,
        body: &B,
    ) -> Result<T, ClientError> {
        self.runtime.block_on(self.client.post(path, body))
    }

    /// As [`Client::delete`].
    ///
    /// # Errors
    /// Every [`ClientError`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str, query: &[(&str, &str)]) -> Result<T, ClientError> {
        self.runtime.block_on(self.client.delete(path, query))
    }

    /// As [`Client::fetch`].
    ///
    /// # Errors
    /// Every [`ClientError`] but `Refused`.
    pub fn fetch(&self, path: &str) -> Result<Reply, ClientError> {
        self.runtime.block_on(self.client.fetch(path))
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
pub(crate) mod tests;
