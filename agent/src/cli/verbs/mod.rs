//! The verbs that ask the agent.
mod change;
mod observe;

use super::Exit;
use super::args::{NetworkVerb, NodeVerb, ServiceVerb, Verb};
use super::console::Ending;
use super::session::Session;
use super::show;
use crate::api::routes;

/// Asks the agent what the verb says, and prints the answer.
pub(super) async fn ask(verb: Verb, session: &mut Session<'_>) -> Result<Exit, Ending> {
    match verb {
        Verb::Leave => change::leave(session).await,
        Verb::Network(verb) => network(verb, session).await,
        Verb::Attach(attach) => change::attach(attach, session).await,
        Verb::Detach(detach) => change::detach(detach, session).await,
        Verb::Register(register) => change::register(register, session).await,
        Verb::Deregister(deregister) => change::deregister(deregister, session).await,
        Verb::Service(verb) => service(verb, session).await,
        Verb::Drain(drain) => change::drain(drain, session).await,
        Verb::Attachments => {
            session.look(routes::ATTACHMENTS, &[], |list: &Vec<_>| show::attachments(list)).await
        }
        Verb::Node(verb) => node(verb, session).await,
        Verb::Status(status) => observe::status(status, session).await,
        Verb::Events(events) => observe::events(events, session).await,
        Verb::Resolve(resolve) => observe::resolve(resolve, session).await,
        Verb::Version => observe::version(session).await,
        // The others need no agent; `super::dispatch` has done them.
        Verb::Keygen
        | Verb::Run(_)
        | Verb::Hold(_)
        | Verb::Doctor(_)
        | Verb::Ports(_)
        | Verb::Demo(_)
        | Verb::Config(_) => Ok(Exit::Usage),
    }
}

async fn network(verb: NetworkVerb, session: &mut Session<'_>) -> Result<Exit, Ending> {
    match verb {
        NetworkVerb::Create(create) => change::network_create(create, session).await,
        NetworkVerb::Ls => session.look(routes::NETWORKS, &[], |list: &Vec<_>| show::networks(list)).await,
        NetworkVerb::Inspect { name } => {
            session.look(routes::NETWORK, &[("name", name.as_str())], show::network).await
        }
        NetworkVerb::Rm { name, waiting } => {
            let wait = session.wait(waiting, None);
            let wait_ms = wait.milliseconds.to_string();
            session.remove(routes::NETWORK, &[("name", name.as_str()), ("wait_ms", &wait_ms)], wait).await
        }
    }
}

async fn service(verb: ServiceVerb, session: &mut Session<'_>) -> Result<Exit, Ending> {
    match verb {
        ServiceVerb::Set(set) => change::service_set(set, session).await,
        ServiceVerb::Ls => session.look(routes::SERVICES, &[], |list: &Vec<_>| show::services(list)).await,
        ServiceVerb::Inspect { service, network } => {
            let mut query = vec![("name", service.as_str())];
            query.extend(network.as_ref().map(|network| ("network", network.as_str())));
            session.look(routes::SERVICE, &query, show::service).await
        }
    }
}

async fn node(verb: NodeVerb, session: &mut Session<'_>) -> Result<Exit, Ending> {
    match verb {
        NodeVerb::Ls => session.look(routes::NODES, &[], |list: &Vec<_>| show::nodes(list)).await,
        NodeVerb::Rm { name, waiting } => {
            let wait = session.wait(waiting, None);
            let wait_ms = wait.milliseconds.to_string();
            session.remove(routes::NODE, &[("name", &name), ("wait_ms", &wait_ms)], wait).await
        }
    }
}
