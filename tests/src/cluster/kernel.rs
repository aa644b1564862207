//! What the kernel holds in a place, as other tools tell it.
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use agent::netns::Namespace;
use serde_json::Value;

use super::Cluster;
use crate::family::Family;

/// Everything that an agent could leave in a namespace, without what the kernel numbers or counts itself.
const EVERYTHING: &str = r"
ip -o link show | sed -E 's/^[0-9]+: //; s/@[^:]*//' | cut -d' ' -f1 | sort
ip -o addr show | sed -E 's/^[0-9]+: //' | awk '{print $1, $2, $3}' | sort
ip route show table all | grep -v ' proto kernel ' | sort
ip rule show
nft list ruleset || exit 1
cat /proc/sys/net/ipv4/ip_forward
ls /run/svc-agent
";

/// The same for a network's namespace, with what its bridge and tunnel forward. Counters, and MACs and link numbers that
/// the kernel picks, are left out.
const NETWORK: &str = r"
ip -o link show | sed -E 's/^[0-9]+: //; s/@[^:]*//; s/\\.*//; s/ (qlen|qdisc|group) [^ ]+//g' | sort
ip -o addr show scope global | sed -E 's/^[0-9]+: //; s/\.*//' | sort
ip route show table all | grep -v ' proto kernel ' | sort
bridge fdb show | grep -v ' master .* permanent$' | sed -E 's/ (extern_learn|offload)//g' | sort
ip neigh show nud permanent | sort
nft list ruleset | sed -E 's/counter packets [0-9]+ bytes [0-9]+/counter/; s/(([0-9a-f]{2}:){5}[0-9a-f]{2}) : [0-9]+/\1/g'
cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/bridge/bridge-nf-call-iptables
";

/// Runs a script in a namespace that has no name; what it printed.
pub fn shell_in(namespace: &Namespace, script: &str) -> String {
    let run = || std::process::Command::new("sh").args(["-c", script]).output();
    let output = namespace.run(run).expect("a namespace").expect("sh");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Everything that a network's namespace holds.
pub fn network_state(namespace: &Namespace) -> String {
    shell_in(namespace, NETWORK)
}

impl Cluster {
    /// Adds an address to the switch between the hosts, for servers outside.
    pub fn switch_address(&self, address: &str) {
        let add = format!("ip addr add {address} dev br-u nodad 2>&1 || ip addr add {address} dev br-u 2>&1");
        let said = shell_in(self.bed().switch(), &format!("({add}) && ip -o addr show dev br-u"));
        let bare = address.split('/').next().unwrap_or(address);
        assert!(said.contains(&format!(" {bare}/")), "{add}: {said}");
    }

    /// Links, addresses, routes, rules, tables and sockets of a host or container.
    pub fn kernel_state(&self, place: &str) -> String {
        self.shell(place, EVERYTHING)
    }

    /// The networks' own namespaces on all hosts, which have no names: the holders keep them.
    pub fn network_namespaces(&self) -> Vec<Namespace> {
        let processes = std::fs::read_dir("/proc").expect("processes").flatten();
        let files = processes.filter_map(|process| std::fs::read_dir(process.path().join("fd")).ok());
        let namespaces: BTreeMap<_, _> = files
            .flat_map(Iterator::flatten)
            .filter_map(|file| Some((std::fs::read_link(file.path()).ok()?, file.path())))
            .filter(|(target, _)| target.to_string_lossy().starts_with("net:["))
            .collect();
        // A file may have been closed meanwhile.
        let opened = namespaces.values().filter_map(|path| std::fs::File::open(path).ok());
        let opened = opened.filter_map(|file| Namespace::from_fd(OwnedFd::from(file)).ok());
        let links = || std::fs::read_to_string("/proc/thread-self/net/dev").unwrap_or_default();
        let has_tunnel = |links: &str| links.lines().any(|line| line.trim_start().starts_with("vxlan:"));
        opened.filter(|namespace| namespace.run(links).is_ok_and(|links| has_tunnel(&links))).collect()
    }

    /// How many slots a VIP has in a container's table.
    pub fn slots(&self, container: &str, vip: IpAddr) -> usize {
        let family = if vip.is_ipv4() { "ip" } else { "ip6" };
        let text = self.shell(container, &format!("nft list map {family} svc-agent slots"));
        text.matches(&format!("{vip} . ")).count()
    }

    /// The VIP table of a container, of the scenario's family: the replicas' addresses of each VIP, by its slots. A network's
    /// first address, with which the agent tries VIPs, is left out.
    pub fn vip_table(&self, container: &str) -> BTreeMap<IpAddr, BTreeSet<IpAddr>> {
        let family = Family::now().table();
        let text = self.shell(container, &format!("nft -j list table {family} svc-agent"));
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
        table.retain(|vip, _| !is_first(*vip));
        table
    }
}

/// Whether it is the first address of a /64, or of a subnet of whole octets.
fn is_first(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[3] == 0,
        IpAddr::V6(address) => address.segments()[4..] == [0; 4],
    }
}
