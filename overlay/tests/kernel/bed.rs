//! Hosts, containers and the switch between them, as network namespaces.
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use overlay::{
    Attachment, DefaultRoute, Desired, Host, Kernel, LinuxKernel, Mac, Network, Op, Peer, Phase, Reconciler,
    Remote, Report, Space, Subnet, network_port,
};

pub(crate) use crate::namespace::Namespace;

/// One host: its namespace, a reconciler, and what is wanted there.
pub(crate) struct Node {
    pub(crate) namespace: Namespace,
    pub(crate) address: IpAddr,
    pub(crate) reconciler: Reconciler<Arc<LinuxKernel>>,
    pub(crate) kernel: Arc<LinuxKernel>,
    pub(crate) desired: Desired,
    pub(crate) networks: BTreeMap<String, Namespace>,
    pub(crate) containers: BTreeMap<u64, Namespace>,
}

/// Hosts on one switch.
pub(crate) struct Bed {
    pub(crate) nodes: Vec<Node>,
    pub(crate) switch: Namespace,
    kernel: LinuxKernel,
    next_cookie: u64,
}

const SWITCH: &str = "switch";

impl Bed {
    /// So many hosts, 192.168.77.1 and on, underlay MTU 1500.
    pub(crate) async fn new(hosts: u8) -> Self {
        let switch = Namespace::new();
        let kernel = LinuxKernel::new();
        let space = Space::Network(SWITCH.to_owned());
        kernel.insert(space.clone(), switch.handles());
        let mut bed = Self { nodes: Vec::new(), switch, kernel, next_cookie: 1 };
        let bridge = Op::AddBridge { name: "br-u".to_owned(), mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500 };
        bed.apply(&space, bridge).await;
        bed.apply(&space, Op::StopSnooping { name: "br-u".to_owned() }).await;
        bed.apply(&space, Op::SetUp { name: "br-u".to_owned() }).await;
        for number in 1..=hosts {
            bed.add_node(number).await;
        }
        bed.introduce();
        bed
    }

    /// Two hosts with network "blue", and one container on each: 10.20.0.10 and 10.20.1.10.
    pub(crate) async fn pair() -> (Self, Namespace, Namespace) {
        let mut bed = Self::new(2).await;
        bed.network("blue", 4097, "10.20.0.0/16", false, &[0, 1]);
        let here = bed.member(0, "blue", "web1", "10.20.0.10");
        let there = bed.member(1, "blue", "web2", "10.20.1.10");
        bed.settle().await;
        (bed, here, there)
    }

    /// Every host knows every other one by its address.
    fn introduce(&mut self) {
        let everybody: BTreeSet<IpAddr> = self.nodes.iter().map(|node| node.address).collect();
        for node in &mut self.nodes {
            node.desired.host.address = node.address;
            node.desired.host.peers = everybody.clone();
            node.desired.host.peers.remove(&node.address);
        }
    }

    /// The hosts' tunnels run over IPv6: fd00:77::1 and on.
    pub(crate) async fn over_ipv6(&mut self) {
        for (number, node) in self.nodes.iter_mut().enumerate() {
            let address = format!("fd00:77::{}", number + 1).parse().unwrap();
            let with_length = ipnetwork::IpNetwork::new(address, 64).unwrap();
            node.tamper(&Space::Host, Op::AddAddress { name: "u0".to_owned(), address: with_length }).await;
            node.address = address;
        }
        self.introduce();
    }

    async fn apply(&self, space: &Space, op: Op) {
        self.kernel.apply(space, &op).await.unwrap_or_else(|error| panic!("{op}: {}", error.chain()));
    }

    async fn add_node(&mut self, number: u8) {
        let namespace = Namespace::new();
        let address = Ipv4Addr::new(192, 168, 77, number);
        self.plug(&namespace, number, address).await;
        let kernel = Arc::new(LinuxKernel::new());
        kernel.insert(Space::Host, namespace.handles());
        let host = Host {
            address: address.into(),
            vxlan_port: 4789,
            former_ports: BTreeSet::new(),
            other_ports: BTreeMap::new(),
            guarded_ports: BTreeSet::new(),
            peers: BTreeSet::new(),
            link_pool: "169.254.64.0/20".parse().unwrap(),
            offload: true,
        };
        self.nodes.push(Node {
            namespace,
            address: address.into(),
            reconciler: Reconciler::new(Arc::clone(&kernel)),
            kernel,
            desired: Desired { host, networks: BTreeMap::new(), paths: None },
            networks: BTreeMap::new(),
            containers: BTreeMap::new(),
        });
    }

    /// Joins a namespace to the underlay.
    pub(crate) async fn plug(&self, namespace: &Namespace, number: u8, address: Ipv4Addr) {
        let (switch, there) = (Space::Network(SWITCH.to_owned()), Space::Container(u64::from(number)));
        self.kernel.insert(there.clone(), namespace.handles());
        let name = format!("h{number}");
        let peer = Peer { space: there.clone(), name: "u0".to_owned(), mac: None };
        self.apply(&switch, Op::AddVeth { name: name.clone(), mtu: 1500, peer }).await;
        let controller = "br-u".to_owned();
        self.apply(&switch, Op::SetController { name: name.clone(), controller }).await;
        self.apply(&switch, Op::SetUp { name }).await;
        let network = ipnetwork::Ipv4Network::new(address, 24).unwrap();
        let address = Op::AddAddress { name: "u0".to_owned(), address: network.into() };
        self.apply(&there, address).await;
        self.apply(&there, Op::SetUp { name: "lo".to_owned() }).await;
        self.apply(&there, Op::SetUp { name: "u0".to_owned() }).await;
    }

