//! Calls of the Admin service, and what coordinators report about themselves.

use std::time::Duration;

use robeing_proto::v1::{
    AddCoordinatorRequest, Consistency, Coordinator, PoolSize, PoolStatus, RemoveCoordinatorRequest, SetPoolsRequest,
    TransferLeadershipRequest, admin_client::AdminClient,
};
use robeing_tests::{
    fleet::Fleet,
    wait::{PATIENCE, check, eventually},
};
use tonic::{Code, Request, Status, transport::Channel};

/// Connects to the Admin service of a coordinator. Every call needs a timeout; see [`timed`].
pub async fn admin(fleet: &Fleet, at: &str) -> AdminClient<Channel> {
    let address = format!("http://{}", fleet.address(at));
    eventually("a connection to the coordinator", async || AdminClient::connect(address.clone()).await).await
}

pub fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(PATIENCE);
    request
}

pub async fn add(fleet: &Fleet, at: &str, name: &str) -> Result<String, Status> {
    add_at(fleet, at, name, &fleet.address(name)).await
}

pub async fn add_at(fleet: &Fleet, at: &str, name: &str, address: &str) -> Result<String, Status> {
    let request = AddCoordinatorRequest { name: name.into(), address: address.into() };
    let added = admin(fleet, at).await.add_coordinator(timed(request)).await?;
    Ok(added.into_inner().node_id)
}

/// Adds a coordinator, and retries while it is still starting.
pub async fn added(fleet: &Fleet, at: &str, name: &str) -> String {
    eventually(&format!("{name} added"), async || match add(fleet, at, name).await {
        Err(status) if !matches!(status.code(), Code::Unavailable | Code::FailedPrecondition | Code::Aborted) => {
            panic!("{name} was not added: {status}")
        }
        answer => answer,
    })
    .await
}

pub async fn remove(fleet: &Fleet, at: &str, name: &str) -> Result<bool, Status> {
    let request = RemoveCoordinatorRequest { name: name.into() };
    let removed = admin(fleet, at).await.remove_coordinator(timed(request)).await?;
    Ok(removed.into_inner().removed)
}

pub async fn transfer(fleet: &Fleet, at: &str, to: &str) -> Result<(String, u64), Status> {
    let request = TransferLeadershipRequest { to: to.into() };
    let moved = admin(fleet, at).await.transfer_leadership(timed(request)).await?.into_inner();
    Ok((moved.leader, moved.term))
}

/// Returns the coordinators that this one knows.
pub async fn members(fleet: &Fleet, at: &str) -> Result<Vec<Coordinator>, String> {
    let client = fleet.client_of(&[at]);
    let status = client.status(Consistency::Linearizable).await;
    Ok(status.map_err(|error| error.to_string())?.coordinators)
}

/// Waits until the members are exactly these, and all are voters.
pub async fn voters_are(fleet: &Fleet, at: &str, expected: &[&str]) {
    eventually(&format!("the voters {expected:?}"), async || {
        let members = members(fleet, at).await?;
        let names: Vec<&str> = members.iter().map(|one| one.name.as_str()).collect();
        check(names == expected && members.iter().all(|one| one.voter), (), format!("{members:?}"))
    })
    .await;
}

pub async fn node_id(fleet: &Fleet, at: &str, name: &str) -> Option<String> {
    let members = members(fleet, at).await.expect("it responds");
    members.into_iter().find(|one| one.name == name).map(|one| one.node_id)
}

pub async fn set_pools(fleet: &Fleet, at: &str, pools: &[(&str, Option<u32>, u32)]) -> Result<u64, Status> {
    let size = |(name, replicas, standby): &(&str, Option<u32>, u32)| PoolSize {
        name: (*name).into(),
        replicas: *replicas,
        standby: *standby,
    };
    let request = SetPoolsRequest { pools: pools.iter().map(size).collect() };
    Ok(admin(fleet, at).await.set_pools(timed(request)).await?.into_inner().revision)
}

pub async fn pools(fleet: &Fleet) -> Vec<(String, u32, u32, u32)> {
    let shown = |pool: PoolStatus| (pool.name, pool.live, pool.standby, pool.desired);
    fleet.status().await.pools.into_iter().map(shown).collect()
}

/// Returns whether `/readyz` reports that a coordinator is ready.
pub async fn is_ready(fleet: &Fleet, name: &str) -> Result<bool, String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let asking = async {
        let mut stream = tokio::net::TcpStream::connect(fleet.metrics_address(name)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok::<_, std::io::Error>(text.starts_with("HTTP/1.1 200"))
    };
    let asked = tokio::time::timeout(Duration::from_secs(5), asking).await.map_err(|_| "no answer".to_owned())?;
    asked.map_err(|error| error.to_string())
}

pub async fn readiness_is(fleet: &Fleet, name: &str, expected: bool) {
    eventually(&format!("readiness {expected} of {name}"), async || {
        let ready = is_ready(fleet, name).await?;
        check(ready == expected, (), format!("{ready}"))
    })
    .await;
}
