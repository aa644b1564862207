//! Capabilities that are a system call or a file.
use std::io;

use rustix::fs::inotify as notify;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::PidfdFlags;

use super::super::check::Lack;
use super::{Outcome, inside};
use crate::netns::Namespace;

pub(super) fn network_namespaces() -> Outcome {
    let made = Namespace::create().map_err(|error| Lack::chain(&error))?;
    // Entered again from the outside, as a container's is.
    made.run(|| ()).map_err(|error| Lack::chain(&error))?;
    Ok("made one and entered it".to_owned())
}

pub(super) fn cookie() -> Outcome {
    let own = Namespace::current().map_err(|error| Lack::chain(&error))?;
    Ok(format!("this host's own is {}", own.cookie()))
}

pub(super) fn pidfd() -> Outcome {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .map_err(|errno| Lack::of("pidfd_open", &errno.into()))?;
    Ok("opened one of this process".to_owned())
}

pub(super) fn inotify() -> Outcome {
    let file = notify::init(notify::CreateFlags::CLOEXEC | notify::CreateFlags::NONBLOCK)
        .map_err(|errno| Lack::of("inotify_init1", &errno.into()))?;
    notify::add_watch(&file, "/", notify::WatchFlags::DELETE_SELF)
        .map_err(|errno| Lack::of("inotify_add_watch", &errno.into()))?;
    Ok("watched a directory".to_owned())
}

/// Written where svc-agent writes it: `/proc/sys/net` shows the namespace of the thread that looks.
pub(super) fn sysctl() -> Outcome {
    inside(|| {
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")
            .map_err(|error| Lack::of("write net.ipv4.ip_forward in a scratch namespace", &error))?;
        Ok("set net.ipv4.ip_forward".to_owned())
    })
}

pub(super) fn packet_socket() -> Outcome {
    inside(|| {
        rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(|errno| Lack::of("socket(AF_PACKET)", &io::Error::from(errno)))?;
        Ok("opened one".to_owned())
    })
}
