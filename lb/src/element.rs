//! What the table holds: chains, maps, and the elements in them, with their names and bytes.
use std::fmt;

use netfilter::{FieldType, Set, SetData, Verdict};

use crate::address::Address;

/// Slots of one service at most; weights are scaled down to fit.
pub const SLOTS_MAX: u16 = 1024;

/// Classes up to this size are made with the table. A rule that is added later to look up a map makes the kernel
/// walk all elements of the map (nf_tables_bind_set): 20 ms at 100,000 slots, nothing while the map is empty.
pub const FIXED_CLASS_MAX: u16 = 32;

/// A chain of the table. Its rules follow from its name alone, see [`crate::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Chain {
    /// Base chain: what this namespace sends.
    Output,
    /// Base chain: what comes from namespaces and machines inside this one.
    Prerouting,
    /// Base chain: what goes over `lo`, before it would be tracked.
    Local,
    /// Picks one of this many slots of a VIP, keeps the port.
    Class(u16),
    /// Picks one of this many slots, and translates the port.
    Ports(u16),
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Output => f.write_str("output"),
            Self::Prerouting => f.write_str("prerouting"),
            Self::Local => f.write_str("local"),
            Self::Class(slots) => write!(f, "class_{slots}"),
            Self::Ports(slots) => write!(f, "ports_{slots}"),
        }
    }
}

impl Chain {
    /// Chains that every table has, base chains last: what they go to is there first.
    pub fn fixed() -> impl Iterator<Item = Self> {
        let classes = (1..=FIXED_CLASS_MAX).flat_map(|slots| [Self::Class(slots), Self::Ports(slots)]);
        classes.chain([Self::Local, Self::Prerouting, Self::Output])
    }

    /// Whether every table has it.
    pub fn is_fixed(self) -> bool {
        match self {
            Self::Output | Self::Prerouting | Self::Local => true,
            Self::Class(slots) | Self::Ports(slots) => slots <= FIXED_CLASS_MAX,
        }
    }

    /// The chain of this name, if it may be one of ours.
    pub fn named(name: &str) -> Option<Self> {
        let number = |text: &str| text.parse().ok().filter(|slots| (1..=SLOTS_MAX).contains(slots));
        let chain = match name {
            "output" => Self::Output,
            "prerouting" => Self::Prerouting,
            "local" => Self::Local,
            _ => match name.split_once('_')? {
                ("class", slots) => Self::Class(number(slots)?),
                ("ports", slots) => Self::Ports(number(slots)?),
                _ => return None,
            },
        };
        (chain.to_string() == name).then_some(chain)
    }
}

/// A set or map of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Map {
    /// VIP → goto class.
    Vips,
    /// VIPs that have an element in `vips`: an instant's miss there is not to be refused.
    Served,
    /// VIP . protocol . port → goto ports.
    VipPorts,
    /// VIP . protocol . port → the replicas' port.
    Targets,
    /// VIP of a service with declared ports → goto class, for ICMP.
    Echo,
    /// VIP . slot → replica.
    Slots,
    /// Range of VIPs → the namespace's own address.
    Ranges,
    /// Address . protocol . port → another port of it.
    Redirects,
    /// The way back: the other port → the first.
    Answers,
    /// The protocols whose packets can be refused.
    Protocols,
}

impl Map {
    /// All maps, in the order they are made.
    pub const ALL: [Self; 10] = [
        Self::Vips,
        Self::Served,
        Self::VipPorts,
        Self::Targets,
        Self::Echo,
        Self::Slots,
        Self::Ranges,
        Self::Redirects,
        Self::Answers,
        Self::Protocols,
    ];

