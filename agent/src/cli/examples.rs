//! The examples below each verb's help.

pub(super) const TOP: &str = "\
Exit codes: 0 done, 1 refused, 2 usage, 3 no agent, 4 timed out or not yet everywhere.

Examples:
  svc-agent demo                                     see it all on this machine, in a minute
  svc-agent keygen > /etc/svc-agent/cluster.key      then copy the file to every host
  svc-agent run --init                               on the first host
  svc-agent run --join 192.0.2.1                     on the others
  svc-agent attach web --netns web                   a container gets an address and names
  svc-agent register payment-api --on web            and serves behind a name and a virtual IP
  svc-agent status                                   what is not as it should be, where, and why";

pub(super) const KEYGEN: &str = "\
Examples:
  (umask 077; svc-agent keygen > /etc/svc-agent/cluster.key)
  scp -p /etc/svc-agent/cluster.key host2:/etc/svc-agent/";

pub(super) const RUN: &str = "\
SIGTERM ends the agent and keeps forwarding; SIGHUP rereads what can change.

Examples:
  svc-agent run --init                               found a cluster, once
  svc-agent run --join 192.0.2.1 192.0.2.2:7946      join through either host
  svc-agent run --config /etc/svc-agent/config.toml  once it has joined
  svc-agent run --init --advertise eth1 --upstream 192.0.2.53";

pub(super) const HOLD: &str = "\
Examples:
  svc-agent hold --socket /run/svc-agent/hold.sock
  svc-agent hold --config /etc/svc-agent/config.toml  answers Docker, too, until an agent does";

pub(super) const LEAVE: &str = "\
Examples:
  svc-agent leave
  svc-agent leave -o json                            the list of what was removed, for scripts";

pub(super) const NETWORK: &str = "\
Examples:
  svc-agent network create payment
  svc-agent network ls
  svc-agent network inspect payment
  svc-agent network rm payment";

pub(super) const NETWORK_CREATE: &str = "\
Examples:
  svc-agent network create payment
  svc-agent network create payment --subnet 10.128.4.0/22
  svc-agent network create payment --ipv6            both families, from the cluster's own ranges
  svc-agent network create payment --ipv6-only
  svc-agent network create vault --internal --encrypted --vni 4711 --mtu 1400";

pub(super) const NETWORK_LS: &str = "\
Examples:
  svc-agent network ls
  svc-agent network ls -o json | jq -r '.[].name'";

pub(super) const NETWORK_INSPECT: &str = "\
Examples:
  svc-agent network inspect payment";

pub(super) const NETWORK_RM: &str = "\
Examples:
  svc-agent network rm payment";

pub(super) const ATTACH: &str = "\
Examples:
  svc-agent attach web --pid 4711
  svc-agent attach web --network payment --netns web --alias shop
  svc-agent attach db --pid 4242 --ip 10.128.4.9 --mac 02:42:0a:80:04:09
  svc-agent attach host1 --netns host                this host's own processes";

pub(super) const DETACH: &str = "\
Examples:
  svc-agent detach web
  svc-agent detach web --network payment";

pub(super) const REGISTER: &str = "\
Registering again changes what it names, keeps the rest, ends a drain, and prints what changed.
With a health check it waits for the first pass; where none comes within --timeout, the exit code is 4.

Examples:
  svc-agent register payment-api                     inside the container's namespace
  svc-agent register payment-api --on web --port 80:8080
  svc-agent register payment-api --pid 4711 --check http://:8080/healthz
  svc-agent register payment-api --on web --weight 3 --check tcp:8080 --check-interval 500ms";

pub(super) const DEREGISTER: &str = "\
Examples:
  svc-agent deregister payment-api --on web          one replica
  svc-agent deregister payment-api                   the whole service";

pub(super) const SERVICE: &str = "\
Examples:
  svc-agent service ls
  svc-agent service inspect payment-api
  svc-agent service set payment-api --port 80:8080";

pub(super) const SERVICE_SET: &str = "\
Examples:
  svc-agent service set payment-api --port 80:8080 --port 443:8443
  svc-agent service set payment-api --lb hash --alias pay
  svc-agent service set payment-api --no-ports
  svc-agent service set payment-api --no-check";

pub(super) const SERVICE_INSPECT: &str = "\
Examples:
  svc-agent service inspect payment-api
  svc-agent service inspect payment-api --network payment -o json";

pub(super) const SERVICE_LS: &str = "\
Examples:
  svc-agent service ls";

pub(super) const DRAIN: &str = "\
No new flows reach it, established ones go on; registering it again ends the drain.

Examples:
  svc-agent drain payment-api --on web
  svc-agent drain payment-api --on web --wait 10s && docker stop web
  svc-agent register payment-api --on web            flows again";

pub(super) const ATTACHMENTS: &str = "\
Examples:
  svc-agent attachments
  svc-agent attachments -o json | jq -r '.[] | select(.local) | .name'";

pub(super) const NODE: &str = "\
Examples:
  svc-agent node ls
  svc-agent node rm host3";

pub(super) const NODE_LS: &str = "\
Examples:
  svc-agent node ls";

pub(super) const NODE_RM: &str = "\
Examples:
  svc-agent node rm host3
  svc-agent node rm 00c0ffee00c0ffee                 by id, where two hosts have one name";

pub(super) const STATUS: &str = "\
Examples:
  svc-agent status
  svc-agent status --wait 30s                        returns as soon as all is well";

pub(super) const EVENTS: &str = "\
Examples:
  svc-agent events
  svc-agent events --follow
  svc-agent events --follow -o json | jq -r .message";

pub(super) const RESOLVE: &str = "\
Examples:
  svc-agent resolve payment-api --on web
  svc-agent resolve tasks.payment-api --on web --type AAAA
  svc-agent resolve 9.4.128.10.in-addr.arpa --on web --type PTR";

pub(super) const DOCTOR: &str = "\
Examples:
  svc-agent doctor";

pub(super) const PORTS: &str = "\
Examples:
  svc-agent ports                                    as /etc/svc-agent/config.toml says, if it is there
  svc-agent ports --config ./config.toml";

pub(super) const VERSION: &str = "\
Examples:
  svc-agent version";

pub(super) const DEMO: &str = "\
Examples:
  svc-agent demo
  svc-agent demo --keep                              look around afterwards";

pub(super) const CONFIG: &str = "\
Examples:
  svc-agent config sample
  svc-agent config check --config /etc/svc-agent/config.toml";

pub(super) const CONFIG_SAMPLE: &str = "\
Examples:
  svc-agent config sample > /etc/svc-agent/config.toml";

pub(super) const CONFIG_CHECK: &str = "\
Examples:
  svc-agent config check /etc/svc-agent/config.toml
  SVC_AGENT_LOG=debug svc-agent config check --gossip-port 7947";
