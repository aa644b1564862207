//! Which words are a command, and what is said of those that are none.
use super::bed::asking;
use crate::cli::{Exit, command};

/// Every command with a path of words, groups included.
fn all(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let path = format!("{path} {}", verb.get_name());
        all(verb, &path, found);
        found.push((path, verb.clone()));
    }
}

#[test]
fn the_grammar_is_sound() {
    command().debug_assert();
}

#[test]
fn every_verb_has_examples_that_begin_with_itself() {
    let mut verbs = Vec::new();
    all(&command(), "svc-agent", &mut verbs);
    assert!(verbs.len() > 25, "{}", verbs.len());
    for (path, verb) in verbs {
        let help = verb.get_after_help().unwrap_or_else(|| panic!("{path} has no examples")).to_string();
        assert!(help.contains("Examples:\n") && help.contains(&path), "{path}: {help}");
        assert!(verb.get_about().is_some(), "{path} says not what it does");
    }
}

/// The examples of the help, as the shell would hand them over.
fn examples() -> Vec<String> {
    let mut verbs = Vec::new();
    all(&command(), "svc-agent", &mut verbs);
    let mut helps: Vec<String> =
        verbs.iter().map(|(_, verb)| verb.get_after_help().unwrap().to_string()).collect();
    helps.push(command().get_after_help().unwrap().to_string());
    let lines = helps.iter().flat_map(|help| help.lines()).filter(|line| line.starts_with("  "));
    let words = lines.filter_map(|line| {
        let start = line.find("svc-agent ").filter(|start| !line[..*start].contains("scp"))?;
        let end = line[start..].find(['>', '|', '&', ')']).map_or(line.len(), |end| start + end);
        // Two spaces and more set a remark apart.
        line[start..end].split("  ").next().map(|words| words.trim().to_owned())
    });
    words.collect()
}

#[test]
fn every_example_is_a_command() {
    let examples = examples();
    assert!(examples.len() > 50, "{}", examples.len());
    for example in examples {
        if let Err(error) = command().try_get_matches_from(example.split(' ')) {
            panic!("{example}: {error}");
        }
    }
}

#[test]
fn the_commands_of_the_design_are_commands() {
    let lines = [
        "keygen",
        "run --init --config /c --node n --advertise eth0 --key-file /k --state-dir /s --socket /a --metrics 127.0.0.1:1",
        "run --join 10.0.0.1 10.0.0.2:7946 --join h3 --gossip-port 1 --vxlan-port 2 --store gossip --upstream 1.1.1.1 --upstream 2.2.2.2",
        "hold --socket /run/h.sock",
        "network create n --subnet 10.0.0.0/24 --subnet fd00::/64 --encrypted --internal --mtu 1400 --vni 7",
        "network ls -o json --timeout 3s",
        "network inspect n",
        "network rm n",
        "attach a --network n --netns host --ip 10.0.0.9 --mac 02:00:00:00:00:01 --alias b --alias c --default-route --no-wait",
        "attach a --pid 12",
        "attach a --container c1",
        "detach a --network n",
        "register s --network n --on a --port 80 --port 81:82/udp --weight 0 --alias t --mode dnsrr --lb least-conn",
        "register s --pid 1 --check http://:80/x --check-interval 1s --check-timeout 1s --check-failures 3",
        "deregister s --on a",
        "service set s --port 1 --no-aliases",
        "service inspect s",
        "service ls",
        "drain s --on a --wait 3s",
        "attachments",
        "node ls",
        "node rm h1",
        "status --wait 3s",
        "events --follow",
        "resolve s --on a",
        "resolve s --on a --type AAAA",
        "doctor",
        "ports",
        "version",
        "leave",
        "demo --keep",
    ];
    for line in lines {
        let words = std::iter::once("svc-agent").chain(line.split(' '));
        if let Err(error) = command().try_get_matches_from(words) {
            panic!("{line}: {error}");
        }
    }
}

#[test]
fn bad_words_are_refused_with_what_where_and_what_to_do() {
    let cases = [
        (
            "register s --on a --port 70000",
            &["'70000' for '--port <[PUBLIC:]TARGET[/PROTO]>'", "port 70000 is above 65535; write"][..],
        ),
        (
            "register a_b",
            &[
                "'a_b' for '<SERVICE>'",
                "\"a_b\" is no DNS label: it has a character that is not allowed; use 1 to 63",
            ],
        ),
        ("network create n --subnet 10.0.0.1/24", &["--subnet <CIDR>", "write 10.0.0.0/24 if that is meant"]),
        ("network create n --vni 16777216", &["use a number from 1 to 16777215"]),
        ("attach a", &["--netns", "--pid", "--container"]),
        ("attach a --pid 1 --netns x", &["cannot be used with"]),
        ("attach a --pid 0", &["'0' for '--pid <PID>'"]),
        ("register s --on a --pid 1", &["cannot be used with"]),
        ("register s --weight 257", &["257 is not in 0..=256"]),
        ("register s --check-interval 1s", &["--check"]),
        ("register s --check tcp:1 --check-interval 1ms", &["1ms is too short; write a time from 100ms"]),
        ("register s --mode vpi", &["vpi", "[possible values: vip, dnsrr]"]),
        ("service set s --no-ports --port 1", &["cannot be used with"]),
        ("service set s --no-check --check tcp:1", &["cannot be used with"]),
        ("register s --no-check", &["--no-check"]),
        ("drain s", &["--on <ATTACHMENT>"]),
        ("netwrok ls", &["unrecognized subcommand 'netwrok'", "network"]),
        ("run --init --join h", &["cannot be used with"]),
        ("run --join 10.0.0.256", &["is no ADDR[:PORT]; write for example"]),
        ("status --timeout never", &["\"never\" is no time; write a time from"]),
    ];
    for (line, expected) in cases {
        let outcome = asking(line);
        assert_eq!((outcome.exit, outcome.out.as_str()), (Exit::Usage, ""), "{line}: {}", outcome.err);
        for part in expected {
            assert!(outcome.err.contains(part), "{line}: {}", outcome.err);
        }
    }
}

#[test]
fn help_and_version_are_results() {
    let help = asking("register --help");
    assert_eq!(help.exit, Exit::Done);
    assert!(
        help.out.contains("svc-agent register payment-api") && help.out.contains("--socket <PATH>"),
        "{}",
        help.out
    );
    // Lines are as wide as the terminal that the test runs in.
    let run = asking("run --help").out.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(run.contains("UDP and TCP port of the cluster's frames [default: 7946]"), "{run}");
    assert_eq!(asking("--version").out, format!("svc-agent {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(asking("").exit, Exit::Usage);
}
