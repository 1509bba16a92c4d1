//! Calls to a cluster's coordinators. Every call has a deadline; which coordinator is asked is decided here, what is asked
//! elsewhere. Connections are kept from one look to the next.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::{StreamExt, stream::FuturesUnordered};
use robeing_net::{
    client::{KeepAlive, tcp_channel},
    limited,
};
use robeing_proto::v1::{self, admin_client::AdminClient, fleet_client::FleetClient};
use tonic::{Code, Request, Status, transport::Channel};

/// How long a coordinator may take to answer a question.
pub const QUESTION_DEADLINE: Duration = Duration::from_millis(1_500);
/// How long a change of the members may take: a new one learns the whole log first.
pub const MEMBERSHIP_DEADLINE: Duration = Duration::from_secs(20);
/// How long setting pools or handing over may take.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How often it is seen whether a coordinator that is listened to is still there, and how long it may take to answer that.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { interval: Duration::from_secs(30), timeout: Duration::from_secs(10), while_idle: false };

/// What the coordinators say of the fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// Of a leader that a majority just confirmed.
    pub status: v1::FleetStatus,
    /// The agents, the lost ones that are still remembered included.
    pub agents: Vec<v1::Agent>,
    /// The coordinator that answered, host:port; asked first next time.
    pub from: String,
}

/// A call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is nobody to ask.
    #[error("no coordinator's pod has an address yet")]
    NoAddress,
    /// What is asked is another fleet's: its pod's address was given anew.
    #[error("the coordinator at {address} is one of another cluster")]
    Stranger {
        /// host:port.
        address: String,
    },
    /// An answer that is no.
    #[error("{method} at {address}: {message} ({code:?})")]
    Refused {
        /// Of the API.
        method: &'static str,
        /// host:port.
        address: String,
        /// gRPC's.
        code: Code,
        /// The coordinator's words.
        message: String,
    },
}

/// The connections to all clusters' coordinators.
#[derive(Debug, Default)]
pub struct CoordinatorClient {
    channels: Mutex<HashMap<String, Channel>>,
}

impl CoordinatorClient {
    /// Asks for the fleet's state: the first address, then all others at once. Any coordinator answers for the leader, and
    /// none does while a majority is not to be had.
    pub async fn ask(&self, addresses: &[String]) -> Result<Answer, Error> {
        let (first, others) = addresses.split_first().ok_or(Error::NoAddress)?;
        let mut failure = match self.ask_one(first).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let mut asked: FuturesUnordered<_> = others.iter().map(|address| self.ask_one(address)).collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask_one(&self, address: &str) -> Result<Answer, Error> {
        let channel = self.channel(address)?;
        let mut client = limited!(FleetClient::new(channel));
        let status = client.get_status(within(QUESTION_DEADLINE, v1::GetStatusRequest::default())).await;
        let status = status.map_err(|status| refused("GetStatus", address, &status))?.into_inner();
        if status.leader.is_empty() {
            return Err(refused("GetStatus", address, &Status::unavailable("no coordinator leads")));
        }
        let agents = list_agents(&mut client).await.map_err(|status| refused("ListAgents", address, &status))?;
        Ok(Answer { status, agents, from: address.to_owned() })
    }

    /// Says how many agents the pools should have.
    pub async fn set_pools(&self, address: &str, pools: Vec<v1::PoolSize>) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, v1::SetPoolsRequest { pools });
        let answer = AdminClient::new(self.channel(address)?).set_pools(request).await;
        answer.map(drop).map_err(|status| refused("SetPools", address, &status))
    }

    /// Gives a coordinator a vote.
    pub async fn add(&self, address: &str, name: String, of: String) -> Result<(), Error> {
        let request = within(MEMBERSHIP_DEADLINE, v1::AddCoordinatorRequest { name, address: of });
        let answer = AdminClient::new(self.channel(address)?).add_coordinator(request).await;
        answer.map(drop).map_err(|status| refused("AddCoordinator", address, &status))
    }

    /// Takes a coordinator's vote.
    pub async fn remove(&self, address: &str, name: String) -> Result<(), Error> {
        let request = within(MEMBERSHIP_DEADLINE, v1::RemoveCoordinatorRequest { name });
        let answer = AdminClient::new(self.channel(address)?).remove_coordinator(request).await;
        answer.map(drop).map_err(|status| refused("RemoveCoordinator", address, &status))
    }

    /// Lets another voter lead.
    pub async fn transfer(&self, address: &str, to: String) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, v1::TransferLeadershipRequest { to });
        let answer = AdminClient::new(self.channel(address)?).transfer_leadership(request).await;
        answer.map(drop).map_err(|status| refused("TransferLeadership", address, &status))
    }

    /// Begins to listen for what a coordinator tells by itself: once at first, then whenever something has changed, at most once
    /// in `apart`. It says not what.
    pub async fn watch(
        &self,
        address: &str,
        apart: Duration,
    ) -> Result<tonic::Streaming<v1::WatchStatusResponse>, Status> {
        let channel = self.channel(address).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let request = v1::WatchStatusRequest { at_most_every: apart.try_into().ok() };
        FleetClient::new(channel).watch_status(request).await.map(tonic::Response::into_inner)
    }

    /// Closes the connections to all but these addresses.
    pub fn keep_only(&self, addresses: &HashSet<String>) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).retain(|address, _| addresses.contains(address));
    }

    fn channel(&self, address: &str) -> Result<Channel, Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = channels.get(address) {
            return Ok(channel.clone());
        }
        let channel = tcp_channel(address, CONNECT_DEADLINE, KEEP_ALIVE)
            .map_err(|error| refused("connect", address, &Status::invalid_argument(error.to_string())))?;
        channels.insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// All agents, the lost ones included, page by page.
async fn list_agents(client: &mut FleetClient<Channel>) -> Result<Vec<v1::Agent>, Status> {
    let mut agents = Vec::new();
    let mut page_token = String::new();
    loop {
        let consistency = v1::Consistency::Linearizable.into();
        let request = v1::ListAgentsRequest {
            include_lost: true,
            consistency,
            page_token: page_token.clone(),
            ..v1::ListAgentsRequest::default()
        };
        let page = client.list_agents(within(QUESTION_DEADLINE, request)).await?.into_inner();
        agents.extend(page.agents);
        // Pages follow each other by name, so there is an end.
        if page.next_page_token <= page_token {
            return Ok(agents);
        }
        page_token = page.next_page_token;
    }
}

/// The deadline holds here, too, and not only where the call arrives.
fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn refused(method: &'static str, address: &str, status: &Status) -> Error {
    Error::Refused { method, address: address.to_owned(), code: status.code(), message: status.message().to_owned() }
}
