//! The API's server: routes to verbs, failures to status codes.
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::UnixListener;

use super::types::{
    Attach, Deregister, Detach, Done, Drain, Event, Failure, FailureKind, NetworkCreate, Register,
    ServiceSet, Version, Wait,
};
use super::{AGENT_VERSION_HEADER, API_VERSION, API_VERSION_HEADER, routes};
use crate::runtime::agent::{Agent, refused};
use crate::runtime::verbs::{self, attach::Caller};
use crate::runtime::{gather, start};

/// Longest long poll for events.
const POLL_MAX: Duration = Duration::from_secs(60);

/// The API's socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another agent answers there.
    #[error("another agent answers on {}; stop it first, or give --socket another path", .0.display())]
    InUse(PathBuf),
    /// The kernel refused.
    #[error("open the API socket {}", path.display())]
    Open {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
struct PeerInfo {
    pid: Option<u32>,
    uid: Option<u32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for PeerInfo {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let credentials = stream.io().peer_cred().ok();
        let pid = credentials.and_then(|it| it.pid()).and_then(|pid| u32::try_from(pid).ok());
        Self { pid, uid: credentials.map(|it| it.uid()) }
    }
}

impl PeerInfo {
    fn caller(&self) -> Caller {
        let show = |number: Option<u32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
        Caller { pid: self.pid, origin: format!("cli (uid {}, pid {})", show(self.uid), show(self.pid)) }
    }
}

/// Opens the socket for root alone. A socket file that nobody answers on is replaced.
///
/// # Errors
/// When another agent answers there, or the kernel refuses.
pub async fn open(path: &Path) -> Result<UnixListener, SocketError> {
    let failed = |source| SocketError::Open { path: path.to_owned(), source };
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(SocketError::InUse(path.to_owned()));
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(failed)?;
    }
    // Bound under another name, closed to others, then renamed: at no time can anybody else connect.
    let new = path.with_extension("new");
    drop(std::fs::remove_file(&new));
    let listener = UnixListener::bind(&new).map_err(failed)?;
    std::fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)?;
    Ok(listener)
}

/// Serves until the agent stops.
pub async fn serve(agent: Arc<Agent>, listener: UnixListener) {
    let mut stop = agent.stop.subscribe();
    let service = router(agent).into_make_service_with_connect_info::<PeerInfo>();
    let ended = axum::serve(listener, service)
        .with_graceful_shutdown(async move { drop(stop.wait_for(|stop| *stop).await) })
        .await;
    if let Err(error) = ended {
        tracing::error!("the API ended: {error}");
    }
}

/// Serves `/metrics` and `/readyz` for Prometheus until the agent stops.
pub async fn serve_metrics(agent: Arc<Agent>, listener: tokio::net::TcpListener) {
    let mut stop = agent.stop.subscribe();
    let router =
        Router::new().route(routes::METRICS, get(metrics)).route(routes::READY, get(ready)).with_state(agent);
    let ended = axum::serve(listener, router)
        .with_graceful_shutdown(async move { drop(stop.wait_for(|stop| *stop).await) })
        .await;
    if let Err(error) = ended {
        tracing::error!("the metrics listener ended: {error}");
    }
}

fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route(routes::NETWORKS, get(networks).post(network_create))
        .route(routes::NETWORK, get(network).delete(network_remove))
        .route(routes::ATTACHMENTS, get(attachments).post(attach))
        .route(routes::DETACH, post(detach))
        .route(routes::SERVICES, get(services).post(register))
        .route(routes::SERVICE, get(service).post(service_set))
        .route(routes::DEREGISTER, post(deregister))
        .route(routes::DRAIN, post(drain))
        .route(routes::NODES, get(nodes))
        .route(routes::NODE, axum::routing::delete(node_remove))
        .route(routes::STATUS, get(status))
        .route(routes::EVENTS, get(events))
        .route(routes::RESOLVE, get(resolve))
        .route(routes::VERSION, get(version))
        .route(routes::LEAVE, post(leave))
        .route(routes::METRICS, get(metrics))
        .route(routes::READY, get(ready))
        .layer(middleware::from_fn(versions))
        .with_state(agent)
}

