//! The HTTP+JSON API on a unix socket: types, server, client.
pub mod client;
pub mod server;
pub mod types;
pub(crate) mod words;

/// Version of the API that this program speaks. It grows with a change after which an older command line would
/// misunderstand the agent, or be misunderstood; what is only added needs none.
pub const API_VERSION: u32 = 1;
/// Header of each answer: the agent's own version.
pub const AGENT_VERSION_HEADER: &str = "svc-agent-version";
/// Header of each request and answer: the version of the API that the sender speaks. An agent refuses a request with
/// another one; one that says none is taken to speak ours.
pub const API_VERSION_HEADER: &str = "svc-agent-api";

pub mod routes {
    //! Routes of the API; the client and the server share these constants.
    //!
    //! POST takes a JSON body, answers 200 with JSON or 4xx/5xx with [`super::types::Failure`].
    /// GET: list of `NetworkInfo`; POST `NetworkCreate` → `Done`.
    pub const NETWORKS: &str = "/v1/networks";
    /// GET `?name=` → `NetworkInfo`; DELETE `?name=&wait_ms=` → `Done`.
    pub const NETWORK: &str = "/v1/network";
    /// GET: list of `AttachmentInfo`; POST `Attach` → `Done`.
    pub const ATTACHMENTS: &str = "/v1/attachments";
    /// POST `Detach` → `Done`.
    pub const DETACH: &str = "/v1/detach";
    /// GET: list of `ServiceInfo`; POST `Register` → `Done`.
    pub const SERVICES: &str = "/v1/services";
    /// GET `?name=&network=` → `ServiceInfo`; POST `ServiceSet` → `Done`.
    pub const SERVICE: &str = "/v1/service";
    /// POST `Deregister` → `Done`.
    pub const DEREGISTER: &str = "/v1/deregister";
    /// POST `Drain` → `Done`.
    pub const DRAIN: &str = "/v1/drain";
    /// GET: list of `NodeInfo`.
    pub const NODES: &str = "/v1/nodes";
    /// DELETE `?name=` (name or id) → `Done`.
    pub const NODE: &str = "/v1/node";
    /// GET → `Status`.
    pub const STATUS: &str = "/v1/status";
    /// GET `?after=SEQUENCE&wait_ms=` → list of `Event`, long-polled.
    pub const EVENTS: &str = "/v1/events";
    /// GET `?name=&on=&type=` → `Resolved`.
    pub const RESOLVE: &str = "/v1/resolve";
    /// GET → `Version`.
    pub const VERSION: &str = "/v1/version";
    /// POST → `Left`; the agent ends afterwards.
    pub const LEAVE: &str = "/v1/leave";
    /// GET → Prometheus text.
    pub const METRICS: &str = "/metrics";
    /// GET → 200 when ready, 503 with the reason.
    pub const READY: &str = "/readyz";
}
