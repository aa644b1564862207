//! The API's answers in words. Pure.
use std::fmt::Display;
use std::time::{Duration, UNIX_EPOCH};

use serde_json::Value;

use super::table::{fields, table};
use crate::api::types::{
    AttachmentInfo, Done, Event, HostStatus, Left, NetworkInfo, NodeInfo, Problem, Resolved, ServiceInfo,
    Status,
};
use crate::api::words::{balance, check, mode, ports};
use crate::config::kinds::show_duration;

pub(super) fn changes(done: &Done) -> String {
    if done.changed.is_empty() {
        return "nothing to change".to_owned();
    }
    done.changed.iter().map(|line| format!("{}\n", super::console::clean(line))).collect()
}

pub(super) fn networks(networks: &[NetworkInfo]) -> String {
    let row = |network: &NetworkInfo| {
        vec![
            network.name.to_string(),
            network.vni.to_string(),
            joined(&network.subnets),
            network.mtu.to_string(),
            kind(network),
            joined(&network.hosts),
            network.attachments.to_string(),
            network.services.to_string(),
        ]
    };
    let head = ["NETWORK", "VNI", "SUBNETS", "MTU", "KIND", "HOSTS", "ATTACHMENTS", "SERVICES"];
    table(&head, networks.iter().map(row).collect())
}

pub(super) fn network(network: &NetworkInfo) -> String {
    let capacity = network.capacity.iter().map(|(what, of)| format!("{what} {} of {}", of.used, of.total));
    let mut text = fields(&[
        ("network", network.name.to_string()),
        ("vni", network.vni.to_string()),
        ("subnets", joined(&network.subnets)),
        ("gateways", joined(&network.gateways)),
        ("mtu", network.mtu.to_string()),
        ("kind", kind(network)),
        ("hosts", joined(&network.hosts)),
        ("attachments", network.attachments.to_string()),
        ("services", network.services.to_string()),
        ("in use", capacity.collect::<Vec<_>>().join(", ")),
        ("enter with", network.namespace.clone().unwrap_or_default()),
    ]);
    text.push_str(&problems(&network.problems));
    text
}

fn kind(network: &NetworkInfo) -> String {
    let encryption = if network.encrypted { "encrypted" } else { "clear" };
    if network.internal { format!("{encryption}, internal") } else { encryption.to_owned() }
}

pub(super) fn attachments(attachments: &[AttachmentInfo]) -> String {
    let row = |attachment: &AttachmentInfo| {
        vec![
            attachment.name.to_string(),
            attachment.network.to_string(),
            attachment.host.clone(),
            joined(&attachment.addresses),
            attachment.mac.clone(),
            attachment.interface.clone().unwrap_or_default(),
            joined(&attachment.aliases),
            if attachment.suspended { "suspended" } else { "live" }.to_owned(),
        ]
    };
    let head = ["ATTACHMENT", "NETWORK", "HOST", "ADDRESSES", "MAC", "INTERFACE", "ALIASES", "STATE"];
    table(&head, attachments.iter().map(row).collect())
}

/// What `attach` has to say of the attachment; nothing, if the answer holds none.
pub(super) fn attached(object: &Value) -> String {
    let Ok(attachment) = serde_json::from_value::<AttachmentInfo>(object.clone()) else {
        return String::new();
    };
    let mut text = fields(&[
        ("name", attachment.name.to_string()),
        ("network", attachment.network.to_string()),
        ("addresses", joined(&attachment.addresses)),
        ("interface", attachment.interface.clone().unwrap_or_default()),
    ]);
    if let Some(lines) = &attachment.resolv_conf {
        text.push_str("put into the container's /etc/resolv.conf, for names to resolve there:\n");
        for line in lines.lines() {
            text.push_str(&format!("  {}\n", super::console::clean(line)));
        }
    }
    text
}

pub(super) fn services(services: &[ServiceInfo]) -> String {
    let row = |service: &ServiceInfo| {
        let serving = service.replicas.iter().filter(|replica| replica.state == "serving").count();
        vec![
            service.name.to_string(),
            service.network.to_string(),
            mode(service.mode).to_owned(),
            joined(&service.vips),
            ports(&service.ports),
            joined(&service.aliases),
            format!("{serving} of {}", service.replicas.len()),
        ]
    };
    let head = ["SERVICE", "NETWORK", "MODE", "VIPS", "PORTS", "ALIASES", "SERVING"];
    table(&head, services.iter().map(row).collect())
}

