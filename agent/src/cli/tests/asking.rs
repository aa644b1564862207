//! Verbs that ask an agent: what is sent, what is printed, how they end.
use serde_json::{Value, json};

use super::bed::{Agent, asking, at_a_terminal, unread};
use crate::api::client::tests::{Canned, http};
use crate::cli::Exit;

fn done(changed: &[&str]) -> Value {
    json!({ "changed": changed })
}

/// Runs a changing command; returns what was sent.
fn sent(line: &str) -> (String, Value) {
    let agent = Agent::answering(vec![(200, done(&["done"]))]);
    let outcome = agent.asked_by(line);
    assert_eq!((outcome.exit, outcome.out.as_str()), (Exit::Done, "done\n"), "{line}: {}", outcome.err);
    let asked = agent.asked().remove(0);
    (asked.line, asked.body)
}

#[test]
fn requests_say_what_was_typed() {
    let wait = json!({ "milliseconds": 2000 });
    let cases = [
        (
            "network create Pay --subnet 10.1.0.0/16 --ipv6 --internal --vni 7",
            "POST /v1/networks",
            json!({ "name": "pay", "subnets": ["10.1.0.0/16"], "six": "beside", "encrypted": false, "internal": true, "mtu": null, "vni": 7, "wait": wait }),
        ),
        (
            "network create six --ipv6-only",
            "POST /v1/networks",
            json!({ "name": "six", "subnets": [], "six": "only", "encrypted": false, "internal": false, "mtu": null, "vni": null, "wait": wait }),
        ),
        (
            "attach web --netns host --ip 10.1.0.9 --mac 02:00:00:00:00:0A --alias w",
            "POST /v1/attachments",
            json!({ "name": "web", "network": null, "place": { "netns": "host" }, "ip": "10.1.0.9", "mac": "02:00:00:00:00:0a",
                    "aliases": ["w"], "default_route": false, "wait": wait }),
        ),
        (
            "detach web --network pay --no-wait",
            "POST /v1/detach",
            json!({ "name": "web", "network": "pay", "wait": { "milliseconds": 0 } }),
        ),
        (
            "register api --timeout 500ms",
            "POST /v1/services",
            json!({ "service": "api", "network": null, "on": null, "place": null, "weight": null,
                    "settings": { "ports": null, "aliases": null, "mode": null, "balance": null, "check": null, "no_check": false },
                    "wait": { "milliseconds": 500 } }),
        ),
        (
            "register api --container c --weight 3 --port 80:8080 --lb hash --mode vip --check tcp:8080 --check-interval 500ms",
            "POST /v1/services",
            json!({ "service": "api", "network": null, "on": null, "place": { "container": "c" }, "weight": 3,
                    "settings": { "ports": [{ "public": 80, "target": 8080, "protocol": "tcp" }], "aliases": null, "mode": "vip",
                                  "balance": "hash",
                                  "check": { "probe": { "tcp": { "port": 8080 } }, "interval_ms": 500, "timeout_ms": 1000, "failures": 2 }, "no_check": false },
                    "wait": wait }),
        ),
        (
            "deregister api --on web",
            "POST /v1/deregister",
            json!({ "service": "api", "network": null, "on": "web", "wait": wait }),
        ),
        (
            "service set api --no-ports",
            "POST /v1/service",
            json!({ "service": "api", "network": null,
                    "settings": { "ports": [], "aliases": null, "mode": null, "balance": null, "check": null, "no_check": false }, "wait": wait }),
        ),
        (
            "service set api --no-check",
            "POST /v1/service",
            json!({ "service": "api", "network": null,
                    "settings": { "ports": null, "aliases": null, "mode": null, "balance": null, "check": null, "no_check": true }, "wait": wait }),
        ),
        (
            "drain api --on web --wait 10s",
            "POST /v1/drain",
            json!({ "service": "api", "network": null, "on": "web", "wait": { "milliseconds": 10000 } }),
        ),
        ("network rm pay", "DELETE /v1/network?name=pay&wait_ms=2000", Value::Null),
        ("node rm h3", "DELETE /v1/node?name=h3&wait_ms=2000", Value::Null),
    ];
    for (line, request, body) in cases {
        assert_eq!(sent(line), (request.to_owned(), body), "{line}");
    }
}

