//! A minority that is cut off.
use std::time::Duration;

use agent::bed::Sandbox;
use tests::cluster::Cluster;
use tests::runner::Scenario;
use tests::wait::wait_until;

const HEAL_LIMIT: Duration = Duration::from_secs(5);

pub(crate) fn all() -> Vec<Scenario> {
    tests::scenarios![a_minority_serves_on_and_refuses_new_networks]
}

fn a_minority_serves_on_and_refuses_new_networks(sandbox: &Sandbox) {
    let mut cluster = Cluster::start(sandbox, 3);
    cluster.ok("h1", "network create payment");
    cluster.attach("payment", "c1a c1x c3a c3x");
    let _servers = ["c1a", "c3a", "c3x"].map(|name| cluster.server(name, 80));
    cluster.ok("h1", "register payment-api --on c1a");
    cluster.ok("h3", "register payment-api --on c3a");
    let vip = cluster.vip("h1", "payment-api");
    cluster.cut("h3");
    for (client, replica, host) in [("c3x", "c3a", "h3"), ("c1x", "c1a", "h1")] {
        wait_until(&format!("{host} is alone with {replica}"), Duration::from_secs(5), || {
            let serving = cluster.serving(host, "payment-api");
            if serving.iter().eq([replica]) { Ok(()) } else { Err(format!("{serving:?}")) }
        });
        wait_until(&format!("{client} reaches {replica} alone"), Duration::from_secs(1), || {
            let table = cluster.vip_table(client);
            if table.get(&vip).is_some_and(|it| it.len() == 1) { Ok(()) } else { Err(format!("{table:?}")) }
        });
        assert_eq!(cluster.spread(client, vip, 80, 20).answers.keys().collect::<Vec<_>>(), [replica]);
        assert_eq!(cluster.resolve(client, "payment-api"), vip.to_string());
    }
    let refused = cluster.cli("h3", "network create second");
    assert_eq!(refused.exit, 1, "{refused:?}");
    assert!(refused.stderr.contains("majority"), "{}", refused.stderr);
    assert!(refused.took < Duration::from_secs(2), "{:?}", refused.took);
    // What it holds is enough for an attachment and a service.
    cluster.containers("c3n");
    let attached = cluster.cli("h3", "attach c3n --network payment --netns c3n");
    assert_eq!(attached.exit, 0, "{attached:?}");
    cluster.ok("h3", "register second --on c3x");
    cluster.ok("h1", "network create third");
    cluster.heal("h3");
    wait_until("healed", HEAL_LIMIT, || {
        for host in ["h1", "h2", "h3"] {
            let (api, second) = (cluster.serving(host, "payment-api"), cluster.serving(host, "second"));
            if api.len() != 2 || second.len() != 1 {
                return Err(format!("{host}: {api:?} {second:?}"));
            }
        }
        Ok(())
    });
    wait_until("what was registered meanwhile is reached", HEAL_LIMIT, || {
        let second = cluster.resolve("c1x", "second").parse().map_err(|_| "no name".to_owned())?;
        cluster.tcp("c1x", second, 80).map_err(|error| error.to_string())
    });
    cluster.wait_well(HEAL_LIMIT);
    cluster.ok("h3", "network create second");
}
