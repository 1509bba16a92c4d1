//! Two operators: with one lease, only one of them works; with two leases, both work, and agree.

use std::time::Duration;

use http::Method;
use kube::{Client, api::DeleteParams};
use robeing_tests::operator::{ControlPlane, Essence, OperatorSettings, Sort, When, until};
use serde_json::Value;

use crate::{
    CLUSTER,
    kills::{Alone, difference},
    spec,
};

/// The number of lease renewals without other writes after which an operator counts as at rest.
const RENEWALS: usize = 24;
/// The lease duration of the first test, long enough for a busy machine.
const LEASE: Duration = Duration::from_secs(4);

pub async fn one_of_two_works(stage: &ControlPlane, client: &Client) {
    let namespace = "pair-one-lease";
    ControlPlane::namespace(client, namespace).await;
    let settings = |name: &str| OperatorSettings {
        name: name.into(),
        timings: ["4s", "3s", "200ms"],
        ..OperatorSettings::of(namespace)
    };
    let mut active = stage.operator(settings("pair-active")).await;
    active.rests(2).await;
    let mut waiting = stage.operator(settings("pair-waiting")).await;
    ControlPlane::create(client, namespace, CLUSTER, &spec()).await;
    until("a fleet", async || ControlPlane::get(client, namespace, "deployments", "first-auto").await).await;
    active.rests(RENEWALS).await;
    assert!(active.runs() && !active.requests.lines(0, Sort::Write).is_empty());
    // The waiting operator only reads the lease.
    let looks = waiting.requests.since(0);
    assert!(looks.len() > RENEWALS / 2, "{looks:?}");
    assert!(looks.iter().all(|call| call.sort == Sort::Lease && call.method == Method::GET), "{looks:?}");

    active.kill();
    let delete = ControlPlane::api(client, namespace, "services").delete(CLUSTER, &DeleteParams::default()).await;
    delete.expect("a Service to delete");
    let taken = until("the other operator takes over", async || {
        waiting.requests.since(0).into_iter().find(|call| call.is_renewal()).ok_or_else(|| waiting.log())
    });
    let taken = taken.await;
    let renewed = active.requests.since(0).into_iter().rfind(|call| call.is_renewal()).expect("it renewed its lease");
    let after = taken.at.duration_since(renewed.at);
    eprintln!("the lease was taken over {:.1} s after its last renewal", after.as_secs_f64());
    assert!(after >= LEASE, "taken over after {after:?}, while the first operator might still have worked");
    until("the Service is back", async || ControlPlane::get(client, namespace, "services", CLUSTER).await).await;

    // An operator that gets SIGTERM releases the lease, so that the other need not wait until it expires.
    active.restart();
    let mark = active.requests.mark();
    until(
        "the first operator waits now",
        async || {
            if active.requests.mark() > mark + 2 { Ok(()) } else { Err(active.log()) }
        },
    )
    .await;
    waiting.ends_when_asked().await;
    let again = until("the first operator works again", async || {
        active.requests.since(mark).into_iter().find(|call| call.is_renewal()).ok_or_else(|| active.log())
    });
    let again = again.await;
    let released = waiting.requests.since(0).into_iter().rfind(|call| call.is_renewal()).expect("it had the lease");
    eprintln!("a released lease was acquired after {:.1} s", (again.at - released.at).as_secs_f64());
}

/// Two operators that were installed by mistake, with different images, work on the same fleet at the same time.
pub async fn two_agree(stage: &ControlPlane, client: &Client, alone: &Alone) {
    let namespace = "pair-two-leases";
    ControlPlane::namespace(client, namespace).await;
    let settings = |name: &str| OperatorSettings {
        name: format!("pair-{name}"),
        lease: format!("pair-{name}"),
        image: format!("robeing:{name}"),
        ..OperatorSettings::of(namespace)
    };
    let mut one = stage.operator(settings("one")).await;
    let mut two = stage.operator(settings("two")).await;
    one.rests(1).await;
    two.rests(1).await;
    // Both write the first object at the same time.
    for operator in [&one, &two] {
        operator.requests.stop_at(1, When::Before);
    }
    ControlPlane::create(client, namespace, CLUSTER, &spec()).await;
    for operator in [&one, &two] {
        until("both want to write", async || operator.requests.has_stopped().then_some(()).ok_or("not yet")).await;
    }
    for operator in [&one, &two] {
        operator.requests.resume();
    }
    let writes = until("both at rest", async || {
        one.restart_if_lost();
        two.restart_if_lost();
        let rest = (one.resting(RENEWALS), two.resting(RENEWALS));
        let writes = [&one, &two].map(|operator| operator.requests.lines(0, Sort::Write).len());
        if rest.0.is_ok() && rest.1.is_ok() && writes.iter().all(|writes| *writes > 0) { Ok(writes) } else { Err(rest) }
    })
    .await;
    eprintln!("two operators wrote {writes:?} times to create a fleet that one creates with {}", alone.writes[0].len());
    assert!(writes.iter().sum::<usize>() <= 4 * alone.writes[0].len(), "they fight: {writes:?}");
    let seen = ControlPlane::essence(client, namespace).await.expect("the objects");
    let (seen, wanted) = (timeless(&seen), timeless(&alone.ends[0]));
    assert_eq!(seen, wanted, "{}", difference(&wanted, &seen));
}

/// Returns the objects without their generations, and with the same image for both operators.
fn timeless(essence: &Essence) -> Essence {
    let less = |(key, value): (&String, &Value)| {
        let mut value = value.clone();
        value.as_object_mut().map(|object| object.remove("generation"));
        let text = value.to_string().replace("robeing:two", "robeing:one");
        (key.clone(), serde_json::from_str(&text).expect("still JSON"))
    };
    essence.iter().map(less).collect()
}