    /// Its name in the kernel.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Vips => "vips",
            Self::Served => "served",
            Self::VipPorts => "vip_ports",
            Self::Targets => "targets",
            Self::Echo => "echo",
            Self::Slots => "slots",
            Self::Ranges => "ranges",
            Self::Redirects => "redirects",
            Self::Answers => "answers",
            Self::Protocols => "protocols",
        }
    }

    /// Its shape in a table of the address's family.
    pub fn shape<A: Address>(self) -> Set<'static> {
        let address: &[FieldType] = const { &[A::FIELD] };
        let service = const { &[A::FIELD, FieldType::PROTOCOL, FieldType::PORT] };
        let (key, data): (&[FieldType], _) = match self {
            Self::Vips | Self::Echo => (address, SetData::Verdict),
            Self::Served => (address, SetData::None),
            Self::VipPorts => (service, SetData::Verdict),
            Self::Targets | Self::Redirects | Self::Answers => {
                (service, SetData::Value(const { &[FieldType::PORT] }))
            }
            Self::Slots => (const { &[A::FIELD, FieldType::MARK] }, SetData::Value(address)),
            Self::Ranges => (address, SetData::Value(address)),
            Self::Protocols => (const { &[FieldType::PROTOCOL] }, SetData::None),
        };
        Set { name: self.name(), key, data, interval: self == Self::Ranges, size_max: None }
    }
}

/// A VIP's port, or a redirected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Endpoint<A> {
    /// Address.
    pub address: A,
    /// IP protocol number.
    pub protocol: u8,
    /// Port.
    pub port: u16,
}

/// One element of one of the maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Element<A> {
    /// New flows to the VIP take one of `slots`.
    Vip {
        /// The VIP.
        vip: A,
        /// Slots of its class.
        slots: u16,
    },
    /// The VIP has a `Vip`.
    Served {
        /// The VIP.
        vip: A,
    },
    /// New flows to the VIP's port take one of `slots`.
    VipPort {
        /// VIP and port.
        at: Endpoint<A>,
        /// Slots of its class.
        slots: u16,
    },
    /// The replicas' port for a VIP's port.
    Target {
        /// VIP and port.
        at: Endpoint<A>,
        /// The replicas' port.
        port: u16,
    },
    /// ICMP to the VIP takes one of `slots`.
    Echo {
        /// The VIP.
        vip: A,
        /// Slots of its class.
        slots: u16,
    },
    /// A slot of a VIP.
    Slot {
        /// The VIP.
        vip: A,
        /// From 0.
        slot: u16,
        /// Whom it leads to.
        replica: A,
    },
    /// A range of VIPs.
    Range {
        /// First address.
        first: A,
        /// Last address, included.
        last: A,
        /// Where its packets are refused.
        own: A,
    },
    /// A redirect of one protocol.
    Redirect {
        /// What clients use.
        at: Endpoint<A>,
        /// The port at which it is answered.
        port: u16,
    },
    /// What comes back from where a redirect leads.
    Answer {
        /// Where it is answered.
        at: Endpoint<A>,
        /// The port that clients use.
        port: u16,
    },
}

impl<A: Address> Element<A> {
    /// The map that it is in.
    pub fn map(&self) -> Map {
        match self {
            Self::Vip { .. } => Map::Vips,
            Self::Served { .. } => Map::Served,
            Self::VipPort { .. } => Map::VipPorts,
            Self::Target { .. } => Map::Targets,
            Self::Echo { .. } => Map::Echo,
            Self::Slot { .. } => Map::Slots,
            Self::Range { .. } => Map::Ranges,
            Self::Redirect { .. } => Map::Redirects,
            Self::Answer { .. } => Map::Answers,
        }
    }

