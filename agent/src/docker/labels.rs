//! What a container's labels say of the service that it is a replica of.
use std::collections::BTreeMap;

use crate::api::types::{Register, Settings, Wait};
use crate::api::words;
use crate::catalog::facts::ServiceMode;
use crate::model::Name;

/// What all of them begin with.
const PREFIX: &str = "svc-agent.";
/// Those that are known, without the prefix.
const KNOWN: [&str; 7] = ["service", "network", "port", "weight", "check", "mode", "alias"];

/// A registration, as labels ask for it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    /// The service.
    pub service: Name,
    /// On which of the container's networks; `None`: each of ours that it is on.
    pub network: Option<String>,
    weight: Option<u16>,
    settings: Settings,
}

impl Wanted {
    /// The request that makes an attachment of a network its replica.
    pub(super) fn request(&self, network: &Name, attachment: &Name) -> Register {
        Register {
            service: self.service.to_string(),
            network: Some(network.to_string()),
            on: Some(attachment.to_string()),
            place: None,
            weight: self.weight,
            settings: self.settings.clone(),
            wait: Wait { milliseconds: 0 },
        }
    }
}

/// Reads a container's labels; `None` if they ask for nothing.
///
/// # Errors
/// Which label is wrong, and how it is written.
pub(super) fn wanted(labels: &BTreeMap<String, String>) -> Result<Option<Wanted>, String> {
    let ours = labels.iter().filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value.trim())));
    let ours: BTreeMap<&str, &str> = ours.collect();
    let Some(service) = ours.get("service") else {
        return match ours.keys().next() {
            Some(other) => Err(format!("{PREFIX}{other} without {PREFIX}service")),
            None => Ok(None),
        };
    };
    if let Some(other) = ours.keys().find(|key| !KNOWN.contains(key)) {
        return Err(format!("{PREFIX}{other} is not known; known are {}", KNOWN.join(", ")));
    }
    let wrong = |key: &str, what: String| format!("{PREFIX}{key}: {what}");
    let list = |key: &str| {
        let text = ours.get(key).copied().unwrap_or_default();
        text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect::<Vec<_>>()
    };
    let name = |key: &str, text: &str| {
        text.parse::<Name>().map_err(|error| wrong(key, format!("\"{}\": {error}", text.escape_default())))
    };
    let ports = list("port").into_iter().map(|text| words::read_port(text).map_err(|it| wrong("port", it)));
    let ports = ports.collect::<Result<Vec<_>, _>>()?;
    let aliases = list("alias").into_iter().map(|text| name("alias", text)).collect::<Result<Vec<_>, _>>()?;
    let check = ours.get("check").map(|text| words::read_probe(text).map_err(|it| wrong("check", it)));
    let mode = ours.get("mode").map(|text| match *text {
        "vip" => Ok(ServiceMode::Vip),
        "dnsrr" => Ok(ServiceMode::Dnsrr),
        _ => Err(wrong("mode", "write vip or dnsrr".to_owned())),
    });
    let weight = ours.get("weight").map(|text| {
        let number = text.parse::<u16>().ok().filter(|weight| *weight <= 256);
        number.ok_or_else(|| wrong("weight", "write 0 to 256".to_owned()))
    });
    let settings = Settings {
        ports: Some(ports).filter(|ports| !ports.is_empty()),
        aliases: Some(aliases).filter(|aliases| !aliases.is_empty()),
        mode: mode.transpose()?,
        check: check.transpose()?.map(words::default_check),
        ..Settings::default()
    };
    Ok(Some(Wanted {
        service: name("service", service)?,
        network: ours.get("network").map(|text| (*text).to_owned()),
        weight: weight.transpose()?,
        settings,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::facts::{Probe, Protocol};

    fn read(pairs: &[(&str, &str)]) -> Result<Option<Wanted>, String> {
        wanted(&pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn labels_are_a_registration() {
        assert_eq!(read(&[("maintainer", "me"), ("svc-agentx", "no")]).unwrap(), None);
        let wanted = read(&[
            ("svc-agent.service", "payment-api"),
            ("svc-agent.port", "80:8080/tcp, 53/udp"),
            ("svc-agent.weight", "7"),
            ("svc-agent.check", "http://:8080/healthz"),
            ("svc-agent.mode", "dnsrr"),
            ("svc-agent.alias", "pay,cash"),
        ]);
        let wanted = wanted.unwrap().unwrap();
        let request = wanted.request(&"blue".parse().unwrap(), &"api".parse().unwrap());
        let ports = request.settings.ports.unwrap();
        assert_eq!(ports.iter().map(|it| (it.public, it.target)).collect::<Vec<_>>(), [(80, 8080), (53, 53)]);
        assert_eq!(ports[1].protocol, Protocol::Udp);
        assert_eq!((request.service.as_str(), request.weight), ("payment-api", Some(7)));
        let check = request.settings.check.unwrap();
        assert!(matches!(check.probe, Probe::Http { port: 8080, .. }));
        assert_eq!(request.settings.aliases.unwrap().len(), 2);
        assert_eq!(request.settings.mode, Some(ServiceMode::Dnsrr));
    }

    #[test]
    fn a_label_that_is_wrong_is_named() {
        let service = ("svc-agent.service", "pay");
        for (pair, said) in [
            (("svc-agent.port", "http"), "svc-agent.port: \"http\" is no port number"),
            (("svc-agent.weight", "257"), "svc-agent.weight: write 0 to 256"),
            (("svc-agent.mode", "both"), "svc-agent.mode: write vip or dnsrr"),
            (("svc-agent.check", "ping"), "svc-agent.check: \"ping\" is no check"),
            (("svc-agent.alias", "a b"), "svc-agent.alias: \"a b\""),
            (("svc-agent.color", "red"), "svc-agent.color is not known; known are service, network"),
        ] {
            let error = read(&[service, pair]).unwrap_err();
            assert!(error.starts_with(said), "{error}");
        }
        assert!(read(&[("svc-agent.port", "80")]).unwrap_err().contains("without svc-agent.service"));
        assert!(read(&[("svc-agent.service", "a_b")]).is_err());
    }
}