pub(super) fn service(service: &ServiceInfo) -> String {
    let mut text = fields(&[
        ("service", service.name.to_string()),
        ("network", service.network.to_string()),
        ("mode", mode(service.mode).to_owned()),
        ("vips", joined(&service.vips)),
        ("ports", ports(&service.ports)),
        ("aliases", joined(&service.aliases)),
        ("spread", balance(service.balance).to_owned()),
        ("check", service.check.as_ref().map(check).unwrap_or_default()),
    ]);
    let rows = service.replicas.iter().map(|replica| {
        vec![
            replica.attachment.to_string(),
            replica.host.clone(),
            joined(&replica.addresses),
            replica.weight.to_string(),
            replica.state.clone(),
        ]
    });
    text.push_str(&table(&["REPLICA", "HOST", "ADDRESSES", "WEIGHT", "STATE"], rows.collect()));
    text.push_str(&problems(&service.problems));
    text
}

/// What `register` has to say of the service; nothing, if the answer holds none.
pub(super) fn registered(object: &Value) -> String {
    match serde_json::from_value::<ServiceInfo>(object.clone()) {
        Ok(found) => service(&found),
        Err(_) => String::new(),
    }
}

pub(super) fn nodes(nodes: &[NodeInfo]) -> String {
    let row = |node: &NodeInfo| {
        vec![
            node.name.clone(),
            node.id.to_string(),
            node.number.to_string(),
            node.address.to_string(),
            node.state.clone(),
            node.agent_version.clone(),
            node.head.clone(),
            node.attachments.to_string(),
            node.replicas.to_string(),
        ]
    };
    let head = ["HOST", "ID", "NUMBER", "ADDRESS", "STATE", "VERSION", "HEAD", "ATTACHMENTS", "REPLICAS"];
    table(&head, nodes.iter().map(row).collect())
}

pub(super) fn status(status: &Status) -> String {
    let verdict = if status.ok { "all is well" } else { "not all is well" };
    let mut text = fields(&[
        ("cluster", status.cluster.clone()),
        ("asked", format!("{} ({}), svc-agent {}", status.node, status.id, status.agent_version)),
        ("verdict", verdict.to_owned()),
    ]);
    let behind = |host: &HostStatus| {
        let one = |owner: &crate::api::types::Behind| {
            format!("{} at {} of {}", owner.owner, owner.applied, owner.known)
        };
        host.behind.iter().map(one).collect::<Vec<_>>().join(", ")
    };
    let row = |host: &HostStatus| {
        vec![
            host.name.clone(),
            host.id.to_string(),
            host.state.clone(),
            host.agent_version.clone(),
            behind(host),
            host.problems.len().to_string(),
        ]
    };
    text.push_str(&table(
        &["HOST", "ID", "STATE", "VERSION", "BEHIND", "PROBLEMS"],
        status.hosts.iter().map(row).collect(),
    ));
    for host in &status.hosts {
        for problem in &host.problems {
            text.push_str(&format!(
                "problem on {}: {}\n",
                super::console::clean(&host.name),
                problem_line(problem)
            ));
        }
    }
    for notice in &status.notices {
        text.push_str(&format!("notice: {}\n", super::console::clean(notice)));
    }
    text
}

fn problem_line(problem: &Problem) -> String {
    let since = show_duration(&Duration::from_secs(problem.seconds));
    let tried = match problem.attempts {
        0 => String::new(),
        1 => ", tried 1 time".to_owned(),
        attempts => format!(", tried {attempts} times"),
    };
    super::console::clean(&format!("{}: {} (for {since}{tried})", problem.object, problem.error))
}

pub(super) fn event(event: &Event) -> String {
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(event.time_ms));
    // humantime refuses what lies beyond the year 9999.
    let time = time.filter(|_| event.time_ms < 253_402_300_800_000).map(humantime::format_rfc3339_millis);
    let time = time.map_or_else(|| event.time_ms.to_string(), |time| time.to_string());
    super::console::clean(&format!("{time}  {:<10}  {}  ({})", event.subject, event.message, event.origin))
}

pub(super) fn resolved(resolved: &Resolved) -> String {
    let line = match resolved.code == Resolved::FORWARDED {
        true => format!("{}: {}", resolved.name, resolved.source),
        false => format!("{}: {}, from {}", resolved.name, resolved.code, resolved.source),
    };
    let mut text = super::console::clean(&line);
    text.push('\n');
    for record in &resolved.records {
        text.push_str(&format!("{}\n", super::console::clean(record)));
    }
    text
}

pub(super) fn left(left: &Left) -> String {
    let mut text: String =
        left.removed.iter().map(|line| format!("removed {}\n", super::console::clean(line))).collect();
    if left.removed.is_empty() {
        text.push_str("nothing was left to remove\n");
    }
    text
}

fn problems(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("problem: {}\n", super::console::clean(problem))).collect()
}

fn joined<T: Display>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