/// Says in each answer who gives it, and does nothing for who speaks another API, but say its version.
async fn versions(request: Request, next: Next) -> Response {
    let asked =
        request.headers().get(API_VERSION_HEADER).and_then(|it| it.to_str().ok()?.parse::<u32>().ok());
    let about = [routes::VERSION, routes::METRICS, routes::READY].contains(&request.uri().path());
    let mut answer = match asked.filter(|asked| *asked != API_VERSION && !about) {
        Some(asked) => Refusal(other_api(asked)).into_response(),
        None => next.run(request).await,
    };
    answer.headers_mut().insert(AGENT_VERSION_HEADER, HeaderValue::from_static(crate::version()));
    answer.headers_mut().insert(API_VERSION_HEADER, HeaderValue::from(API_VERSION));
    answer
}

fn other_api(asked: u32) -> Failure {
    let own = crate::version();
    let what = format!(
        "the running agent is svc-agent {own} and speaks version {API_VERSION} of the API, this command speaks {asked}"
    );
    let hint = if asked > API_VERSION {
        "restart the agent with the program that is installed now; forwarding goes on meanwhile"
    } else {
        "use the command line of the agent's own version"
    };
    refused(what, &[hint])
}

/// A failure as an HTTP answer.
struct Refusal(Failure);

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Self {
        Self(failure)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = match self.0.kind {
            FailureKind::Refused => StatusCode::CONFLICT,
            FailureKind::Usage => StatusCode::UNPROCESSABLE_ENTITY,
            FailureKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        };
        (status, Json(self.0)).into_response()
    }
}

type Shared = State<Arc<Agent>>;
type From_ = ConnectInfo<PeerInfo>;
type Answer<T> = Result<Json<T>, Refusal>;

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    network: Option<String>,
    wait_ms: Option<u64>,
}

impl Named {
    fn wait(&self) -> Wait {
        self.wait_ms.map_or_else(Wait::default, |milliseconds| Wait { milliseconds })
    }
}

async fn networks(State(agent): Shared) -> impl IntoResponse {
    Json(verbs::queries::networks(&agent))
}

async fn network_create(
    State(agent): Shared,
    ConnectInfo(peer): From_,
    Json(request): Json<NetworkCreate>,
) -> Answer<Done> {
    Ok(Json(verbs::network::create(&agent, request, &peer.caller().origin).await?))
}

async fn network(State(agent): Shared, Query(named): Query<Named>) -> Answer<super::types::NetworkInfo> {
    let name = verbs::choose_network(&agent, Some(&named.name))?;
    let gone = || refused(format!("network {name} does not stand on this host"), &[]);
    Ok(Json(verbs::queries::network(&agent, &name).ok_or_else(gone)?))
}

async fn network_remove(
    State(agent): Shared,
    ConnectInfo(peer): From_,
    Query(named): Query<Named>,
) -> Answer<Done> {
    Ok(Json(verbs::network::remove(&agent, &named.name, named.wait(), &peer.caller().origin).await?))
}

async fn attachments(State(agent): Shared) -> impl IntoResponse {
    Json(verbs::queries::attachments(&agent))
}

async fn attach(State(agent): Shared, ConnectInfo(peer): From_, Json(request): Json<Attach>) -> Answer<Done> {
    Ok(Json(verbs::attach::attach(&agent, request, &peer.caller()).await?))
}

async fn detach(State(agent): Shared, ConnectInfo(peer): From_, Json(request): Json<Detach>) -> Answer<Done> {
    Ok(Json(verbs::detach::detach(&agent, request, &peer.caller().origin).await?))
}

async fn services(State(agent): Shared) -> impl IntoResponse {
    Json(verbs::queries::services(&agent))
}

async fn register(
    State(agent): Shared,
    ConnectInfo(peer): From_,
    Json(request): Json<Register>,
) -> Answer<Done> {
    Ok(Json(verbs::register::register(&agent, request, &peer.caller()).await?))
}

async fn service(State(agent): Shared, Query(named): Query<Named>) -> Answer<super::types::ServiceInfo> {
    let (network, name) = verbs::services::choose_service(&agent, named.network.as_deref(), &named.name)?;
    let gone = || refused(format!("service {name} has just been removed"), &[]);
    Ok(Json(verbs::queries::service(&agent, &network, &name).ok_or_else(gone)?))
}

async fn service_set(
    State(agent): Shared,
    ConnectInfo(peer): From_,
    Json(request): Json<ServiceSet>,
) -> Answer<Done> {
    Ok(Json(verbs::services::set(&agent, request, &peer.caller().origin).await?))
}

