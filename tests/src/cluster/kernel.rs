//! What the kernel holds in a place, as other tools tell it.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde_json::Value;

use super::Cluster;

/// Everything that an agent could leave in a namespace, without what the kernel numbers or counts itself.
const EVERYTHING: &str = r"
ip -o link show | sed -E 's/^[0-9]+: //; s/@[^:]*//' | cut -d' ' -f1 | sort
ip -o addr show | sed -E 's/^[0-9]+: //' | awk '{print $1, $2, $3}' | sort
ip route show table all | grep -v ' proto kernel ' | sort
ip rule show
nft list ruleset
cat /proc/sys/net/ipv4/ip_forward
ls /run/svc-agent
";

impl Cluster {
    /// Links, addresses, routes, rules, tables and sockets of a host or container.
    pub fn kernel_state(&self, place: &str) -> String {
        self.shell(place, EVERYTHING)
    }

    /// How many slots a VIP has in a container's table.
    pub fn slots(&self, container: &str, vip: IpAddr) -> usize {
        let text = self.shell(container, "nft list map ip svc-agent slots");
        text.matches(&format!("{vip} . ")).count()
    }

    /// The VIP table of a container: the replicas' addresses of each VIP, by its slots.
    pub fn vip_table(&self, container: &str) -> BTreeMap<IpAddr, BTreeSet<IpAddr>> {
        let text = self.shell(container, "nft -j list table ip svc-agent");
        let value: Value = serde_json::from_str(&text).expect("nft's JSON");
        let objects = value["nftables"].as_array().cloned().unwrap_or_default();
        let elements = |name: &str| -> Vec<Value> {
            let map = objects.iter().filter_map(|it| it.get("map")).find(|map| map["name"] == name);
            map.and_then(|map| map["elem"].as_array().cloned()).unwrap_or_default()
        };
        let address = |value: &Value| value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        let mut table: BTreeMap<IpAddr, BTreeSet<IpAddr>> = BTreeMap::new();
        for name in ["vips", "vip_ports"] {
            for element in elements(name) {
                let key = &element[0];
                let vip = address(key).or_else(|| address(&key["concat"][0]));
                table.entry(vip.expect("a VIP")).or_default();
            }
        }
        for element in elements("slots") {
            let (vip, replica) = (address(&element[0]["concat"][0]), address(&element[1]));
            let replicas = table.entry(vip.expect("a VIP")).or_default();
            replicas.insert(replica.unwrap_or_else(|| panic!("no address in {element}")));
        }
        table
    }
}
