//! A coordinator that is frozen: its kernel still takes connections, and nothing answers on them. All processes are real,
//! with TLS.

use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    terminal::Terminal,
    wait::{check, eventually},
};

#[tokio::test]
async fn commands_of_all_kinds_are_answered_while_any_one_of_three_coordinators_is_frozen() {
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(PoolSpec::new("work", 2)).with_tls()).await;
    eventually("all features in force, for which all coordinators must answer", async || {
        let status = fleet.status().await;
        check(status.fleet_version > 1, (), status)
    })
    .await;
    let terminal = Terminal::default();
    let authority = fleet.dir().join("identity").display().to_string();
    for frozen in fleet.coordinators() {
        let led_before = fleet.coordinators_agree().await.leader;
        fleet.freeze(&frozen);
        if led_before == frozen {
            fleet.leader_other_than(&frozen).await;
        }
        // The frozen one first, and without a retry that would get past it by chance.
        let mut endpoints = vec![fleet.address(&frozen)];
        endpoints.extend(fleet.coordinators().iter().filter(|name| **name != frozen).map(|name| fleet.address(name)));
        let endpoints = endpoints.join(",");
        let run =
            async |line: &[&str]| terminal.run(&[line, &["--endpoint", &endpoints, "--ca", &authority]].concat()).await;
        for line in [
            &["status"][..],
            &["agents"],
            &["vote", "list"],
            &["team", "list"],
            &["resources", "list"],
            &["resources", "queues", "batch=2"],
            &["submit", "--kind", "shell", "--wait"],
        ] {
            run(line).await.success();
        }
        // It waits for what does not happen, at one coordinator.
        let expired = run(&["vote", "open", "Now?", "--to", "client:cli", "--deadline", "3s", "--wait"]).await;
        assert_eq!(expired.code, Some(1), "{expired:?}");
        fleet.thaw(&frozen);
    }
}
