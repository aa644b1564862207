//! The yardstick: the overlay as one makes it by hand with ip(8), on two hosts of the bed that run no agent.
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use agent::bed::Bed;
use agent::netns::Namespace;
use anyhow::{Result, ensure};

/// Hosts and containers, and what is theirs in the addresses below.
const SIDES: [(&str, &str, u8); 2] = [("m1", "mc", 11), ("m2", "ms", 12)];
/// The second host, on the underlay, where no table of ours is.
pub(crate) const UNDERLAY_SERVER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 12);
const LIMIT: Duration = Duration::from_secs(10);

/// A VXLAN device without learning, a bridge and a veth on each of two hosts, with static forwarding entries and
/// neighbours; the MTU is ours.
pub(crate) struct Handmade {
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    pub(crate) server_address: Ipv4Addr,
}

impl Handmade {
    pub(crate) fn build(bed: &mut Bed) -> Result<Self> {
        for (host, container, last) in SIDES {
            bed.host(host, format!("192.168.77.{last}/24").parse()?)?;
            bed.container(host, container)?;
        }
        for (index, (host, container, last)) in SIDES.into_iter().enumerate() {
            let (_, _, other) = SIDES[1 - index];
            run(bed, host, &host_script(&bed.full_name(container), last, other))?;
            run(bed, container, &container_script(last, other))?;
        }
        Ok(Self {
            client: bed.namespace("mc")?,
            server: bed.namespace("ms")?,
            server_address: Ipv4Addr::new(10, 200, 0, 12),
        })
    }
}

fn host_script(container: &str, own: u8, other: u8) -> String {
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

fn container_script(own: u8, other: u8) -> String {
    format!(
        "set -e
        ip addr add 10.200.0.{own}/24 dev eth0
        ip link set eth0 up
        ip neigh replace 10.200.0.{other} lladdr 02:4d:00:00:00:{other:02x} dev eth0 nud permanent"
    )
}

fn run(bed: &Bed, place: &str, script: &str) -> Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    let output = bed.output(place, command, LIMIT)?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the hand-made overlay cannot be made in {place}: {said}");
    Ok(())
}
