//! Counters, for metrics.
use std::sync::atomic::{AtomicU64, Ordering};

/// A count that only grows while the process lives.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: usize) {
        self.0.fetch_add(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[doc = $help:literal])+ $name:ident,)*) => {
        /// What the transport has done and refused since its start.
        #[derive(Debug, Default)]
        pub struct Stats {
            $($(#[doc = $help])+ pub $name: Counter,)*
        }

        impl Stats {
            /// Every counter: name, help text, count.
            pub fn each(&self) -> Vec<(&'static str, &'static str, u64)> {
                vec![$((stringify!($name), concat!($($help),+).trim_ascii_start(), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Datagrams sent.
    datagrams_sent,
    /// Bytes of datagrams sent.
    datagram_bytes_sent,
    /// Datagrams received, of whatever kind.
    datagrams_received,
    /// Bytes of datagrams received.
    datagram_bytes_received,
    /// Datagrams that the system refused to send.
    datagram_errors,
    /// Gossip messages that went over a stream because they were too large for a datagram.
    gossip_streamed,
    /// Gossip messages dropped because a queue was full or a peer could not be reached.
    gossip_dropped,
    /// Times the gossip loop ended by itself and was started again.
    gossip_restarts,
    /// Frames dropped unopened: shorter than any frame.
    unopened_truncated,
    /// Frames dropped unopened: of another format version.
    unopened_version,
    /// Frames dropped unopened: of a kind that does not exist or is out of place.
    unopened_kind,
    /// Frames dropped unopened: sealed with a key that is not in the key file.
    unopened_unknown_key,
    /// Frames dropped unopened: forged, damaged, or of another cluster.
    unopened_bad_tag,
    /// Frames that opened but made no sense.
    malformed,
    /// Frames dropped: not made for this process; each may have been answered by a hello.
    not_fresh,
    /// Frames dropped: made for this process but taken before.
    replayed,
    /// Frames dropped: of an older start of their sender.
    stale_incarnation,
    /// Frames dropped: another process uses this host's node id.
    duplicate_identity,
    /// Frames dropped: two processes use one peer's node id in one incarnation.
    other_process,
    /// Frames dropped: their sender was removed from the cluster.
    forgotten_sender,
    /// Hellos sent.
    hellos_sent,
    /// Hellos received and believed.
    hellos_received,
    /// Notices of an unknown key sent, in clear.
    notices_sent,
    /// Notices of an unknown key received that named a frame of ours.
    notices_received,
    /// Notices received that named no frame of ours.
    notices_unmatched,
    /// Connections accepted and proven.
    connections_accepted,
    /// Connections refused or given up before they were proven.
    connections_refused,
    /// Connections dialled and proven.
    connections_dialled,
    /// Dials that failed.
    dial_failures,
    /// Bytes of stream records sent.
    stream_bytes_sent,
    /// Bytes of stream records received.
    stream_bytes_received,
    /// Requests sent.
    requests_sent,
    /// Requests that ended without an answer.
    request_errors,
    /// Requests handled for peers.
    requests_handled,
    /// Requests of peers refused, because of a limit.
    requests_refused,
}
