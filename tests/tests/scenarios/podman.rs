//! Podman's containers, on a host that has Podman's compatible socket as Debian's package makes it.
use std::time::Duration;

use agent::bed::Sandbox;
use tests::booted::{Booted, JOIN, Root};
use tests::cluster::Cluster;
use tests::runner::Scenario;

const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![podmans_containers_are_attached_by_their_names once]
}

/// `--container` of `attach` and `register` is asked of Podman where Docker does not know it; Podman knows no drivers of others.
fn podmans_containers_are_attached_by_their_names(sandbox: &Sandbox) {
    let mut cluster = Cluster::empty(sandbox);
    let host = Booted::with_package(&mut cluster, 1, Root::Docker);
    host.import_images();
    host.shell(JOIN);
    host.shell("docker save python:3-slim -o /tmp/image; podman load -q -i /tmp/image; rm /tmp/image");
    // As far as a host in a namespace goes: it has no limits of its own to set.
    let run = "podman --runtime runc run -d --pids-limit -1 --network none";
    let serve = "python:3-slim busybox httpd -f -p 80 -h /etc";
    host.shell(&format!("{run} --name api {serve}; {run} --name shop {serve}"));
    host.shell(
        "svc-agent register payment-api --container api --port 80:80; svc-agent attach shop --container shop",
    );
    // Podman takes no --dns beside that.
    host.shell("podman --runtime runc exec shop sh -c 'echo nameserver 127.0.0.11 > /etc/resolv.conf'");
    let ask = "podman --runtime runc exec shop curl -sf -m 2 http://payment-api/passwd | grep root";
    host.wait("the service answers a container of Podman's", LIMIT, ask);
    let refused = host.try_shell("svc-agent attach no --container unknown");
    assert!(refused.exit == 1 && refused.stdout.contains("no container engine knows unknown"), "{refused:?}");
    host.shell("podman --runtime runc kill api");
    host.wait("what has ended is no replica", LIMIT, "refuse grep ' api ' <(svc-agent attachments)");
}
