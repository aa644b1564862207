//! Which namespace a request means.
use std::net::IpAddr;

use crate::api::types::{Failure, Place};
use crate::engine::{self, Container};
use crate::netns::{self, Resolved, Target};
use crate::runtime::agent::{Agent, chain, refused};
use crate::runtime::local::StoredPlace;
use crate::runtime::verbs::attach::Caller;

/// A place as a request names it and, of an engine's container, what its engine says of it, with its namespace's cookie.
#[derive(Clone, Debug)]
pub struct Located {
    place: Place,
    container: Option<(Container, u64)>,
    endpoint: Option<(String, Vec<IpAddr>)>,
}

impl Located {
    /// Asks the engines where that is theirs to know. It may take seconds, so no lock is held meanwhile.
    ///
    /// # Errors
    /// When no engine has such a container, or it has no namespace of its own.
    pub async fn find(agent: &Agent, place: &Place) -> Result<Self, Failure> {
        let container = match place {
            Place::Container(name) => Some(container(agent, name).await?),
            _ => None,
        };
        Ok(Self { place: place.clone(), container, endpoint: None })
    }

    /// The place of an endpoint of Docker's, which has its addresses already.
    pub(crate) fn of_endpoint(place: Place, id: String, addresses: Vec<IpAddr>) -> Self {
        Self { place, container: None, endpoint: Some((id, addresses)) }
    }

    /// Docker's endpoint with its addresses, if it is one.
    pub(super) fn endpoint(&self) -> Option<&(String, Vec<IpAddr>)> {
        self.endpoint.as_ref()
    }

    /// As it was named.
    pub fn asked(&self) -> &Place {
        &self.place
    }

    /// An attachment's name where none is given: that of the namespace.
    pub(super) fn name(&self, agent: &Agent) -> String {
        let text = match (&self.place, &self.container) {
            (_, Some((container, _))) => container.name.clone(),
            (Place::Container(name), None) => name.clone(),
            (Place::Netns(text), _) if text == "host" => agent.identity.name.clone(),
            (Place::Netns(text), _) => text.rsplit('/').next().unwrap_or(text).to_owned(),
            (Place::Pid(pid), _) => format!("pid-{pid}"),
            (Place::Caller, _) => "caller".to_owned(),
        };
        let label: String =
            text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
        label.trim_matches('-').to_owned()
    }

    /// Its namespace, as it is now.
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn resolve(&self, caller: &Caller) -> Result<Resolved, Failure> {
        let refuse = |error: netns::Error| {
            refused(
                chain(&error),
                &["namespaces that ip(8) knows: ip netns list", "or give --pid of a process inside it"],
            )
        };
        let target = match (&self.place, &self.container) {
            // An engine numbers processes as this host does, whoever asks.
            (_, Some((container, cookie))) => {
                let resolved = netns::resolve(&Target::Pid(container.pid), None).map_err(refuse)?;
                // It may have ended since, and its process's number be another's.
                return if resolved.namespace.cookie() == *cookie {
                    Ok(resolved)
                } else {
                    Err(ended(container))
                };
            }
            (Place::Container(name), None) => {
                return Err(refused(format!("where container {name} runs is not known"), &[]));
            }
            (Place::Netns(text), _) => Target::from_argument(text).map_err(refuse)?,
            (Place::Pid(pid), _) => Target::Pid(*pid),
            (Place::Caller, _) => {
                let pid = caller.pid.ok_or_else(|| refused("the caller's process is not known", &[]))?;
                return netns::of_peer(pid).map_err(refuse);
            }
        };
        netns::resolve(&target, caller.pid).map_err(refuse)
    }
}

/// Its namespace is that of its first process, if that is still the same once the namespace is known.
async fn container(agent: &Agent, name: &str) -> Result<(Container, u64), Failure> {
    let sockets = agent.settings.load().engine.clone();
    let found = engine::find(&sockets, name).await.map_err(|error| unknown(&error))?;
    let resolved = netns::resolve(&Target::Pid(found.pid), None).map_err(|_| ended(&found))?;
    let again = engine::find(&sockets, name).await.map_err(|error| unknown(&error))?;
    if again == found { Ok((found, resolved.namespace.cookie())) } else { Err(ended(&found)) }
}

fn ended(container: &Container) -> Failure {
    refused(format!("container {} has just ended or been restarted", container.name), &["try again"])
}

fn unknown(error: &engine::Error) -> Failure {
    let pid = "or give a process inside the container: --pid PID".to_owned();
    let hints = match error {
        engine::Error::NoName(_) => vec!["see what there is: docker ps, podman ps".to_owned()],
        engine::Error::NoEngine(_) => {
            vec!["name the engine's socket in the agent's setting \"engine\"".to_owned(), pid]
        }
        engine::Error::Unknown { .. } => vec!["see what there is: docker ps, podman ps".to_owned(), pid],
        engine::Error::NotRunning { name, .. } => vec![format!("start it first: docker start {name}")],
        engine::Error::OfHost(_) => vec!["attach the host itself: --netns host".to_owned()],
        engine::Error::Silent { .. } => vec!["see whether it runs: docker info, podman info".to_owned(), pid],
    };
    let hints: Vec<&str> = hints.iter().map(String::as_str).collect();
    refused(chain(error), &hints)
}

pub(super) fn stored(place: &netns::Place) -> StoredPlace {
    match place {
        netns::Place::Path { path, .. } => StoredPlace::Path(path.display().to_string()),
        netns::Place::Process { pid, .. } => StoredPlace::Pid(*pid),
        netns::Place::Host => StoredPlace::Host,
    }
}