#[test]
fn usage_that_the_grammar_cannot_see() {
    let cases = [
        (
            "network create n --subnet 10.1.0.0/16 --subnet 10.2.0.0/16",
            "a network has at most one IPv4 subnet",
        ),
        ("register api --port 80:1 --port 80:2", "public port 80 is given twice for one protocol"),
        ("service set api", "no setting was given"),
    ];
    for (line, expected) in cases {
        let outcome = asking(&format!("{line} --socket /nowhere"));
        assert_eq!(outcome.exit, Exit::Usage, "{line}");
        assert!(outcome.err.starts_with("error: ") && outcome.err.contains(expected), "{}", outcome.err);
        assert!(outcome.err.contains("\nhint: "), "{}", outcome.err);
    }
}

#[test]
fn laggards_end_with_four() {
    let body = json!({ "changed": ["registered api"], "notes": ["made network default"], "laggards": [{ "host": "h2", "reason": "no answer" }] });
    let agent = Agent::answering(vec![(200, body.clone()), (200, body.clone())]);
    let outcome = agent.asked_by("register api");
    assert_eq!((outcome.exit, outcome.out.as_str()), (Exit::NotYet, "registered api\n"));
    assert_eq!(
        outcome.err,
        "note: made network default\nnot yet on h2: no answer\n\
         hint: it is done here and goes on by itself; follow it with svc-agent status --wait 30s\n"
    );
    let outcome = agent.asked_by("register api -o json");
    assert_eq!((outcome.exit, outcome.err.as_str()), (Exit::NotYet, ""));
    assert_eq!(serde_json::from_str::<Value>(&outcome.out).unwrap(), body);
}

#[test]
fn failures_end_by_their_kind() {
    let failure = |kind: &str| json!({ "kind": kind, "message": "network pay is in use", "hints": ["detach web\ndetach db"] });
    let cases =
        [("refused", 409, Exit::Refused), ("usage", 422, Exit::Usage), ("timed_out", 504, Exit::NotYet)];
    for (kind, status, exit) in cases {
        let agent = Agent::answering(vec![(status, failure(kind)), (status, failure(kind))]);
        let outcome = agent.asked_by("network rm pay");
        assert_eq!((outcome.exit, outcome.out.as_str()), (exit, ""));
        assert_eq!(outcome.err, "error: network pay is in use\nhint: detach web\nhint: detach db\n");
        let outcome = agent.asked_by("network rm pay -o json");
        assert_eq!(serde_json::from_str::<Value>(&outcome.err).unwrap(), failure(kind));
    }
    let outcome = asking("status --socket /nowhere/agent.sock");
    assert_eq!(outcome.exit, Exit::NoAgent);
    assert!(
        outcome.err.starts_with("error: no agent at /nowhere/agent.sock: No such file"),
        "{}",
        outcome.err
    );
    assert!(outcome.err.contains("hint: start it: svc-agent run --init"), "{}", outcome.err);
}

#[test]
fn an_attachment_is_shown_with_its_resolver_lines() {
    let object = json!({ "name": "web", "network": "pay", "host": "h1", "local": true, "addresses": ["10.1.0.9"], "mac": "02:00:00:00:00:0a",
                         "aliases": [], "interface": "eth0", "resolv_conf": "nameserver 127.0.0.11\noptions ndots:0\n", "suspended": false });
    let agent =
        Agent::answering(vec![(200, json!({ "changed": ["attached web to pay"], "object": object }))]);
    let outcome = agent.asked_by("attach web --pid 12");
    assert_eq!(
        outcome.out,
        "attached web to pay\n\
         name:       web\nnetwork:    pay\naddresses:  10.1.0.9\ninterface:  eth0\n\
         put into the container's /etc/resolv.conf, for names to resolve there:\n  nameserver 127.0.0.11\n  options ndots:0\n"
    );
}

