//! The process of the receivers.

use std::{path::PathBuf, sync::Arc};

use robeing_agent::{
    identity::{AgentGate, RefusedCalls},
    messaging::{Messenger, driver::Authentication},
};
use robeing_net::gate::gated;
use robeing_telemetry::Metrics;
use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::{
    Failure,
    fleet::{DURABLE, Fixed, MEMORY, Member, SENDER, entry},
    nats,
    raw::Acknowledging,
};

/// Starts the receivers and prints their addresses: of the agent with a journal, the one without, and the raw stream.
/// Ends when its standard input does.
pub async fn run(folder: PathBuf) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    let (durable, memory) = (Member::read(&folder, DURABLE)?, Member::read(&folder, MEMORY)?);
    let known = || [entry(SENDER, "127.0.0.1:1")];
    let data = folder.join("data");
    let messengers = [
        (durable.messenger(known(), Some(&data), stop.clone()).await?, &durable),
        (memory.messenger(known(), None, stop.clone()).await?, &memory),
    ];
    let mut addresses = Vec::new();
    for (messenger, member) in &messengers {
        addresses.push(serve(member, messages(messenger), &stop).await?);
    }
    addresses.push(serve(&memory, Routes::new(Acknowledging), &stop).await?);
    if folder.join("nats.port").exists() {
        tokio::spawn(async move {
            if let Err(error) = nats::respond(&folder, DURABLE).await {
                eprintln!("NATS: {error}");
            }
        });
    }
    println!("{}", addresses.join(" "));
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    stop.cancel();
    for (messenger, _) in messengers {
        messenger.stopped().await;
    }
    Ok(())
}

/// Returns the service of a messenger behind the gate of an agent.
fn messages(messenger: &Messenger) -> Routes {
    let directory = Arc::new(Fixed(Arc::new([entry(SENDER, "127.0.0.1:1")].into_iter().collect())));
    gated(
        Routes::new(messenger.service(Authentication::Required)),
        Arc::new(AgentGate { directory, permissive: false, refused: RefusedCalls::new(&Metrics::default()) }),
    )
}

async fn serve(member: &Member, routes: Routes, stop: &CancellationToken) -> Result<String, Failure> {
    let bound = member.transport.bind("127.0.0.1:0").await?;
    let address = bound.local_addr()?.to_string();
    tokio::spawn(bound.serve(routes, stop.clone()));
    Ok(address)
}
