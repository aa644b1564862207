//! The end by Ctrl-C.
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;

use tokio::signal::unix::{SignalKind, signal};

/// What a shell reports of a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;

/// Watches for SIGINT, SIGTERM and SIGHUP.
pub(super) struct Signals {
    /// A signal is the usual end, not an interruption.
    awaited: Arc<AtomicBool>,
}

/// From here on a signal ends the demo at once, whatever it is doing: this process is the first of its process
/// namespace, so the kernel ends every other one in it and frees their namespaces and mounts before the one that
/// waits outside learns of it.
pub(super) fn end_on_signal() -> io::Result<Signals> {
    let awaited = Arc::new(AtomicBool::new(false));
    let usual = Arc::clone(&awaited);
    let (ready, listening) = sync_channel(1);
    let listen = async move |report: &dyn Fn(io::Result<()>)| {
        let opened = (|| {
            let open = |kind| signal(kind);
            Ok((open(SignalKind::interrupt())?, open(SignalKind::terminate())?, open(SignalKind::hangup())?))
        })();
        let (mut interrupt, mut terminate, mut hang_up) = match opened {
            Ok(signals) => {
                report(Ok(()));
                signals
            }
            Err(error) => return report(Err(error)),
        };
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
        let usual = usual.load(Ordering::Relaxed);
        // The terminal may be what has gone.
        let _gone = writeln!(io::stderr(), "\nending: everything of the demo is being removed");
        std::process::exit(if usual { 0 } else { INTERRUPTED });
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        // Nobody listens any more only if the demo has ended.
        let report = |result| drop(ready.send(result));
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime.block_on(listen(&report)),
            Err(error) => report(Err(error)),
        }
    })?;
    listening.recv().map_err(|_| io::Error::other("the thread that listens has ended"))??;
    Ok(Signals { awaited })
}

impl Signals {
    /// Waits for the signal, which ends this process as done.
    pub(super) fn wait(&self) -> ! {
        self.awaited.store(true, Ordering::Relaxed);
        loop {
            std::thread::park();
        }
    }
}