#[test]
fn lists_are_aligned_tables() {
    let service = json!({ "name": "api", "network": "pay", "vips": ["10.1.224.0"], "mode": "vip", "ports": [{ "public": 80, "target": 8080, "protocol": "tcp" }],
        "aliases": ["a", "b"], "balance": "least-conn", "check": null,
        "replicas": [{ "attachment": "web", "host": "h1", "addresses": ["10.1.0.9"], "weight": 1, "state": "serving" },
                     { "attachment": "w\u{1b}2", "host": "h2", "addresses": [], "weight": 1, "state": "failing" }] });
    // A name that is no name is refused; a host's name is anybody's text.
    let agent = Agent::answering(vec![(200, json!([service]))]);
    assert_eq!(agent.asked_by("service ls").exit, Exit::Refused);
    let mut service = service;
    service["replicas"][1]["attachment"] = json!("web2");
    service["replicas"][1]["host"] = json!("h\u{1b}2");
    let agent = Agent::answering(vec![(200, json!([service])), (200, service.clone()), (200, json!([]))]);
    assert_eq!(
        agent.asked_by("service ls").out,
        "SERVICE  NETWORK  MODE  VIPS        PORTS        ALIASES  SERVING\n\
         api      pay      vip   10.1.224.0  80:8080/tcp  a, b     1 of 2\n"
    );
    let inspected = agent.asked_by("service inspect api --network pay").out;
    assert!(inspected.contains("\nspread:   least-conn\ncheck:    -\n"), "{inspected}");
    assert!(inspected.contains("\nweb2     h?2   -          1       failing\n"), "{inspected}");
    assert_eq!(
        agent.asked_by("network ls").out,
        "NETWORK  VNI  SUBNETS  MTU  KIND  HOSTS  ATTACHMENTS  SERVICES\n"
    );
    assert_eq!(agent.asked()[1].line, "GET /v1/service?name=api&network=pay");
}

fn status(ok: bool) -> Value {
    json!({ "node": "h1", "id": "0000000000000001", "agent_version": "9.9.9", "cluster": "c1", "ok": ok,
        "hosts": [{ "id": "0000000000000001", "name": "h1", "state": "live", "agent_version": "0.9.9",
                    "behind": [{ "owner": "h2", "applied": "1.4", "known": "1.5" }],
                    "problems": [{ "object": "network/pay/vxlan", "error": "no space", "seconds": 12, "attempts": 4 }] }],
        "notices": ["DOCKER-USER holds a rule of ours"] })
}

#[test]
fn status_names_what_is_behind_and_ends_with_four() {
    let agent = Agent::answering(vec![(200, status(false))]);
    let outcome = agent.asked_by("status");
    assert_eq!(outcome.exit, Exit::NotYet);
    assert_eq!(
        outcome.out,
        "cluster:  c1\nasked:    h1 (0000000000000001), svc-agent 9.9.9\nverdict:  not all is well\n\
         HOST  ID                STATE  VERSION  BEHIND            PROBLEMS\n\
         h1    0000000000000001  live   0.9.9    h2 at 1.4 of 1.5  1\n\
         problem on h1: network/pay/vxlan: no space (for 12s, tried 4 times)\n\
         notice: DOCKER-USER holds a rule of ours\n"
    );
}

#[test]
fn what_is_not_tried_is_not_counted() {
    let mut answer = status(false);
    answer["hosts"][0]["problems"] =
        json!([{ "object": "host/h3", "error": "suspended", "seconds": 9, "attempts": 0 }]);
    let out = Agent::answering(vec![(200, answer)]).asked_by("status").out;
    assert!(out.contains("problem on h1: host/h3: suspended (for 9s)\n"), "{out}");
}

#[test]
fn a_name_that_is_not_ours_says_where_it_would_go() {
    let resolved = json!({ "name": "nope.", "code": "FORWARDED", "source": "not ours: would be forwarded to 192.0.2.1:53",
        "records": [], "upstreams": ["192.0.2.1:53"] });
    let agent = Agent::answering(vec![(200, resolved)]);
    assert_eq!(
        agent.asked_by("resolve nope --on web").out,
        "nope.: not ours: would be forwarded to 192.0.2.1:53\n"
    );
}

#[test]
fn status_waits_until_all_is_well() {
    let agent = Agent::answering(vec![(200, status(false)), (500, json!("starting")), (200, status(true))]);
    let outcome = agent.asked_by("status --wait 1m");
    assert_eq!((outcome.exit, agent.asked().len()), (Exit::Done, 3), "{}", outcome.err);
    let agent = Agent::answering(vec![(200, status(false)); 100]);
    assert_eq!(agent.asked_by("status --wait 150ms").exit, Exit::NotYet);
}

