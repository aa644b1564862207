//! The yardsticks: the overlay as one makes it by hand with ip(8), on hosts of the bed that run no agent.
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use agent::bed::Bed;
use agent::netns::Namespace;
use anyhow::{Result, ensure};

/// The second host of [`Kind::Plain`], on the underlay, where no table of anybody is.
pub(crate) const UNDERLAY_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 12);
const LIMIT: Duration = Duration::from_secs(10);

/// What stands beside the overlay itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing: no netfilter anywhere.
    Plain,
    /// What egress and a resolver at 127.0.0.11 take: a masquerade on the hosts, a redirect in the containers, as
    /// container engines write them. So both track connections.
    Translated,
}

/// A VXLAN device without learning, a bridge and a veth on each of two hosts, with static forwarding entries and
/// neighbours; the MTU is ours.
pub(crate) struct Handmade {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    pub(crate) server_address: Ipv4Addr,
}

/// One of the two hosts.
struct Side {
    host: &'static str,
    container: &'static str,
    /// Last byte of its addresses.
    own: u8,
    /// That of the other side.
    other: u8,
}

impl Kind {
    fn sides(self) -> [Side; 2] {
        let side = |host, container, own, other| Side { host, container, own, other };
        match self {
            Self::Plain => [side("m1", "mc", 11, 12), side("m2", "ms", 12, 11)],
            Self::Translated => [side("m3", "nc", 13, 14), side("m4", "ns", 14, 13)],
        }
    }
}

impl Handmade {
    pub(crate) fn build(bed: &mut Bed, kind: Kind) -> Result<Self> {
        let sides = kind.sides();
        for Side { host, container, own, .. } in &sides {
            bed.host(host, format!("192.168.77.{own}/24").parse()?)?;
            bed.container(host, container)?;
        }
        for side in &sides {
            run(bed, side.host, &host_script(&bed.full_name(side.container), side))?;
            run(bed, side.container, &container_script(side))?;
            if kind == Kind::Translated {
                run(bed, side.host, MASQUERADE)?;
                run(bed, side.container, REDIRECT)?;
            }
        }
        let [client, server] = sides;
        Ok(Self {
            client: bed.namespace(client.container)?,
            server: bed.namespace(server.container)?,
            server_address: Ipv4Addr::new(10, 200, 0, server.own),
        })
    }
}

fn host_script(container: &str, side: &Side) -> String {
    let Side { own, other, .. } = side;
    // Frames between ports of a bridge pass iptables' tables by default; a careful hand turns that off.
    format!(
        "set -e
        [ ! -e /proc/sys/net/bridge ] || echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables
        ip link add vx0 type vxlan id 77 local 192.168.77.{own} dstport 4789 nolearning
        ip link add br0 type bridge mcast_snooping 0
        ip link set vx0 mtu 1450 master br0 up
        ip link set br0 mtu 1450 up
        ip link add v0 mtu 1450 type veth peer name eth0 mtu 1450 address 02:4d:00:00:00:{own:02x} netns {container}
        ip link set v0 master br0 up
        bridge fdb replace 02:4d:00:00:00:{other:02x} dev vx0 dst 192.168.77.{other} self permanent
        bridge fdb replace 02:4d:00:00:00:{other:02x} dev vx0 master static"
    )
}

fn container_script(side: &Side) -> String {
    let Side { own, other, .. } = side;
    format!(
        "set -e
        ip addr add 10.200.0.{own}/24 dev eth0
        ip link set eth0 up
        ip neigh replace 10.200.0.{other} lladdr 02:4d:00:00:00:{other:02x} dev eth0 nud permanent"
    )
}

const MASQUERADE: &str = "nft add table ip engine
    nft add chain ip engine out '{ type nat hook postrouting priority 100; }'
    nft add rule ip engine out ip saddr 10.200.0.0/24 oifname != br0 masquerade";
const REDIRECT: &str = "nft add table ip engine
    nft add chain ip engine out '{ type nat hook output priority -100; }'
    nft add rule ip engine out ip daddr 127.0.0.11 udp dport 53 dnat to 127.0.0.11:40053";

fn run(bed: &Bed, place: &str, script: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let output = bed.output(place, command, LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the hand-made overlay cannot be made in {place}: {said}");
    Ok(())
}
