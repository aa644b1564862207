//! What no compiler checks: who may depend on whom, sizes, links, dashboards, the sample configuration, `rows.toml`.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use agent::config::{self, Flags, Settings};
use agent::runtime::metrics::Metrics;
use serde_json::Value;
use tests::rows;

const FILE_LINES_MAX: usize = 450;
/// Which of our crates may use which, besides tests, which may use all.
const ARROWS: [(&str, &[&str]); 5] = [
    ("netfilter", &[]),
    ("dns", &[]),
    ("lb", &["netfilter"]),
    ("overlay", &["netfilter"]),
    ("agent", &["dns", "lb", "netfilter", "overlay"]),
];
/// What a leaf must not know: dns sees no netlink, only the agent serves an API and talks to other hosts.
const ABSENT: [(&str, &[&str]); 4] = [
    (
        "dns",
        &["rtnetlink", "netlink-packet-route", "netlink-packet-netfilter", "netlink-sys", "chitchat", "axum"],
    ),
    ("lb", &["rtnetlink", "chitchat", "axum", "hickory-server", "hickory-proto"]),
    ("overlay", &["chitchat", "axum", "hickory-server", "hickory-proto"]),
    ("netfilter", &["chitchat", "axum", "hickory-server", "hickory-proto", "tokio"]),
];
/// Rows whose tests are owed by now.
const OWED_NOW: [&str; 36] = [
    "P02", "P06", "P08", "P10", "P17", "P20", "P21", "P24", "P25", "P33", "P34", "P35", "P36", "P38", "P39",
    "P40", "P41", "P42", "P43", "P46", "P50", "P52", "P64", "P65", "P66", "P11", "P12", "P14", "P15", "P16",
    "P18", "P30", "P44", "P48", "P61", "P63",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

/// Files below the workspace that belong to it, by extension.
fn files(extension: &str) -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![root()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory).expect("a directory").flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let foreign = name == "target" || name.to_string_lossy().starts_with('.');
            if path.is_dir() && !foreign {
                directories.push(path);
            } else if path.extension().is_some_and(|it| it == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Dependencies of each of our packages, as its manifest declares them; those for tests alone are left out.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let name = |value: &Value| value["name"].as_str().expect("a name").to_owned();
    let of = |package: &Value| {
        let all = package["dependencies"].as_array().expect("dependencies").iter();
        all.filter(|it| it["kind"] != "dev").map(name).collect()
    };
    packages.iter().map(|package| (name(package), of(package))).collect()
}

#[test]
fn crates_depend_on_each_other_as_designed() {
    let found = dependencies();
    let ours: BTreeSet<&String> = found.keys().collect();
    for (name, allowed) in ARROWS {
        let arrows: BTreeSet<&str> =
            found[name].iter().filter(|it| ours.contains(it)).map(String::as_str).collect();
        let forbidden: Vec<&&str> = arrows.iter().filter(|it| !allowed.contains(it)).collect();
        assert!(forbidden.is_empty(), "{name} must not depend on {forbidden:?}");
    }
    for (name, absent) in ABSENT {
        let present: Vec<&&str> = absent.iter().filter(|it| found[name].contains(**it)).collect();
        assert!(present.is_empty(), "{name} must not know {present:?}");
    }
    for (name, dependencies) in &found {
        assert!(!dependencies.contains("agent") || name == "tests", "{name} depends on agent");
        assert!(!dependencies.contains("tests"), "{name} depends on tests");
        let known = name == "tests" || ARROWS.iter().any(|(it, _)| it == name);
        assert!(known, "{name} is new: say in ARROWS what it may use");
    }
}

#[test]
fn files_are_small() {
    let lines = |path: &PathBuf| read(path).lines().count();
    let large: Vec<String> = files("rs")
        .iter()
        .filter(|path| lines(path) > FILE_LINES_MAX)
        .map(|path| format!("{}: {} lines", path.display(), lines(path)))
        .collect();
    assert!(large.is_empty(), "above {FILE_LINES_MAX} lines: {large:#?}");
}

#[test]
fn links_in_documents_lead_somewhere() {
    let mut dead = Vec::new();
    for path in files("md") {
        let text = read(&path);
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for target in targets.filter(|target| !target.contains("://") && !target.starts_with('#')) {
            let file = target.split('#').next().unwrap_or_default();
            let there = path.parent().expect("a directory").join(file).exists();
            if !there {
                dead.push(format!("{}: {target}", path.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// Names of metrics in a text; a histogram's series count as itself.
fn metrics_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    let ours = words.filter(|word| word.starts_with("svc_agent_"));
    ours.map(|word| {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| word.strip_suffix(suffix));
        base.filter(|base| Metrics::NAMES.contains(base)).unwrap_or(word).to_owned()
    })
    .collect()
}

#[test]
fn dashboards_and_metrics_name_each_other() {
    let directory = root().join("dashboards");
    let shown: BTreeSet<String> = ["svc-agent.json", "svc-agent-alerts.yml"]
        .iter()
        .flat_map(|name| metrics_in(&read(&directory.join(name))))
        .collect();
    let exported: BTreeSet<String> = Metrics::NAMES.iter().map(|&name| name.to_owned()).collect();
    let missing: Vec<&String> = shown.difference(&exported).collect();
    let unseen: Vec<&String> = exported.difference(&shown).collect();
    assert!(missing.is_empty(), "the dashboards name what /metrics lacks: {missing:?}");
    assert!(unseen.is_empty(), "no dashboard shows {unseen:?}");
    let dashboard: Value = serde_json::from_str(&read(&directory.join("svc-agent.json"))).expect("JSON");
    assert!(dashboard["panels"].as_array().is_some_and(|panels| !panels.is_empty()));
}

#[test]
fn promtool_accepts_the_alerts() {
    let directory = root().join("dashboards");
    for arguments in
        [["check", "rules", "svc-agent-alerts.yml"], ["test", "rules", "svc-agent-alerts.test.yml"]]
    {
        let output = Command::new("promtool").args(arguments).current_dir(&directory).output();
        let output = match output {
            Ok(output) => output,
            Err(error) if std::env::var("CI").is_ok_and(|ci| ci == "true") => panic!("promtool: {error}"),
            Err(error) => return println!("skipped: promtool: {error}"),
        };
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
}

#[test]
fn the_sample_configuration_is_the_defaults() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("svc-agent.toml");
    let plain = config::sample();
    // With every setting taken out of its comment, it says the same.
    let uncommented: String = plain
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.contains(" = ") && !rest.starts_with(' ') => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(uncommented.lines().filter(|line| !line.starts_with('#')).count() > 15, "{uncommented}");
    let nothing = Settings::load(None, &|_| None, &Flags::default()).expect("the defaults");
    for text in [plain, uncommented] {
        std::fs::write(&path, &text).expect("a file");
        let read = Settings::load(Some(&path), &|_| None, &Flags::default());
        assert_eq!(read.unwrap_or_else(|errors| panic!("{errors}\n{text}")), nothing);
    }
}

#[test]
fn settings_of_tools_are_readable() {
    for name in ["deny.toml", "clippy.toml", "rustfmt.toml", "Cargo.toml"] {
        let text = read(&root().join(name));
        let parsed: Result<toml::Table, _> = toml::from_str(&text);
        assert!(parsed.is_ok_and(|table| !table.is_empty()), "{name}");
    }
}

#[test]
fn every_row_is_accounted_for() {
    let rows = rows::parse(&read(&root().join("tests/rows.toml"))).expect("rows.toml");
    let expected: BTreeSet<String> = (1..=66).map(|number| format!("P{number:02}")).collect();
    let found: BTreeSet<String> = rows.keys().cloned().collect();
    assert_eq!(found, expected, "a row is missing or unknown");
    let sources: String = files("rs").iter().map(|path| read(path)).collect();
    let scenario = |name: &str| root().join(format!("tests/scenarios/{name}.txt")).exists();
    for (name, row) in &rows {
        for test in &row.tests {
            let there = sources.contains(&format!("fn {test}(")) || scenario(test);
            assert!(there, "{name}: there is no test {test}");
        }
        let accounted = !row.tests.is_empty() || row.owed.is_some() || row.nightly.is_some();
        assert!(accounted, "{name}: neither a test nor who owes it");
        assert!(row.tests.is_empty() || row.ci.is_some(), "{name}: what does CI run of it?");
        assert!(row.owed.is_none_or(|issue| issue > 2), "{name}: owed by an issue that is past");
    }
    for name in OWED_NOW {
        let row = &rows[name];
        assert!(!row.tests.is_empty(), "{name} is owed now");
        assert!(row.sabotage.is_some(), "{name}: what was seen to turn its test red?");
    }
}
