//! What container engines say of a container: Docker, and Podman, whose socket speaks Docker's API.
//!
//! An engine is asked for where a container is, never whether one may be attached: it may be away, and what is attached stays.
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::errors::Error as EngineError;
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::{API_DEFAULT_VERSION, Docker};

/// How long an engine may take: one that is just starting answers nothing.
const LIMIT: Duration = Duration::from_secs(2);
/// Docker's longest name has no bound of its own; a path of its API does.
const NAME_BYTES_MAX: usize = 255;

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    /// Its name at the engine, without the slash in front.
    pub name: String,
    /// Its first process, as the engine numbers it.
    pub pid: u32,
}

/// Why a container's namespace is not known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No engine could call a container so.
    #[error("\"{}\" is no name or id of a container", .0.escape_default())]
    NoName(String),
    /// None of the sockets is there.
    #[error("no container engine is there to be asked: {}", list(.0))]
    NoEngine(Vec<PathBuf>),
    /// None of those asked knows it.
    #[error("no container engine knows {name} (asked: {})", list(asked))]
    Unknown {
        /// As it was asked for.
        name: String,
        /// The engines' sockets.
        asked: Vec<PathBuf>,
    },
    /// It has no process, so it has no namespace either.
    #[error("container {name} does not run: it is {status}")]
    NotRunning {
        /// Its name at the engine.
        name: String,
        /// The engine's word.
        status: String,
    },
    /// It has no network namespace of its own.
    #[error("container {0} is on the host's own network")]
    OfHost(String),
    /// An engine does not answer, or not in words that are known here.
    #[error("the container engine at {} does not answer: {why}", socket.display())]
    Silent {
        /// Its socket.
        socket: PathBuf,
        /// What happened.
        why: String,
    },
}

fn list(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "the setting \"engine\" names none".to_owned();
    }
    paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
}

/// Finds a running container by its name, its id or the beginning of that, at the first engine that knows it.
///
/// # Errors
/// When none knows it, it does not run, or an engine that could know it does not answer: whether it means another
/// container than a later engine would is not known then.
pub async fn find(sockets: &[PathBuf], name: &str) -> Result<Container, Error> {
    if !is_name(name) {
        return Err(Error::NoName(name.to_owned()));
    }
    let mut asked = Vec::new();
    for socket in sockets.iter().filter(|socket| socket.exists()) {
        asked.push(socket.clone());
        let silent = |why: String| Error::Silent { socket: socket.clone(), why };
        let answer = tokio::time::timeout(LIMIT, inspect(socket, name)).await;
        match answer.map_err(|_| silent(format!("nothing came within {} s", LIMIT.as_secs())))? {
            Ok(found) => return running(name, found),
            Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => {}
            Err(error) => return Err(silent(crate::runtime::agent::chain(&error))),
        }
    }
    if asked.is_empty() {
        return Err(Error::NoEngine(sockets.to_vec()));
    }
    Err(Error::Unknown { name: name.to_owned(), asked })
}

async fn inspect(socket: &Path, name: &str) -> Result<ContainerInspectResponse, EngineError> {
    let docker = Docker::connect_with_unix(&socket.to_string_lossy(), LIMIT.as_secs(), API_DEFAULT_VERSION)?;
    // Old engines refuse a newer API than theirs, new ones an old one.
    docker.negotiate_version().await?.inspect_container(name, None).await
}

/// What engines take for a name (`[a-zA-Z0-9][a-zA-Z0-9_.-]*`); nothing else may become part of a request's path.
fn is_name(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    text.len() <= NAME_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(inside)
}

fn running(asked: &str, found: ContainerInspectResponse) -> Result<Container, Error> {
    let name = found.name.as_deref().map_or(asked, |name| name.trim_start_matches('/')).to_owned();
    let state = found.state.unwrap_or_default();
    let pid = state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0);
    let Some(pid) = pid.filter(|_| state.running == Some(true)) else {
        let status = state.status.unwrap_or(ContainerStateStatusEnum::EMPTY).to_string();
        let status = if status.is_empty() { "not running".to_owned() } else { status };
        return Err(Error::NotRunning { name, status });
    };
    let mode = found.host_config.and_then(|config| config.network_mode);
    if mode.as_deref() == Some("host") {
        return Err(Error::OfHost(name));
    }
    Ok(Container { name, pid })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(json: serde_json::Value) -> ContainerInspectResponse {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn names_are_those_that_engines_give() {
        for name in ["shop", "shop_1", "a.b-c", "4f5e0d", "Web"] {
            assert!(is_name(name), "{name}");
        }
        for name in ["", "-shop", "../images", "shop/json?x=", "a b", "é", "shop%2f", &"a".repeat(256)] {
            assert!(!is_name(name), "{name}");
        }
    }

    #[test]
    fn a_container_is_told_by_its_name_and_first_process() {
        let state = serde_json::json!({ "Status": "running", "Running": true, "Pid": 4711 });
        let found = container(serde_json::json!({ "Id": "4f5e", "Name": "/shop", "State": state }));
        assert_eq!(running("4f5e", found).unwrap(), Container { name: "shop".to_owned(), pid: 4711 });
    }

    #[test]
    fn what_has_no_namespace_of_its_own_is_refused() {
        let state = serde_json::json!({ "Status": "exited", "Running": false, "Pid": 0 });
        let ended = running("shop", container(serde_json::json!({ "Name": "/shop", "State": state })));
        assert_eq!(ended.unwrap_err().to_string(), "container shop does not run: it is exited");
        let state = serde_json::json!({ "Status": "running", "Running": true, "Pid": 9 });
        let config = serde_json::json!({ "NetworkMode": "host" });
        let host = container(serde_json::json!({ "Name": "/shop", "State": state, "HostConfig": config }));
        assert!(matches!(running("shop", host), Err(Error::OfHost(name)) if name == "shop"));
        assert!(matches!(running("shop", container(serde_json::json!({}))), Err(Error::NotRunning { .. })));
    }

    #[tokio::test]
    async fn an_engine_that_is_not_there_or_says_nothing_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let (away, silent) = (directory.path().join("away"), directory.path().join("silent"));
        let none = find(std::slice::from_ref(&away), "shop").await.unwrap_err();
        assert!(matches!(none, Error::NoEngine(_)), "{none}");
        let _listener = std::os::unix::net::UnixListener::bind(&silent).unwrap();
        let error = find(&[away, silent.clone()], "shop").await.unwrap_err();
        assert!(matches!(&error, Error::Silent { socket, .. } if *socket == silent), "{error}");
    }
}
