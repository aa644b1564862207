//! What Docker's engine asks of a network and address driver, and how it is answered: JSON over HTTP on a unix socket
//! (moby, libnetwork/docs/remote.md and ipam.md). Unknown fields are passed over; a refusal is an answer with `Err`.
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The driver's own options in a network's `Options`.
pub(super) const GENERIC: &str = "com.docker.network.generic";
/// The option of an address that says what it is for.
pub(super) const REQUEST_TYPE: &str = "RequestAddressType";
/// The kind of address that a gateway's is.
pub(super) const GATEWAY: &str = "com.docker.network.gateway";

/// NetworkDriver.CreateNetwork.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub network: String,
    pub options: BTreeMap<String, Value>,
}

/// Calls about a network or an endpoint that bring nothing else.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct About {
    #[serde(rename = "NetworkID")]
    pub network: String,
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
}

/// An endpoint's interface, as Docker wants it, or what a driver adds.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Interface {
    /// With its subnet's prefix length; empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
    /// As `address`, of IPv6.
    #[serde(rename = "AddressIPv6", skip_serializing_if = "String::is_empty")]
    pub address_six: String,
    /// Empty: the driver's choice.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
}

/// NetworkDriver.CreateEndpoint.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub network: String,
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
    pub interface: Option<Interface>,
}

/// NetworkDriver.Join.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Join {
    #[serde(rename = "EndpointID")]
    pub endpoint: String,
    /// Path of the namespace; nothing may be there yet.
    pub sandbox_key: String,
}

/// IpamDriver.RequestPool.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct RequestPool {
    pub pool: String,
    pub options: Option<BTreeMap<String, String>>,
    #[serde(rename = "V6")]
    pub six: bool,
}

/// IpamDriver.RequestAddress and ReleaseAddress.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub(super) struct Address {
    #[serde(rename = "PoolID")]
    pub pool: String,
    pub address: String,
    pub options: Option<BTreeMap<String, String>>,
}
