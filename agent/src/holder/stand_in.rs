//! Answers Docker while no agent runs: at once, that there is none. Docker would wait 15 s for each of its calls, and not
//! start for minutes where many containers are on networks of ours.
//!
//! The agent leaves its plugin socket here with one end of a pipe whose other end it keeps. When that closes the agent has
//! ended. For a while calls wait in the socket for the next agent; then they are answered here.
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::table::Table;

/// The name of the plugin socket and the pipe.
pub const DOCKER_NAME: &str = "docker-plugin";
/// What Docker tells whoever asks it for such a container.
pub const REFUSAL: &str = "svc-agent does not run on this host; start it, and see its log";
/// How long calls wait for the next agent: an upgrade takes less.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long Docker may take to send its request.
const LIMIT: Duration = Duration::from_secs(2);
/// A request is an endpoint's few facts.
const REQUEST_BYTES_MAX: usize = 256 * 1024;
/// Until it is looked whether there is room for another call.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// Calls answered at once; more wait.
const AT_ONCE_MAX: usize = 16;

/// Whether the agent is away, and since when.
#[derive(Debug)]
pub(super) struct StandIn {
    grace: Duration,
    since: Option<Instant>,
    busy: Arc<AtomicUsize>,
}

/// What to wait for.
pub(super) enum Watch<'a> {
    /// Nobody left anything.
    Nothing,
    /// That the agent ends: its end of the pipe closes.
    End(&'a OwnedFd),
    /// That its time is over.
    Until(Instant),
    /// A call.
    Call(&'a OwnedFd),
}

impl StandIn {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, since: None, busy: Arc::default() }
    }

    /// Another agent has left its socket.
    pub(super) fn relieved(&mut self) {
        self.since = None;
    }

    /// The agent has ended.
    pub(super) fn ended(&mut self, now: Instant) {
        self.since = Some(now);
    }

    pub(super) fn watch<'a>(&self, table: &'a Table, now: Instant) -> Watch<'a> {
        let Some([listener, pipe]) = table.get(DOCKER_NAME) else { return Watch::Nothing };
        match self.since.map(|since| since + self.grace) {
            None => Watch::End(pipe),
            Some(until) if until > now => Watch::Until(until),
            Some(_) if self.busy.load(Ordering::Relaxed) >= AT_ONCE_MAX => Watch::Until(now + BUSY_PAUSE),
            Some(_) => Watch::Call(listener),
        }
    }

    /// Takes a call, and answers it on a thread of its own: a caller that dawdles delays nobody.
    pub(super) fn answer(&self, listener: &OwnedFd) {
        let Ok(listener) = listener.as_fd().try_clone_to_owned().map(UnixListener::from) else { return };
        let Ok((stream, _)) = listener.accept() else { return };
        let busy = Arc::clone(&self.busy);
        busy.fetch_add(1, Ordering::Relaxed);
        let work = move || {
            drop(serve(stream));
            busy.fetch_sub(1, Ordering::Relaxed);
        };
        if std::thread::Builder::new().name("stand-in".to_owned()).spawn(work).is_err() {
            self.busy.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(mut stream: UnixStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    let call = read_call(&mut stream)?;
    let body = answer_to(&call);
    let length = body.len();
    let kind = "application/vnd.docker.plugins.v1.1+json";
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// The name of the call: the path of a POST, with its whole body read.
fn read_call(stream: &mut impl Read) -> io::Result<String> {
    let too_long = || io::Error::from(io::ErrorKind::InvalidData);
    let (mut request, mut chunk) = (Vec::new(), [0; 4_096]);
    loop {
        if let Some((call, whole)) = parse(&request) {
            if request.len() >= whole {
                return Ok(call);
            }
            if whole > REQUEST_BYTES_MAX {
                return Err(too_long());
            }
        }
        if request.len() > REQUEST_BYTES_MAX {
            return Err(too_long());
        }
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => request.extend_from_slice(&chunk[..count]),
        }
    }
}

/// The call's name and how long the request is, once its head is there.
fn parse(request: &[u8]) -> Option<(String, usize)> {
    let end = request.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&request[..end]);
    let mut lines = head.lines();
    let call = lines.next()?.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    Some((call, end.saturating_add(4).saturating_add(length.unwrap_or(0))))
}

/// What ends goes through, so that Docker can end it; what begins does not. The agent finds out later what has ended.
fn answer_to(call: &str) -> String {
    match call {
        "Plugin.Activate" => r#"{"Implements":["NetworkDriver","IpamDriver"]}"#.to_owned(),
        "NetworkDriver.GetCapabilities" => r#"{"Scope":"local","ConnectivityScope":"global"}"#.to_owned(),
        "IpamDriver.GetCapabilities" => {
            r#"{"RequiresMACAddress":false,"RequiresRequestReplay":false}"#.to_owned()
        }
        "IpamDriver.GetDefaultAddressSpaces" => {
            r#"{"LocalDefaultAddressSpace":"svc-agent","GlobalDefaultAddressSpace":"svc-agent"}"#.to_owned()
        }
        "NetworkDriver.EndpointOperInfo" => r#"{"Value":{}}"#.to_owned(),
        "NetworkDriver.Leave"
        | "NetworkDriver.DeleteEndpoint"
        | "NetworkDriver.DeleteNetwork"
        | "NetworkDriver.DiscoverNew"
        | "NetworkDriver.DiscoverDelete"
        | "NetworkDriver.RevokeExternalConnectivity"
        | "IpamDriver.ReleasePool"
        | "IpamDriver.ReleaseAddress" => "{}".to_owned(),
        _ => format!(r#"{{"Err":"{REFUSAL}","Error":"{REFUSAL}"}}"#),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_read_whole_however_it_comes_in_pieces() {
        struct Pieces(Vec<Vec<u8>>);
        impl Read for Pieces {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let Some(piece) = self.0.pop() else { return Ok(0) };
                buffer[..piece.len()].copy_from_slice(&piece);
                Ok(piece.len())
            }
        }
        let text = "POST /NetworkDriver.Join HTTP/1.1\r\nHost: x\r\ncontent-length: 5\r\n\r\n{\"a\"}";
        for size in [1, 7, 500] {
            let mut pieces: Vec<Vec<u8>> = text.as_bytes().chunks(size).map(<[u8]>::to_vec).collect();
            pieces.reverse();
            assert_eq!(read_call(&mut Pieces(pieces)).unwrap(), "NetworkDriver.Join", "{size}");
        }
        assert!(
            read_call(&mut Pieces(vec![b"POST /x HTTP/1.1\r\nContent-Length: 9\r\n\r\n".to_vec()])).is_err()
        );
        let endless = "POST /x HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n";
        assert!(read_call(&mut Pieces(vec![endless.as_bytes().to_vec()])).is_err());
    }

    #[test]
    fn what_ends_goes_through_and_what_begins_is_refused() {
        for call in ["NetworkDriver.Leave", "IpamDriver.ReleaseAddress", "NetworkDriver.DeleteEndpoint"] {
            assert_eq!(answer_to(call), "{}");
        }
        for call in ["NetworkDriver.Join", "IpamDriver.RequestAddress", "NetworkDriver.CreateNetwork", "no"] {
            assert!(answer_to(call).contains(REFUSAL), "{call}");
        }
    }
}