async fn deregister(
    State(agent): Shared,
    ConnectInfo(peer): From_,
    Json(request): Json<Deregister>,
) -> Answer<Done> {
    Ok(Json(verbs::services::deregister(&agent, request, &peer.caller().origin).await?))
}

async fn drain(State(agent): Shared, ConnectInfo(peer): From_, Json(request): Json<Drain>) -> Answer<Done> {
    Ok(Json(verbs::services::drain(&agent, request, &peer.caller().origin).await?))
}

async fn nodes(State(agent): Shared) -> impl IntoResponse {
    Json(verbs::queries::nodes(&agent))
}

async fn node_remove(
    State(agent): Shared,
    ConnectInfo(peer): From_,
    Query(named): Query<Named>,
) -> Answer<Done> {
    Ok(Json(verbs::node::remove(&agent, &named.name, named.wait(), &peer.caller().origin).await?))
}

async fn status(State(agent): Shared) -> impl IntoResponse {
    Json(verbs::queries::status(&agent).await)
}

#[derive(Debug, Deserialize)]
struct Poll {
    after: Option<u64>,
    wait_ms: Option<u64>,
}

async fn events(State(agent): Shared, Query(poll): Query<Poll>) -> Json<Vec<Event>> {
    let after = poll.after.unwrap_or_default();
    let limit = Duration::from_millis(poll.wait_ms.unwrap_or_default()).min(POLL_MAX);
    let mut last = agent.events.watch();
    let mut stop = agent.stop.subscribe();
    tokio::select! {
        _ = tokio::time::timeout(limit, last.wait_for(|last| *last > after)) => {}
        _ = stop.wait_for(|stop| *stop) => {}
    }
    Json(agent.events.after(after))
}

#[derive(Debug, Deserialize)]
struct Look {
    name: String,
    on: String,
    #[serde(rename = "type")]
    kind: Option<String>,
}

async fn resolve(State(agent): Shared, Query(look): Query<Look>) -> Answer<super::types::Resolved> {
    Ok(Json(verbs::queries::resolve(&agent, &look.name, &look.on, look.kind.as_deref())?))
}

async fn version(State(agent): Shared) -> Json<Version> {
    Json(Version {
        agent_version: crate::version().to_owned(),
        node: agent.identity.name.clone(),
        pid: std::process::id(),
    })
}

async fn leave(State(agent): Shared, ConnectInfo(peer): From_) -> Answer<super::types::Left> {
    Ok(Json(verbs::leave::leave(&agent, &peer.caller().origin).await?))
}

async fn metrics(State(agent): Shared) -> Response {
    let mut headers = HeaderMap::new();
    headers
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"));
    match gather::text(&agent) {
        Ok(text) => (headers, text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(agent): Shared) -> Response {
    match start::readiness(&agent) {
        Ok(()) => (StatusCode::OK, "ready\n").into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    fn ask(socket: &Path, headers: &str) -> String {
        let mut stream = UnixStream::connect(socket).unwrap();
        write!(stream, "POST /v1/leave HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_speaks_another_api_is_refused_and_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("agent.sock");
        let (done, mut was_done) = tokio::sync::mpsc::unbounded_channel();
        let leave = async move || done.send(()).map_or("not noted", |()| "done");
        let router = Router::new().route(routes::LEAVE, post(leave)).layer(middleware::from_fn(versions));
        let listener = UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move { axum::serve(listener, router).await });
        let asking = tokio::task::spawn_blocking(move || {
            let other = ask(&socket, &format!("{API_VERSION_HEADER}: {}\r\n", API_VERSION + 1));
            (other, ask(&socket, &format!("{API_VERSION_HEADER}: {API_VERSION}\r\n")), ask(&socket, ""))
        });
        let (other, same, silent) = asking.await.unwrap();
        assert!(other.starts_with("HTTP/1.1 409"), "{other}");
        assert!(other.contains(&format!("is svc-agent {}", env!("CARGO_PKG_VERSION"))), "{other}");
        assert!(other.contains("restart the agent"), "{other}");
        for answer in [&same, &silent] {
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            assert!(
                answer.contains(&format!("svc-agent-version: {}", env!("CARGO_PKG_VERSION"))),
                "{answer}"
            );
        }
        let mut count = 0;
        while was_done.try_recv().is_ok() {
            count += 1;
        }
        assert_eq!(count, 2, "the refused one was done");
    }
}
