//! resolv.conf(5): the host's is read for upstreams, an attached namespace's is written.
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

#[cfg(test)]
mod tests;

/// Where an attached namespace asks.
pub const RESOLVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 11);

/// Port of DNS.
const PORT: u16 = 53;
/// Upstreams that are used; the libraries use three.
const SERVERS_MAX: usize = 8;
/// Search domains that glibc before 2.26 reads.
const SEARCH_MAX: usize = 6;
/// Bytes of the search list that musl reads (and glibc before 2.26): a longer line is ignored as a whole.
const SEARCH_BYTES_MAX: usize = 255;
/// Options that are kept.
const OPTIONS_MAX: usize = 16;

/// What a host's resolv.conf says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// Servers in order, at most eight, each once. Empty if none is usable: nothing is forwarded then.
    pub servers: Vec<SocketAddr>,
    /// Search domains in order, lower case, without trailing dots.
    pub search: Vec<String>,
    /// Options as written.
    pub options: Vec<String>,
    /// Servers that were left out: no address, one of a link that there is not, or 127.0.0.11 (ourselves, or an engine's
    /// resolver in another namespace).
    pub ignored: Vec<String>,
}

/// Reads a resolv.conf. Never fails: what is odd is left out, as the libraries do.
///
/// `index_of` tells the number of an interface that a link-local address is of (`fe80::1%eth0`), if there is such an
/// interface now.
pub fn parse_resolv_conf(text: &str, index_of: &dyn Fn(&str) -> Option<u32>) -> Upstreams {
    let mut upstreams = Upstreams::default();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().take_while(|word| !word.starts_with(['#', ';']));
        match words.next() {
            Some("nameserver") => add_server(&mut upstreams, words.next().unwrap_or_default(), index_of),
            // The last of these lines wins, whichever of the two words it has.
            Some("search") => upstreams.search = words.filter_map(domain).collect(),
            Some("domain") => upstreams.search = words.take(1).filter_map(domain).collect(),
            Some("options") => {
                let room = OPTIONS_MAX.saturating_sub(upstreams.options.len());
                upstreams.options.extend(words.filter(|word| printable(word)).take(room).map(str::to_owned));
            }
            _ => {}
        }
    }
    upstreams.search.truncate(SEARCH_MAX);
    upstreams
}

fn add_server(upstreams: &mut Upstreams, word: &str, index_of: &dyn Fn(&str) -> Option<u32>) {
    let Some(server) = server(word, index_of) else {
        if upstreams.ignored.len() < SERVERS_MAX && !word.is_empty() {
            upstreams.ignored.push(word.chars().take(80).collect());
        }
        return;
    };
    if !upstreams.servers.contains(&server) && upstreams.servers.len() < SERVERS_MAX {
        upstreams.servers.push(server);
    }
}

fn server(word: &str, index_of: &dyn Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Some((address, link)) = word.split_once('%') {
        let address: Ipv6Addr = address.parse().ok().filter(Ipv6Addr::is_unicast_link_local)?;
        let index = index_of(link).or_else(|| link.parse().ok()).filter(|index| *index > 0)?;
        return Some(SocketAddrV6::new(address, PORT, 0, index).into());
    }
    let address = word.parse().ok().filter(|address| usable(*address))?;
    // As connect(2) takes it. The answers come from the loopback address.
    let address = match address {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        address => address,
    };
    Some(SocketAddr::new(address, PORT))
}

fn usable(address: IpAddr) -> bool {
    let link_local = matches!(address, IpAddr::V6(address) if address.is_unicast_link_local());
    address.to_canonical() != IpAddr::V4(RESOLVER) && !link_local && !address.is_multicast()
}

/// A search domain, if it is one: `.` (what systemd-resolved writes for none) is not.
fn domain(word: &str) -> Option<String> {
    let name = word.trim_end_matches('.').to_ascii_lowercase();
    (!name.is_empty() && name.len() <= 253 && printable(&name)).then_some(name)
}

fn printable(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_graphic())
}

/// The resolv.conf of an attached namespace.
///
/// `networks` are the names of its networks in order of attachment, `domain` is ours; the host's search domains follow ours.
/// Search lists end at six domains and 255 bytes, which is what old libraries read; a name on a network beyond that still
/// resolves, since the resolver answers the bare name.
///
/// `ndots` is the host's if it sets one, else 1. Docker writes 0, with which musl never uses the search list (so a host's
/// short names fail on Alpine) and glibc sends every unknown single label upstream first. With 1 a name of ours costs one
/// query per family: `<name>` is found under the first search domain, `<name>.<network>` and longer as they stand.
pub fn render_resolv_conf(networks: &[&str], domain: &str, host: &Upstreams) -> String {
    let mut search: Vec<String> = Vec::new();
    let mut bytes = 0;
    let own = networks.iter().map(|network| format!("{network}.{domain}")).take(SEARCH_MAX - 1);
    let own = own.chain(std::iter::once(domain.to_owned()));
    for name in own.chain(host.search.iter().cloned()) {
        let grown = bytes + name.len() + 1;
        if search.len() < SEARCH_MAX && grown <= SEARCH_BYTES_MAX && !search.contains(&name) {
            bytes = grown;
            search.push(name);
        }
    }
    // What the host's resolver vouches for (trust-ad) is not for us to vouch for; rotation needs more than one server.
    let kept = |option: &&String| !matches!(option.as_str(), "trust-ad" | "rotate" | "inet6" | "debug");
    let mut options: Vec<String> = host.options.iter().filter(kept).cloned().collect();
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.insert(0, "ndots:1".to_owned());
    }
    let options = options.join(" ");
    format!(
        "# Written by svc-agent.\nnameserver {RESOLVER}\nsearch {}\noptions {options}\n",
        search.join(" ")
    )
}
