//! DNS over TCP (RFC 7766).
//!
//! A loop of our own in front of the same handler: hickory's takes any number of connections, and spins when the process is
//! out of file descriptors (read in 0.26.3).
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hickory_server::net::xfer::Protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::ServerSettings;
use super::handler::Handler;
use super::reply;
use super::request::{Parsed, parse};
use crate::stats::Outcome;

/// Pause after a failed accept (no file descriptor left, most often).
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Accepts until it is aborted; its connections end with it.
pub(super) async fn serve(listener: Arc<TcpListener>, handler: Arc<Handler>, settings: ServerSettings) {
    let permits = Arc::new(Semaphore::new(settings.limits.connections));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let handler = Arc::clone(&handler);
                connections.spawn(async move {
                    if let Err(error) = converse(stream, peer, &handler, settings.idle).await {
                        tracing::debug!(%peer, %error, "a TCP client's connection ended");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a TCP client of the resolver");
                sleep(ACCEPT_RETRY).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one query after the other until the client closes, is idle, or sends what is no query.
async fn converse(
    mut stream: TcpStream,
    peer: SocketAddr,
    handler: &Handler,
    idle: Duration,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    while let Some(query) = timeout(idle, read(&mut stream)).await?? {
        let Some(reply) = answer(&query, peer, handler).await else { return Ok(()) };
        timeout(idle, write(&mut stream, &reply)).await??;
    }
    Ok(())
}

/// One message; `None` at the end of the stream.
async fn read(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u16().await {
        Ok(length) => usize::from(length),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; length];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

/// Length and message in one write, so that they travel in one segment.
async fn write(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let Ok(length) = u16::try_from(message.len()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply exceeds 65,535 bytes"));
    };
    let mut frame = Vec::with_capacity(2 + message.len());
    frame.extend(length.to_be_bytes());
    frame.extend(message);
    stream.write_all(&frame).await
}

async fn answer(query: &[u8], peer: SocketAddr, handler: &Handler) -> Option<Vec<u8>> {
    match parse(query, peer, Protocol::Tcp) {
        Parsed::Nothing => None,
        Parsed::Malformed(reply) => {
            handler.stats().count(Outcome::Malformed);
            Some(reply)
        }
        Parsed::Request(request) => {
            let reply = handler.reply(&request).await;
            let bytes = reply::encode_stream(&request, &reply);
            bytes.inspect_err(|error| tracing::debug!(%error, "a reply could not be encoded")).ok()
        }
    }
}
