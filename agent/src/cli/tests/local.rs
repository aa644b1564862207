//! Verbs that need no agent.
use super::bed::{NotedHost, asking, command};
use crate::cli::Exit;

fn noted(line: &str) -> Vec<String> {
    let host = NotedHost::default();
    let outcome = command(line, &host);
    assert_eq!(outcome.exit, Exit::Done, "{line}: {}", outcome.err);
    host.0.into_inner()
}

#[test]
fn the_host_is_handed_what_was_typed() {
    let cases = [
        ("keygen", "keygen"),
        (
            "run --init --node n1 --socket /run/x/a.sock",
            "run Init node=n1 socket=/run/x/a.sock gossip-port=7946",
        ),
        (
            "run --join h2:7000 --node n1 --gossip-port 7000",
            "run Join([JoinAddress { host: \"h2\", port: Some(7000) }]) node=n1 socket=/run/svc-agent/agent.sock gossip-port=7000",
        ),
        ("run --node n1", "run Known node=n1 socket=/run/svc-agent/agent.sock gossip-port=7946"),
        ("hold", "hold /run/svc-agent/hold.sock None"),
        ("hold --socket /run/x/h.sock", "hold /run/x/h.sock None"),
        ("doctor -o json", "doctor svc.internal Json"),
        ("ports", "ports 4789 Text"),
        ("demo --keep", "demo true Text"),
    ];
    for (line, expected) in cases {
        assert_eq!(noted(line), [expected], "{line}");
    }
}

#[test]
fn a_configuration_with_mistakes_starts_nothing() {
    let outcome = asking("run --init --gossip-port 70000 --log inof");
    assert_eq!(outcome.exit, Exit::Usage);
    assert_eq!(
        outcome.err,
        "error: the configuration has 2 mistakes, and nothing was started:\n  \
         flag --gossip-port: port 70000 is above 65535; use a port from 1 to 65535\n  \
         flag --log: \"inof\" is no level; did you mean info?\n\
         hint: see all settings with svc-agent config sample; try again with svc-agent config check\n"
    );
}

#[test]
fn config_sample_and_check() {
    let sample = asking("config sample");
    assert_eq!((sample.exit, sample.out), (Exit::Done, crate::config::sample()));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, "ttl-vip = \"5s\"\n").unwrap();
    let check = asking(&format!(
        "config check --config {} --upstream 192.0.2.1 --upstream 192.0.2.2",
        file.display()
    ));
    // How wide the columns are depends on the widest of all settings.
    let line = |key: &str| {
        let line = check.out.lines().find(|line| line.starts_with(&format!("{key} "))).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(line("ttl-vip").ends_with(&format!("\"5s\" {}: ttl-vip", file.display())), "{}", line("ttl-vip"));
    assert!(
        line("upstream").ends_with("[\"192.0.2.1\", \"192.0.2.2\"] flag --upstream"),
        "{}",
        line("upstream")
    );
    assert!(line("domain").ends_with("default"));
    let missing = asking("config check --config /nowhere.toml");
    assert_eq!(missing.exit, Exit::Usage);
    assert!(missing.err.contains("/nowhere.toml: it cannot be read: No such file"), "{}", missing.err);
}

#[test]
fn config_check_takes_its_file_with_or_without_a_flag() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    std::fs::write(&file, "domain = \"corp\"\n").unwrap();
    let file = file.display();
    let lines = [
        format!("config check {file}"),
        format!("config check --upstream 192.0.2.1 {file}"),
        format!("config check --config /nowhere.toml {file}"),
        format!("config check {file} --config /nowhere.toml"),
    ];
    for line in lines {
        let check = asking(&line);
        let told = check
            .out
            .lines()
            .any(|row| row.starts_with("domain ") && row.ends_with(&format!("{file}: domain")));
        assert!(check.exit == Exit::Done && told, "{line}: {} {}", check.out, check.err);
    }
    assert_eq!(asking("config check /nowhere.toml").exit, Exit::Usage);
}

#[test]
fn a_running_example_of_each_output() {
    let json = asking("config check -o json");
    let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(value["gossip-port"], serde_json::json!({ "value": "7946", "origin": "default" }));
}