#[test]
fn another_version_is_warned_of_once_with_every_command() {
    let refusal = json!({ "kind": "refused", "message": "no such node", "hints": [] });
    let answers = vec![(200, done(&["detached"])), (200, json!([])), (200, status(true)), (409, refusal)];
    let agent = Agent::of_version("0.0.9", answers);
    let own = env!("CARGO_PKG_VERSION");
    let warning = format!(
        "warning: this is svc-agent {own}, but the running agent is 0.0.9; restart it (forwarding goes on meanwhile)\n"
    );
    for line in ["detach web", "attachments", "status"] {
        assert_eq!(agent.asked_by(line).err, warning, "{line}");
    }
    let refused = agent.asked_by("node rm h9").err;
    assert_eq!(refused.matches(&warning).count(), 1, "{refused}");
    assert_eq!(Agent::answering(vec![(200, json!([]))]).asked_by("attachments").err, "", "of one version");
    let version = agent.asked_by("version");
    assert_eq!(
        (version.exit, version.out),
        (Exit::Done, format!("svc-agent {own}\nagent 0.0.9 on h1, process 7\n"))
    );
    let alone = asking("version --socket /nowhere -o json");
    assert_eq!(serde_json::from_str::<Value>(&alone.out).unwrap(), json!({ "version": own, "agent": null }));
}

#[test]
fn events_and_look_ups_and_leaving() {
    let event = json!({ "sequence": 1, "time_ms": 1_700_000_000_123_u64, "subject": "service", "message": "registered api", "origin": "cli (uid 0, pid 12)" });
    let resolved = json!({ "name": "api.", "code": "NOERROR", "source": "svc-agent", "records": ["api. 60 IN A 10.1.224.0"] });
    let left = json!({ "removed": ["namespace of network pay"] });
    let agent = Agent::answering(vec![(200, json!([event])), (200, resolved), (200, left)]);
    assert_eq!(
        agent.asked_by("events").out,
        "2023-11-14T22:13:20.123Z  service     registered api  (cli (uid 0, pid 12))\n"
    );
    assert_eq!(
        agent.asked_by("resolve api. --on web --type aaaa").out,
        "api.: NOERROR, from svc-agent\napi. 60 IN A 10.1.224.0\n"
    );
    assert_eq!(agent.asked_by("leave").out, "removed namespace of network pay\n");
    let lines: Vec<String> = agent.asked().into_iter().map(|asked| asked.line).collect();
    assert_eq!(
        lines,
        ["GET /v1/events?after=0&wait_ms=0", "GET /v1/resolve?name=api.&on=web&type=AAAA", "POST /v1/leave"]
    );
}

#[test]
fn following_goes_on_over_a_restart() {
    let event = |sequence: u64, message: &str| json!({ "sequence": sequence, "time_ms": 0, "subject": "s", "message": message, "origin": "agent" });
    // A wrong answer at the end stops what otherwise goes on for ever.
    let (mut processes, mut answers) = (
        vec![1, 1, 2, 2].into_iter(),
        vec![json!([event(1, "a"), event(2, "b")]), json!([]), json!([event(1, "c")]), json!("end")]
            .into_iter(),
    );
    let (sender, asked) = std::sync::mpsc::channel();
    let server = Canned::serve(move |request| {
        if request.line == "GET /v1/version" {
            return http(
                200,
                &json!({ "agent_version": "1", "node": "h1", "pid": processes.next() }).to_string(),
            );
        }
        sender.send(request.line).unwrap();
        http(200, &answers.next().unwrap().to_string())
    });
    let outcome = asking(&format!("events --follow -o json --socket {}", server.socket().display()));
    assert_eq!(outcome.exit, Exit::Refused);
    let messages: Vec<Value> = outcome
        .out
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["message"].clone())
        .collect();
    assert_eq!(messages, ["a", "b", "c"]);
    drop(server);
    let after: Vec<String> = asked.iter().collect();
    assert_eq!(after, [0, 2, 0, 1].map(|after| format!("GET /v1/events?after={after}&wait_ms=30000")));
}

#[test]
fn following_ends_when_nobody_reads() {
    let event = json!({ "sequence": 1, "time_ms": 0, "subject": "s", "message": "m", "origin": "agent" });
    let agent = Agent::answering(vec![(200, json!([event]))]);
    assert_eq!(unread(&format!("events --follow --socket {}", agent.socket().display())), Exit::Done);
}

#[test]
fn a_long_wait_says_so_on_a_terminal() {
    // Nothing is ever sent: receiving is a wait.
    let (_sender, never) = std::sync::mpsc::channel::<()>();
    let server = Canned::serve(move |_| {
        let _ = never.recv_timeout(std::time::Duration::from_millis(1_300));
        http(200, "[]")
    });
    let shown = at_a_terminal(&format!("node ls --socket {}", server.socket().display()));
    assert_eq!(shown, "\r\x1b[Kwaiting for the agent ... 1 s\r\x1b[K");
}
