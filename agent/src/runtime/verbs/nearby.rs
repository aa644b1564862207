//! What is told of a name that does not exist: what was meant perhaps, and what there is.
use crate::api::types::Failure;
use crate::config::closest;
use crate::model::Name;
use crate::runtime::agent::{refused, usage};
use crate::runtime::local::list_some;
use crate::runtime::verbs;

/// What may be done about a network that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Absent {
    /// It was only looked up: to make what shall be removed or looked at helps nobody.
    LookedUp,
    /// Something is to be put onto it, so it may be made first.
    MayBeMade,
}

/// The network that is meant: the named one, else the only one.
///
/// # Errors
/// When it does not exist, or none is named and there are several.
pub(crate) fn network(existing: &[Name], named: Option<&str>, absent: Absent) -> Result<Name, Failure> {
    if let Some(text) = named {
        let network = verbs::name("network", text)?;
        if existing.contains(&network) {
            return Ok(network);
        }
        let known = match existing {
            [] => "no network exists yet".to_owned(),
            names => format!("networks that exist: {}", list_some(names)),
        };
        let create = format!("create it: svc-agent network create {network}");
        let create = (absent == Absent::MayBeMade).then_some(create);
        let hints: Vec<String> =
            meant(network.as_str(), existing).into_iter().chain(create).chain([known]).collect();
        return Err(missing(format!("network {network} does not exist"), &hints));
    }
    match existing {
        [only] => Ok(only.clone()),
        [] => Err(refused("no network exists yet", &["create one: svc-agent network create NAME"])),
        several => {
            let names = list_some(several);
            let hint = format!("name one of them: --network {}", several[0]);
            Err(usage(format!("which network is meant? There are {}: {names}", several.len()), &[&hint]))
        }
    }
}

/// Which of these was meant perhaps.
pub(crate) fn meant<'a>(text: &str, existing: impl IntoIterator<Item = &'a Name>) -> Option<String> {
    let near = closest(text, existing.into_iter().map(Name::as_str))?;
    Some(format!("did you mean {near}?"))
}

/// A refusal with hints that are made up as needed.
pub(crate) fn missing(message: String, hints: &[String]) -> Failure {
    refused(message, &hints.iter().map(String::as_str).collect::<Vec<_>>())
}

/// A service that a network does not have.
pub(crate) fn no_service(network: &Name, service: &Name, existing: &[Name]) -> Failure {
    let known = match existing {
        [] => format!("network {network} has no services yet"),
        names => format!("services of {network}: {}", list_some(names)),
    };
    let hints: Vec<String> = meant(service.as_str(), existing).into_iter().chain([known]).collect();
    missing(format!("service {service} does not exist on network {network}"), &hints)
}

/// A replica that a service does not have, by its attachment.
pub(crate) fn no_replica(service: &Name, on: &Name, existing: &[Name]) -> Failure {
    let known = match existing {
        [] => format!("{service} has no replicas"),
        names => format!("its replicas are on: {}", list_some(names)),
    };
    let hints: Vec<String> = meant(on.as_str(), existing).into_iter().chain([known]).collect();
    missing(format!("{service} has no replica on {on}"), &hints)
}

/// An attachment that this host does not have.
pub(crate) fn no_attachment(name: &Name, existing: &[Name], hint: &str) -> Failure {
    let hints: Vec<String> = meant(name.as_str(), existing).into_iter().chain([hint.to_owned()]).collect();
    missing(format!("{name} is not attached on this host"), &hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(texts: &[&str]) -> Vec<Name> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_network_that_is_only_looked_up_is_not_to_be_created() {
        let existing = names(&["default", "payment"]);
        let refused = network(&existing, Some("defualt"), Absent::LookedUp).unwrap_err();
        assert_eq!(refused.message, "network defualt does not exist");
        assert_eq!(refused.hints, ["did you mean default?", "networks that exist: default, payment"]);
        let refused = network(&existing, Some("other"), Absent::LookedUp).unwrap_err();
        assert_eq!(refused.hints, ["networks that exist: default, payment"]);
        let refused = network(&[], Some("other"), Absent::LookedUp).unwrap_err();
        assert_eq!(refused.hints, ["no network exists yet"]);
    }

    #[test]
    fn a_network_that_something_is_put_onto_may_be_created() {
        let refused = network(&names(&["default"]), Some("defualt"), Absent::MayBeMade).unwrap_err();
        let create = "create it: svc-agent network create defualt";
        assert_eq!(refused.hints, ["did you mean default?", create, "networks that exist: default"]);
    }

    #[test]
    fn many_networks_are_cut_and_the_cut_is_told() {
        let many: Vec<Name> = (1..=11).map(|number| format!("n{number}").parse().unwrap()).collect();
        let refused = network(&many, None, Absent::LookedUp).unwrap_err();
        assert!(refused.message.contains("There are 11: n1, ") && refused.message.ends_with("n8 and 3 more"));
    }

    #[test]
    fn services_replicas_and_attachments_that_are_close_are_named() {
        let (default, existing) = (names(&["default"]).remove(0), names(&["payment-api", "shop"]));
        let slip = &names(&["payment-apu"])[0];
        let hints = no_service(&default, slip, &existing).hints;
        assert_eq!(hints, ["did you mean payment-api?", "services of default: payment-api, shop"]);
        assert_eq!(no_replica(&default, slip, &existing).hints[0], "did you mean payment-api?");
        let hints = no_attachment(slip, &existing, "see what is: svc-agent attachments").hints;
        assert_eq!(hints, ["did you mean payment-api?", "see what is: svc-agent attachments"]);
        assert_eq!(no_attachment(slip, &[], "see").hints, ["see"]);
    }
}