    /// Its key as the kernel has it; for a range its first address. Replaces what is in `out`.
    pub fn write_key(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Vip { vip, .. } | Self::Served { vip } | Self::Echo { vip, .. } => vip.write(out),
            Self::VipPort { at, .. }
            | Self::Target { at, .. }
            | Self::Redirect { at, .. }
            | Self::Answer { at, .. } => {
                at.address.write(out);
                out.extend_from_slice(&[at.protocol, 0, 0, 0]);
                write_port(at.port, out);
                out.extend_from_slice(&[0, 0]);
            }
            Self::Slot { vip, slot, .. } => {
                vip.write(out);
                out.extend_from_slice(&u32::from(*slot).to_ne_bytes());
            }
            Self::Range { first, .. } => first.write(out),
        }
    }

    /// Its value's bytes; none for a verdict and for a set's element. Replaces what is in `out`.
    pub fn write_value(&self, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Target { port, .. } | Self::Redirect { port, .. } | Self::Answer { port, .. } => {
                write_port(*port, out);
            }
            Self::Slot { replica, .. } => replica.write(out),
            Self::Range { own, .. } => own.write(out),
            Self::Vip { .. } | Self::Served { .. } | Self::VipPort { .. } | Self::Echo { .. } => {}
        }
    }

    /// Reads an element of any map but `ranges` and `protocols`. `None` if no plan of ours can have made it.
    pub fn read(map: Map, element: &netfilter::Element<'_>) -> Option<Self> {
        let vip = A::read(element.key)?;
        let rest = element.key.get(A::FIELD.length as usize..)?;
        match map {
            Map::Served => Some(Self::Served { vip }),
            Map::Vips => match class_of(element)? {
                Chain::Class(slots) => Some(Self::Vip { vip, slots }),
                _ => None,
            },
            Map::Echo => match class_of(element)? {
                Chain::Class(slots) => Some(Self::Echo { vip, slots }),
                _ => None,
            },
            Map::VipPorts => match class_of(element)? {
                Chain::Ports(slots) => Some(Self::VipPort { at: read_endpoint(vip, rest)?, slots }),
                _ => None,
            },
            Map::Targets => {
                Some(Self::Target { at: read_endpoint(vip, rest)?, port: read_port(element.data)? })
            }
            Map::Slots => {
                let slot = u32::from_ne_bytes(rest.try_into().ok()?);
                let slot = u16::try_from(slot).ok().filter(|slot| *slot < SLOTS_MAX)?;
                Some(Self::Slot { vip, slot, replica: A::read(element.data)? })
            }
            Map::Redirects => {
                Some(Self::Redirect { at: read_endpoint(vip, rest)?, port: read_port(element.data)? })
            }
            Map::Answers => {
                Some(Self::Answer { at: read_endpoint(vip, rest)?, port: read_port(element.data)? })
            }
            Map::Ranges | Map::Protocols => None,
        }
    }
}

fn class_of(element: &netfilter::Element<'_>) -> Option<Chain> {
    match element.verdict.as_ref()? {
        Verdict::Goto(name) => Chain::named(name),
        _ => None,
    }
}

fn write_port(port: u16, out: &mut Vec<u8>) {
    out.extend_from_slice(&port.to_be_bytes());
}

fn read_port(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

fn read_endpoint<A>(address: A, rest: &[u8]) -> Option<Endpoint<A>> {
    Some(Endpoint { address, protocol: *rest.first()?, port: read_port(rest.get(4..)?)? })
}

impl<A: Copy> Element<A> {
    /// The chain that its verdict goes to.
    pub fn chain(&self) -> Option<Chain> {
        match self {
            Self::Vip { slots, .. } | Self::Echo { slots, .. } => Some(Chain::Class(*slots)),
            Self::VipPort { slots, .. } => Some(Chain::Ports(*slots)),
            _ => None,
        }
    }

    /// The same element with addresses of another kind; `None` if one of them has no such form.
    pub fn convert<B>(&self, form: impl Fn(A) -> Option<B>) -> Option<Element<B>> {
        let endpoint = |at: Endpoint<A>| {
            Some(Endpoint { address: form(at.address)?, protocol: at.protocol, port: at.port })
        };
        Some(match *self {
            Self::Vip { vip, slots } => Element::Vip { vip: form(vip)?, slots },
            Self::Served { vip } => Element::Served { vip: form(vip)? },
            Self::VipPort { at, slots } => Element::VipPort { at: endpoint(at)?, slots },
            Self::Target { at, port } => Element::Target { at: endpoint(at)?, port },
            Self::Echo { vip, slots } => Element::Echo { vip: form(vip)?, slots },
            Self::Slot { vip, slot, replica } => {
                Element::Slot { vip: form(vip)?, slot, replica: form(replica)? }
            }
            Self::Range { first, last, own } => {
                Element::Range { first: form(first)?, last: form(last)?, own: form(own)? }
            }
            Self::Redirect { at, port } => Element::Redirect { at: endpoint(at)?, port },
            Self::Answer { at, port } => Element::Answer { at: endpoint(at)?, port },
        })
    }
}
