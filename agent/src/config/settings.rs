//! The settings, declared once.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnetwork::Ipv4Network;

use super::advertise::Advertise;
use super::check::Candidates;
use super::error::ConfigError;
use super::kinds::{self, LogFormat, Store, Track};

/// What is known of a setting beside its value.
#[derive(Debug)]
pub struct Setting {
    /// Its key in the file, and its flag with `--` in front.
    pub key: &'static str,
    /// Its doc comment, a line each.
    pub doc: &'static [&'static str],
    /// What to show for its value in a help text.
    pub placeholder: &'static str,
    /// Whether a running agent takes a new value (SIGHUP).
    pub reloadable: bool,
    /// Whether it takes several values.
    pub list: bool,
    /// Its default as one writes it in an environment variable.
    pub default: fn() -> String,
    /// Its default as one writes it in the file.
    pub default_toml: fn() -> String,
}

impl Setting {
    /// The first paragraph of its doc comment on one line, without the full stop.
    pub fn summary(&self) -> String {
        let lines = self.doc.iter().map(|line| line.trim()).take_while(|line| !line.is_empty());
        let text = lines.collect::<Vec<_>>().join(" ");
        text.strip_suffix('.').map(str::to_owned).unwrap_or(text)
    }
}

/// `field "key" PLACEHOLDER: type, kind = default, (reload | restart);`
macro_rules! settings {
    ($( $(#[doc = $doc:literal])+ $field:ident $key:literal $placeholder:literal: $type:ty, $kind:expr, = $default:expr, $when:ident; )+) => {
        /// The settings in force.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Settings {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        /// All settings in the order of the sample.
        pub static SETTINGS: &[Setting] = &[
            $( Setting {
                key: $key,
                doc: &[$($doc),+],
                placeholder: $placeholder,
                reloadable: settings!(@ $when),
                list: $kind.list,
                default: || ($kind.show)(&$default),
                default_toml: || $kind.toml(&$default),
            }, )+
        ];

        impl Settings {
            /// Every default; `node` and `holder_socket` are still empty, which loading fills.
            pub(super) fn defaults() -> Self {
                Self { $( $field: $default, )+ }
            }

            /// Reads every candidate, keeps the strongest of each setting, and collects what is wrong.
            pub(super) fn read(candidates: &Candidates, errors: &mut Vec<ConfigError>) -> Self {
                let mut settings = Self::defaults();
                $( candidates.read($key, &$kind, &mut settings.$field, errors); )+
                settings
            }

            /// `self` with the reloadable settings of `new`: what is in force after a reread.
            pub fn reloaded(&self, new: &Self) -> Self {
                let mut next = self.clone();
                $( if settings!(@ $when) { next.$field.clone_from(&new.$field); } )+
                next
            }

            /// Key and value of every setting, the value as one writes it in the file.
            pub fn table(&self) -> Vec<(&'static str, String)> {
                vec![ $( ($key, $kind.toml(&self.$field)), )+ ]
            }
        }
    };
    (@ reload) => { true };
    (@ restart) => { false };
}

settings! {
    /// Name of this host, for people; 1 to 253 letters, digits, hyphens, dots and underscores.
    /// Empty: the host's own name.
    node "node" "NAME": String, kinds::NODE, = String::new(), restart;

    /// Address or interface that the other hosts reach this one at: tunnel and gossip.
    /// Empty: the address of the default route's interface.
    advertise "advertise" "ADDR|IFACE": Option<Advertise>, kinds::ADVERTISE, = None, restart;

    /// File with the cluster's key, as `svc-agent keygen` prints it; the same on every host.
    key_file "key-file" "FILE": PathBuf, kinds::PATH, = PathBuf::from("/etc/svc-agent/cluster.key"), restart;

    /// Directory for what must outlive the agent: the node's identity, its facts, the last known catalog.
    state_dir "state-dir" "DIR": PathBuf, kinds::PATH, = PathBuf::from("/var/lib/svc-agent"), restart;

    /// Unix socket of the API.
    socket "socket" "PATH": PathBuf, kinds::PATH, = PathBuf::from(super::DEFAULT_SOCKET), restart;

    /// Unix socket of the holder, the process that keeps namespaces and resolver sockets open.
    /// Empty: hold.sock beside the API's socket.
    holder_socket "holder-socket" "PATH": PathBuf, kinds::PATH_OR_EMPTY, = PathBuf::new(), restart;

    /// Where Prometheus finds /metrics, as address and port; empty: nowhere.
    metrics "metrics" "ADDR:PORT": Option<SocketAddr>, kinds::METRICS, = Some(SocketAddr::from(([127, 0, 0, 1], 9472))), restart;

    /// UDP and TCP port of the cluster's frames.
    gossip_port "gossip-port" "N": u16, kinds::PORT, = 7946, restart;

    /// UDP port that this host's tunnel of clear networks receives on. To change it, start one host after the other with
    /// another: hosts send to where each receives, and take for a while what comes to the port before.
    vxlan_port "vxlan-port" "N": u16, kinds::PORT, = 4789, restart;

    /// UDP port of the tunnel of encrypted networks; the same on every host.
    encrypted_vxlan_port "encrypted-vxlan-port" "N": u16, kinds::PORT, = 14789, restart;

    /// How hosts learn of each other's state: gossip, which needs nothing else installed.
    store "store" "gossip|etcd://HOST:PORT[,...]": Store, kinds::STORE, = Store::Gossip, restart;

    /// Unix sockets of the container engines that are asked where a --container is, in this order; their API is Docker's.
    engine "engine" "PATH": Vec<PathBuf>, kinds::ENGINE, = kinds::engines(), reload;

    /// Unix socket where Docker finds its network driver "svc-agent"; empty: nowhere. Docker looks in /run/docker/plugins.
    docker_plugin "docker-plugin" "PATH": PathBuf, kinds::PATH_OR_EMPTY, = PathBuf::new(), restart;

    /// Name servers for names that are not ours, as ADDR or ADDR:PORT.
    /// Empty: those of the host's resolv.conf, followed while running.
    upstream "upstream" "ADDR": Vec<SocketAddr>, kinds::UPSTREAM, = Vec::new(), reload;

    /// Forwarded look-ups of one container that may be under way or wait, 1 to 65536; one more fails at once.
    forward_limit "forward-limit" "N": usize, kinds::FORWARD_LIMIT, = 1024, restart;

    /// For how long a name server's answer may serve after its time while none answers; 0s (not at all) to 1 day.
    serve_stale "serve-stale" "DUR": Duration, kinds::TTL, = Duration::ZERO, restart;

    /// Domain that this host's resolver answers for.
    domain "domain" "NAME": String, kinds::DOMAIN, = "svc.internal".to_owned(), restart;

    /// Range that a network without --subnet gets its subnet from.
    pool "pool" "CIDR": Ipv4Network, kinds::POOL, = kinds::network([10, 128, 0, 0], 9), restart;

    /// Range for the links between the networks' namespaces and the host's; seen on this host only.
    link_pool "link-pool" "CIDR": Ipv4Network, kinds::LINK_POOL, = kinds::network([169, 254, 240, 0], 20), restart;

    /// How long clients may keep a service's virtual address; 0s to 1 day, in whole seconds.
    ttl_vip "ttl-vip" "DUR": Duration, kinds::TTL, = Duration::from_secs(60), restart;

    /// How long clients may keep an answer that can change at any time, such as a container's address; 0s to 1 day.
    ttl_movable "ttl-movable" "DUR": Duration, kinds::TTL, = Duration::from_secs(2), restart;

    /// How long clients may keep the answer that there is no such name or type; 0s to 1 day.
    ttl_negative "ttl-negative" "DUR": Duration, kinds::TTL, = Duration::from_secs(2), restart;

    /// Which TCP and UDP flows of containers the kernel tracks: balanced, those with replicas of services, which may be
    /// balanced; or all. It is all in any case in a container that has rules of its own (nftables, iptables).
    track "track" "balanced|all": Track, kinds::TRACK, = Track::Balanced, restart;

    /// Whether look-ups and virtual addresses are tried every 1.5 s in the namespace of each container: on or off. One whose
    /// own rules forbid what is tried is a problem of this host.
    probes "probes" "on|off": bool, kinds::SWITCH, = true, restart;

    /// What is logged: error, warn, info, debug, trace or off, or a filter such as info,agent::catalog=debug.
    log "log" "FILTER": String, kinds::LOG, = "info".to_owned(), restart;

    /// How log lines look.
    log_format "log-format" "text|json": LogFormat, kinds::LOG_FORMAT, = LogFormat::Text, restart;

    /// Silence after which another host counts as failed and its replicas get no new flows; 1s to 5 minutes.
    failure_after "failure-after" "DUR": Duration, kinds::FAILURE_AFTER, = Duration::from_millis(3_500), restart;
}

impl Default for Settings {
    fn default() -> Self {
        let mut settings = Self::defaults();
        settings.fill();
        settings
    }
}
