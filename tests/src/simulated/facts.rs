//! What simulated hosts say of themselves.
use std::net::{IpAddr, Ipv4Addr};

use agent::catalog::facts::{
    AttachmentFact, Health, Key, ReplicaFact, ServiceDefinition, ServiceSettings, Value,
};
use agent::model::{Name, Stamp};
use anyhow::Result;

/// The network that everything is on.
pub(super) const NETWORK: &str = "default";
/// Endpoints of host n begin at 10.0.0.0 + 1024 n, VIPs at 10.14.0.0 + 256 n.
pub(super) const SUBNET: &str = "10.0.0.0/12";

/// An attachment, a service of its own and its replica there.
pub(super) fn registration(number: u32, born: Stamp, index: u32, service: &str) -> Result<Vec<(Key, Value)>> {
    let (network, name): (Name, Name) = (NETWORK.parse()?, service.parse()?);
    let attachment = Key::Attachment { network: network.clone(), name: container(number, index)? };
    let [_, a, b, c] = (number * 1_024 + index).to_be_bytes();
    let attached = AttachmentFact {
        succeeds: Default::default(),
        addresses: vec![endpoint(number, index)],
        mac: format!("02:00:00:{a:02x}:{b:02x}:{c:02x}"),
        aliases: Vec::new(),
        since: born,
    };
    let vip = Ipv4Addr::from_bits(Ipv4Addr::new(10, 14, 0, 0).to_bits() + number * 256 + index);
    let definition = ServiceDefinition {
        revision: born,
        removed: false,
        vips: vec![vip.into()],
        settings: ServiceSettings::default(),
    };
    Ok(vec![
        (attachment, Value::Attachment(attached)),
        (Key::Service { network, name, born }, Value::Service(definition)),
        replica(number, index, service, 100)?,
    ])
}

pub(super) fn replica(number: u32, index: u32, service: &str, weight: u16) -> Result<(Key, Value)> {
    let key = Key::Replica {
        network: NETWORK.parse()?,
        service: service.parse()?,
        attachment: container(number, index)?,
    };
    let addresses = vec![endpoint(number, index)];
    Ok((key, Value::Replica(ReplicaFact { addresses, weight, health: Health::Serving })))
}

fn container(number: u32, index: u32) -> Result<Name> {
    Ok(format!("container-{number}-{index}").parse()?)
}

fn endpoint(number: u32, index: u32) -> IpAddr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 0, 0, 0).to_bits() + number * 1_024 + index).into()
}
