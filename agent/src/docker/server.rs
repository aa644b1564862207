//! The plugin socket. Every call is answered with status 200 and JSON; what is refused says why ([`answered`]).
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::socket::{self, Opened};
use super::{attaching, driver, ipam, wire};
use crate::runtime::agent::Agent;
use crate::runtime::events::lock;

/// A request is an endpoint's few facts.
const BODY_BYTES_MAX: usize = 256 * 1024;

/// Between two attempts to open the socket.
const OPEN_INTERVAL: Duration = Duration::from_secs(2);

type Answer = Result<Value, String>;

/// Serves Docker until the agent stops. A socket that cannot be opened is a problem of the host, and tried again.
pub async fn serve(agent: Arc<Agent>) {
    let path = agent.settings.load().docker_plugin.clone();
    if path.as_os_str().is_empty() {
        socket::forget(&agent);
        return;
    }
    let mut opened = loop {
        let opened = socket::open(&agent, &path).await;
        let problem = opened.as_ref().err().map(|why| format!("{}: {why}", path.display()));
        lock(&agent.problems).set("docker-plugin".to_owned(), problem, Instant::now());
        match opened {
            Ok(opened) => break opened,
            Err(why) => tracing::error!("Docker cannot be served at {}: {why}", path.display()),
        }
        tokio::time::sleep(OPEN_INTERVAL).await;
    };
    let alive = opened.take_alive();
    let listener = opened.listener;
    match listener.as_fd().try_clone_to_owned() {
        Ok(listener) => drop(tokio::spawn(Opened::keep(alive, Arc::clone(&agent), listener))),
        Err(error) => tracing::warn!("the plugin socket is not with the holder: {error}"),
    }
    attaching::resume(&agent);
    let mut stop = agent.stop.subscribe();
    let ended = axum::serve(listener, router(Arc::clone(&agent)))
        .with_graceful_shutdown(async move { drop(stop.wait_for(|stop| *stop).await) })
        .await;
    if let Err(error) = ended {
        tracing::error!("Docker's plugin socket ended: {error}");
    }
}

fn router(agent: Arc<Agent>) -> Router {
    Router::new()
        .route(
            "/Plugin.Activate",
            post(async || answered(Ok(json!({ "Implements": ["NetworkDriver", "IpamDriver"] })))),
        )
        .route(
            "/NetworkDriver.GetCapabilities",
            post(async || {
                // "global" is for Swarm's managers.
                answered(Ok(json!({ "Scope": "local", "ConnectivityScope": "global" })))
            }),
        )
        .route("/NetworkDriver.CreateNetwork", post(create_network))
        .route("/NetworkDriver.DeleteNetwork", post(delete_network))
        .route("/NetworkDriver.CreateEndpoint", post(create_endpoint))
        .route("/NetworkDriver.EndpointOperInfo", post(async || answered(Ok(json!({ "Value": {} })))))
        .route("/NetworkDriver.DeleteEndpoint", post(delete_endpoint))
        .route("/NetworkDriver.Join", post(join))
        .route("/NetworkDriver.Leave", post(leave))
        .route("/NetworkDriver.DiscoverNew", post(nothing))
        .route("/NetworkDriver.DiscoverDelete", post(nothing))
        .route("/NetworkDriver.ProgramExternalConnectivity", post(nothing))
        .route("/NetworkDriver.RevokeExternalConnectivity", post(nothing))
        .route(
            "/IpamDriver.GetCapabilities",
            post(async || {
                answered(Ok(json!({ "RequiresMACAddress": false, "RequiresRequestReplay": false })))
            }),
        )
        .route(
            "/IpamDriver.GetDefaultAddressSpaces",
            post(async || {
                answered(Ok(json!({
                    "LocalDefaultAddressSpace": super::DRIVER,
                    "GlobalDefaultAddressSpace": super::DRIVER,
                })))
            }),
        )
        .route("/IpamDriver.RequestPool", post(request_pool))
        .route("/IpamDriver.ReleasePool", post(nothing))
        .route("/IpamDriver.RequestAddress", post(request_address))
        .route("/IpamDriver.ReleaseAddress", post(release_address))
        .fallback(async || answered(Err("this driver does not know that call".to_owned())))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(agent)
}

/// Why not, in the word that calls about networks have for it, and in that of calls about addresses.
fn answered(answer: Answer) -> Json<Value> {
    Json(answer.unwrap_or_else(|why| json!({ "Err": why, "Error": why })))
}

/// Docker sends no content type that says JSON.
fn read<T: DeserializeOwned>(body: &Bytes) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| format!("the request cannot be read: {error}"))
}

async fn nothing() -> Json<Value> {
    answered(Ok(json!({})))
}

async fn create_network(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let done =
        read::<wire::CreateNetwork>(&body).and_then(|request| driver::create_network(&agent, &request));
    answered(done.map(|()| json!({})))
}

async fn delete_network(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let done = read::<wire::About>(&body).and_then(|request| driver::delete_network(&agent, &request));
    answered(done.map(|()| json!({})))
}

async fn create_endpoint(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let made =
        read::<wire::CreateEndpoint>(&body).and_then(|request| driver::create_endpoint(&agent, &request));
    answered(made.map(|mac| {
        let interface = wire::Interface { mac_address: mac.unwrap_or_default(), ..Default::default() };
        json!({ "Interface": interface })
    }))
}

async fn delete_endpoint(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let done = read::<wire::About>(&body).and_then(|request| driver::delete_endpoint(&agent, &request));
    answered(done.map(|()| json!({})))
}

async fn join(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let done = read::<wire::Join>(&body).and_then(|request| driver::join(&agent, &request));
    // The link is ours to put in; without this Docker would add one of its own as the way out.
    answered(done.map(|()| json!({ "DisableGatewayService": true })))
}

async fn leave(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let done = read::<wire::About>(&body).and_then(|request| driver::leave(&agent, &request));
    answered(done.map(|()| json!({})))
}

async fn request_pool(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let pool = read::<wire::RequestPool>(&body).and_then(|request| ipam::request_pool(&agent, &request));
    answered(pool.map(|(id, subnet)| json!({ "PoolID": id, "Pool": subnet.to_string(), "Data": {} })))
}

async fn request_address(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let request = read::<wire::Address>(&body);
    let given = match request {
        Ok(request) => ipam::request_address(&agent, &request).await,
        Err(why) => Err(why),
    };
    answered(given.map(|address| json!({ "Address": address, "Data": {} })))
}

async fn release_address(State(agent): State<Arc<Agent>>, body: Bytes) -> Json<Value> {
    let done = read::<wire::Address>(&body).and_then(|request| ipam::release_address(&agent, &request));
    answered(done.map(|()| json!({})))
}
