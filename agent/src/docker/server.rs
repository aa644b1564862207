//! The plugin socket. Every call is answered with status 200 and JSON; what is refused says why in `Err`.
use std::path::Path;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::routing::post;
use axum::{Json, Router};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::{attaching, driver, ipam, wire};
use crate::api;
use crate::runtime::agent::{Agent, chain};
use crate::runtime::events::lock;

/// A request is an endpoint's few facts.
const BODY_BYTES_MAX: usize = 256 * 1024;

type Answer = Result<Value, String>;

/// Serves Docker until the agent stops. A socket that cannot be opened is a problem of the host, not of its networks.
pub async fn serve(agent: Arc<Agent>) {
    let path = agent.settings.load().docker_plugin.clone();
    if path.as_os_str().is_empty() {
        return;
    }
    take_up(&agent);
    let listener = match open(&path).await {
        Ok(listener) => listener,
        Err(why) => {
            tracing::error!("Docker cannot be served at {}: {why}", path.display());
            return;
        }
    };
    attaching::resume(&agent);
    let mut stop = agent.stop.subscribe();
    let router = router(Arc::clone(&agent));
    let ended = axum::serve(listener, router)
        .with_graceful_shutdown(async move { drop(stop.wait_for(|stop| *stop).await) })
        .await;
    if let Err(error) = ended {
        tracing::error!("Docker's plugin socket ended: {error}");
    }
}

/// What Docker has of addresses is not given out again.
fn take_up(agent: &Agent) {
    let mut state = lock(&agent.state);
    let leases: Vec<_> = state.docker.leases().cloned().collect();
    for (network, address) in leases {
        state.leases.insert(&network, address);
    }
}

async fn open(path: &Path) -> Result<UnixListener, String> {
    api::server::open(path).await.map_err(|error| chain(&error))
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

fn answered(answer: Answer) -> Json<Value> {
    Json(answer.unwrap_or_else(|why| json!({ "Err": why })))
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