    /// Makes a network wanted on these hosts.
    pub(crate) fn network(&mut self, name: &str, vni: u32, subnet: &str, internal: bool, hosts: &[usize]) {
        let cidr: ipnetwork::IpNetwork = subnet.parse().unwrap();
        let gateway = cidr.iter().nth(1).unwrap();
        for host in hosts {
            let node = &mut self.nodes[*host];
            let link_index = u16::try_from(node.desired.networks.len()).unwrap();
            let network = Network {
                vni,
                subnets: vec![Subnet { cidr, gateway }],
                mtu: 1450,
                internal,
                link_index,
                flood: BTreeSet::new(),
                remotes: Arc::default(),
                attachments: Arc::default(),
            };
            node.desired.networks.insert(name.to_owned(), network);
            let namespace = Namespace::new();
            node.kernel.insert(Space::Network(name.to_owned()), namespace.handles());
            node.networks.insert(name.to_owned(), namespace);
        }
        self.spread();
    }

    /// A new container on a host, not attached to anything.
    pub(crate) fn container(&mut self, host: usize) -> (Space, Namespace) {
        let namespace = Namespace::new();
        let space = Space::Container(self.next_cookie);
        self.nodes[host].kernel.insert(space.clone(), namespace.handles());
        self.nodes[host].containers.insert(self.next_cookie, namespace.clone());
        self.next_cookie += 1;
        (space, namespace)
    }

    /// Attaches a namespace; the MAC is made of the address, the metric is the order of attachment.
    pub(crate) fn attach(&mut self, host: usize, network: &str, name: &str, space: &Space, address: &str) {
        let networks = &mut self.nodes[host].desired.networks;
        let all = networks.values().flat_map(|network| network.attachments.values());
        let before = all.filter(|attachment| attachment.space == *space).count();
        let wanted = networks.get_mut(network).unwrap();
        let cidr = wanted.subnets[0].cidr;
        let ip: IpAddr = address.parse().unwrap();
        let never = *space == Space::Host || wanted.internal;
        let attachment = Attachment {
            space: space.clone(),
            addresses: vec![ipnetwork::IpNetwork::new(ip, cidr.prefix()).unwrap()],
            mac: mac_of(ip),
            default_route: if never { DefaultRoute::Never } else { DefaultRoute::IfNone },
            metric: u32::try_from(before).unwrap(),
            apart: false,
        };
        Arc::make_mut(&mut wanted.attachments).insert(name.to_owned(), attachment);
        self.spread();
    }

    /// Attaches a new container and answers its namespace.
    pub(crate) fn member(&mut self, host: usize, network: &str, name: &str, address: &str) -> Namespace {
        let (space, namespace) = self.container(host);
        self.attach(host, network, name, &space, address);
        namespace
    }

    /// What a catalog would do: every host learns of the others' attachments.
    pub(crate) fn spread(&mut self) {
        let mut remotes: BTreeMap<(String, usize), Vec<Arc<Remote>>> = BTreeMap::new();
        for (host, node) in self.nodes.iter().enumerate() {
            for (name, network) in &node.desired.networks {
                let known = network.attachments.values().map(|attachment| {
                    let addresses = attachment.addresses.iter().map(|address| address.ip()).collect();
                    Arc::new(Remote { mac: attachment.mac, addresses, vtep: node.address })
                });
                remotes.insert((name.clone(), host), known.collect());
            }
        }
        let vteps: Vec<IpAddr> = self.nodes.iter().map(|node| node.address).collect();
        for (host, node) in self.nodes.iter_mut().enumerate() {
            for (name, network) in &mut node.desired.networks {
                let others = remotes.iter().filter(|((of, at), _)| of == name && *at != host);
                network.flood = others.clone().map(|((_, at), _)| vteps[*at]).collect();
                network.remotes = Arc::new(others.flat_map(|(_, remotes)| remotes.clone()).collect());
            }
        }
    }

    /// Both phases on every host; no problem is expected.
    pub(crate) async fn settle(&mut self) {
        for phase in [Phase::Additions, Phase::Removals] {
            for node in &mut self.nodes {
                let report = node.reconciler.reconcile(&node.desired, phase).await;
                assert_eq!(report.problems, [], "{}", node.namespace.look());
            }
        }
    }
}

impl Node {
    /// Both phases here.
    pub(crate) async fn reconcile(&mut self) -> Report {
        let mut report = self.reconciler.reconcile(&self.desired, Phase::Additions).await;
        let removals = self.reconciler.reconcile(&self.desired, Phase::Removals).await;
        report.problems.extend(removals.problems);
        report.operations += removals.operations;
        report
    }

    /// Packets that a fence dropped, after a fresh look.
    pub(crate) async fn drops(&mut self, reason: &str) -> u64 {
        self.reconciler.verify(&self.desired).await;
        self.reconciler.drops().filter(|(_, label, _)| *label == reason).map(|(_, _, count)| count).sum()
    }

    /// Does something behind the reconciler's back.
    pub(crate) async fn tamper(&self, space: &Space, op: Op) {
        self.kernel.apply(space, &op).await.unwrap_or_else(|error| panic!("{op}: {}", error.chain()));
    }

    pub(crate) fn port(&self, attachment: &str) -> String {
        network_port(attachment)
    }
}

pub(crate) fn mac_of(ip: IpAddr) -> Mac {
    match ip {
        IpAddr::V4(four) => {
            let [a, b, c, d] = four.octets();
            Mac([2, 0x42, a, b, c, d])
        }
        IpAddr::V6(six) => {
            let [.., a, b, c, d] = six.octets();
            Mac([2, 0x66, a, b, c, d])
        }
    }
}
