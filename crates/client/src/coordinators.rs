//! Calls to the coordinators of clusters, each with a deadline, except for watches. For queries, this module decides
//! which coordinator is called. Connections are kept between calls.

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
use robeing_proto::v1::{
    self, admin_client::AdminClient, fleet_client::FleetClient, schedules_client::SchedulesClient,
    teams_client::TeamsClient,
};
use tonic::{Code, Request, Status, transport::Channel};

use crate::security::Security;

/// Deadline of a query to a coordinator.
pub const QUESTION_DEADLINE: Duration = Duration::from_millis(1_500);
/// Deadline of a membership change, which is long because a new member replicates the whole log first.
pub const MEMBERSHIP_DEADLINE: Duration = Duration::from_secs(20);
/// Deadline of a change of pool sizes or a leadership transfer.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// How often a connection with an open call is checked with a keep-alive ping, and how long the answer may take.
const KEEP_ALIVE: KeepAlive =
    KeepAlive { interval: Duration::from_secs(30), timeout: Duration::from_secs(10), while_idle: false };

/// The state of the fleet as the coordinators report it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// The status, from a leader that a majority has just confirmed.
    pub status: v1::FleetStatus,
    /// The agents, including lost ones that are still remembered.
    pub agents: Vec<v1::Agent>,
    /// The coordinator that answered (host:port), to be tried first next time.
    pub from: String,
    /// What was read of the audit log; see [`CoordinatorClient::audit`].
    pub audit: Audit,
}

/// A part of the fleet's audit log.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Audit {
    /// The records, oldest first.
    pub records: Vec<v1::AuditRecord>,
    /// The number up to which the log was read; `None` if nothing of it was, because there is nothing new or it can't be
    /// read now.
    pub read: Option<u64>,
}

/// Number of records of the audit log on a page.
const AUDIT_PAGE: u32 = 1_000;
/// Maximum number of pages of the audit log that are read at once: more than are kept.
const MAX_AUDIT_PAGES: usize = 11;

/// The error of a failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is no coordinator to call.
    #[error("no coordinator pod has an address yet")]
    NoAddress,
    /// The coordinator belongs to another fleet, because its pod's IP address was reassigned.
    #[error("the coordinator at {address} belongs to another cluster")]
    Stranger {
        /// The host:port of the coordinator.
        address: String,
    },
    /// The call failed or was refused.
    #[error("{method} at {address}: {message} ({code:?})")]
    Refused {
        /// The API method.
        method: &'static str,
        /// The host:port of the coordinator.
        address: String,
        /// The gRPC status code.
        code: Code,
        /// The message from the coordinator.
        message: String,
    },
}

impl Error {
    /// Returns the status code of a call that failed or was refused.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Refused { code, .. } => Some(*code),
            Self::NoAddress | Self::Stranger { .. } => None,
        }
    }
}

/// The connections to the coordinators of all clusters.
#[derive(Debug, Default)]
pub struct CoordinatorClient {
    /// The channels by address, with the security that they were made with: an address may be given to a coordinator of
    /// another cluster.
    channels: Mutex<HashMap<String, (Security, Channel)>>,
}

impl CoordinatorClient {
    /// Queries the fleet's state: at the first address, then at all others at once. Any coordinator can answer on
    /// behalf of the leader, but none answers while there is no majority.
    pub async fn ask(&self, addresses: &[String], security: &Security) -> Result<Answer, Error> {
        let (first, others) = addresses.split_first().ok_or(Error::NoAddress)?;
        let mut failure = match self.ask_one(first, security).await {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        let mut asked: FuturesUnordered<_> = others.iter().map(|address| self.ask_one(address, security)).collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    async fn ask_one(&self, address: &str, security: &Security) -> Result<Answer, Error> {
        let channel = self.channel(address, security)?;
        let mut client = limited!(FleetClient::new(channel));
        let status = client.get_status(within(QUESTION_DEADLINE, v1::GetStatusRequest::default())).await;
        let status = status.map_err(|status| refused("GetStatus", address, &status))?.into_inner();
        if status.leader.is_empty() {
            return Err(refused("GetStatus", address, &Status::unavailable("no coordinator leads")));
        }
        let agents = list_agents(&mut client).await.map_err(|status| refused("ListAgents", address, &status))?;
        Ok(Answer { status, agents, from: address.to_owned(), audit: Audit::default() })
    }

    /// Returns the records of the audit log after number `after`, up to `newest`, the number that the fleet's status has;
    /// it is 0 in the status of a coordinator that has no such number. Asks nobody if there is none. If a page can't be
    /// read, those before it are returned.
    pub async fn audit(&self, address: &str, security: &Security, after: u64, newest: u64) -> Audit {
        let mut audit = Audit::default();
        let mut read = after;
        for _ in 0..MAX_AUDIT_PAGES {
            if read >= newest {
                break;
            }
            let Ok(page) = self.audit_page(address, security, read).await else { break };
            read = page.last().map_or(newest, |last| last.seq);
            audit.read = Some(read);
            audit.records.extend(page);
        }
        audit
    }

    async fn audit_page(
        &self,
        address: &str,
        security: &Security,
        after_seq: u64,
    ) -> Result<Vec<v1::AuditRecord>, Error> {
        let request = within(QUESTION_DEADLINE, v1::ListAuditRecordsRequest { after_seq, page_size: AUDIT_PAGE });
        let mut client = limited!(AdminClient::new(self.channel(address, security)?));
        let page = client.list_audit_records(request).await;
        let page = page.map_err(|status| refused("ListAuditRecords", address, &status))?;
        Ok(page.into_inner().records)
    }

    /// Sets the number of agents that each pool should have.
    pub async fn set_pools(&self, address: &str, security: &Security, pools: Vec<v1::PoolSize>) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, v1::SetPoolsRequest { pools });
        let answer = AdminClient::new(self.channel(address, security)?).set_pools(request).await;
        answer.map(drop).map_err(|status| refused("SetPools", address, &status))
    }

    /// Sets whom the fleet trusts. A coordinator of a version without TLS refuses this with [`Code::Unimplemented`].
    pub async fn set_trust(&self, address: &str, security: &Security, trust: v1::SetTrustRequest) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, trust);
        let answer = AdminClient::new(self.channel(address, security)?).set_trust(request).await;
        answer.map(drop).map_err(|status| refused("SetTrust", address, &status))
    }

    /// Sets the policies of the fleet. A coordinator of a version without policies refuses this with
    /// [`Code::Unimplemented`], and a fleet whose coordinators are not all of a version with policies with
    /// [`Code::FailedPrecondition`].
    pub async fn set_policies(&self, address: &str, security: &Security, policies: Vec<String>) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, v1::SetPoliciesRequest { policies });
        let answer = AdminClient::new(self.channel(address, security)?).set_policies(request).await;
        answer.map(drop).map_err(|status| refused("SetPolicies", address, &status))
    }

    /// Sets what kinds of tasks need by default. A coordinator of a version without kinds refuses this with
    /// [`Code::Unimplemented`], and a fleet whose coordinators are not all of a version with kinds with
    /// [`Code::FailedPrecondition`].
    pub async fn set_task_kinds(
        &self,
        address: &str,
        security: &Security,
        kinds: Vec<v1::TaskKind>,
    ) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, v1::SetTaskKindsRequest { kinds });
        let answer = AdminClient::new(self.channel(address, security)?).set_task_kinds(request).await;
        answer.map(drop).map_err(|status| refused("SetTaskKinds", address, &status))
    }

    /// Returns a team; `None` if the fleet does not know it, or not any more.
    pub async fn team(&self, address: &str, security: &Security, id: String) -> Result<Option<v1::Team>, Error> {
        let request = within(QUESTION_DEADLINE, v1::GetTeamRequest { id });
        match limited!(TeamsClient::new(self.channel(address, security)?)).get_team(request).await {
            Ok(team) => Ok(Some(team.into_inner())),
            Err(status) if status.code() == Code::NotFound => Ok(None),
            Err(status) => Err(refused("GetTeam", address, &status)),
        }
    }

    /// Forms a team. A coordinator of a version without teams refuses this with [`Code::Unimplemented`], and a fleet
    /// whose coordinators are not all of a version with teams with [`Code::FailedPrecondition`].
    pub async fn form_team(
        &self,
        address: &str,
        security: &Security,
        team: v1::FormTeamRequest,
    ) -> Result<v1::Team, Error> {
        let request = within(COMMAND_DEADLINE, team);
        let answer = limited!(TeamsClient::new(self.channel(address, security)?)).form_team(request).await;
        let formed = answer.map_err(|status| refused("FormTeam", address, &status))?;
        Ok(formed.into_inner().team.unwrap_or_default())
    }

    /// Disbands a team, unless the fleet does not know it any more.
    pub async fn disband_team(&self, address: &str, security: &Security, id: String) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, v1::DisbandTeamRequest { id, term: 0 });
        match limited!(TeamsClient::new(self.channel(address, security)?)).disband_team(request).await {
            Err(status) if status.code() != Code::NotFound => Err(refused("DisbandTeam", address, &status)),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Returns the schedules that are parts of the cluster's resource, without the inputs of their tasks. A coordinator of a
    /// version without schedules refuses this with [`Code::Unimplemented`].
    pub async fn managed_schedules(&self, address: &str, security: &Security) -> Result<Vec<v1::Schedule>, Error> {
        let mut client = limited!(SchedulesClient::new(self.channel(address, security)?));
        let mut schedules = Vec::new();
        let mut page_token = String::new();
        loop {
            let request =
                v1::ListSchedulesRequest { limit: 0, page_token: page_token.clone(), managed: true, brief: true };
            let page = client.list_schedules(within(QUESTION_DEADLINE, request)).await;
            let page = page.map_err(|status| refused("ListSchedules", address, &status))?.into_inner();
            schedules.extend(page.schedules);
            // The pages are in order of the names, so the token only grows and the loop ends.
            if page.next_page_token <= page_token {
                return Ok(schedules);
            }
            page_token = page.next_page_token;
        }
    }

    /// Sets a schedule. A coordinator of a version without schedules refuses this with [`Code::Unimplemented`], and a fleet
    /// whose coordinators are not all of a version with schedules with [`Code::FailedPrecondition`].
    pub async fn set_schedule(
        &self,
        address: &str,
        security: &Security,
        schedule: v1::SetScheduleRequest,
    ) -> Result<v1::Schedule, Error> {
        let request = within(COMMAND_DEADLINE, schedule);
        let answer = limited!(SchedulesClient::new(self.channel(address, security)?)).set_schedule(request).await;
        let set = answer.map_err(|status| refused("SetSchedule", address, &status))?;
        Ok(set.into_inner().schedule.unwrap_or_default())
    }

    /// Removes a schedule that is a part of the cluster's resource, unless there is none of this name.
    pub async fn remove_schedule(&self, address: &str, security: &Security, name: String) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, v1::RemoveScheduleRequest { name, managed: true });
        let answer = limited!(SchedulesClient::new(self.channel(address, security)?)).remove_schedule(request).await;
        answer.map(drop).map_err(|status| refused("RemoveSchedule", address, &status))
    }

    /// Gives a coordinator a vote, by adding it to the members.
    pub async fn add(&self, address: &str, security: &Security, name: String, of: String) -> Result<(), Error> {
        let request = within(MEMBERSHIP_DEADLINE, v1::AddCoordinatorRequest { name, address: of });
        let answer = AdminClient::new(self.channel(address, security)?).add_coordinator(request).await;
        answer.map(drop).map_err(|status| refused("AddCoordinator", address, &status))
    }

    /// Takes a coordinator's vote away, by removing it from the members.
    pub async fn remove(&self, address: &str, security: &Security, name: String) -> Result<(), Error> {
        let request = within(MEMBERSHIP_DEADLINE, v1::RemoveCoordinatorRequest { name });
        let answer = AdminClient::new(self.channel(address, security)?).remove_coordinator(request).await;
        answer.map(drop).map_err(|status| refused("RemoveCoordinator", address, &status))
    }

    /// Transfers leadership to another voter.
    pub async fn transfer(&self, address: &str, security: &Security, to: String) -> Result<(), Error> {
        let request = within(COMMAND_DEADLINE, v1::TransferLeadershipRequest { to });
        let answer = AdminClient::new(self.channel(address, security)?).transfer_leadership(request).await;
        answer.map(drop).map_err(|status| refused("TransferLeadership", address, &status))
    }

    /// Opens a stream of change notifications from a coordinator: one at first, then one whenever something has
    /// changed, but at most one per `apart`. A notification does not contain what changed.
    pub async fn watch(
        &self,
        address: &str,
        security: &Security,
        apart: Duration,
    ) -> Result<tonic::Streaming<v1::WatchStatusResponse>, Status> {
        let channel = self.channel(address, security).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let request = v1::WatchStatusRequest { at_most_every: apart.try_into().ok() };
        FleetClient::new(channel).watch_status(request).await.map(tonic::Response::into_inner)
    }

    /// Closes the connections to all but these addresses.
    pub fn keep_only(&self, addresses: &HashSet<String>) {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner).retain(|address, _| addresses.contains(address));
    }

    fn channel(&self, address: &str, security: &Security) -> Result<Channel, Error> {
        let mut channels = self.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, channel)) = channels.get(address)
            && known.is_same(security)
        {
            return Ok(channel.clone());
        }
        let channel = new_channel(address, security)?;
        channels.insert(address.to_owned(), (security.clone(), channel.clone()));
        Ok(channel)
    }
}

fn new_channel(address: &str, security: &Security) -> Result<Channel, Error> {
    tcp_channel(address, CONNECT_DEADLINE, KEEP_ALIVE, security.tls())
        .map_err(|error| refused("connect", address, &Status::invalid_argument(error.to_string())))
}

/// Returns whether each of these coordinators responds over a new connection with this security; not if there is none.
pub async fn all_respond(addresses: &[String], security: &Security) -> bool {
    let mut asked: FuturesUnordered<_> = addresses.iter().map(|address| responds(address, security)).collect();
    while let Some(responds) = asked.next().await {
        if !responds {
            return false;
        }
    }
    !addresses.is_empty()
}

async fn responds(address: &str, security: &Security) -> bool {
    let Ok(channel) = new_channel(address, security) else { return false };
    let request = within(QUESTION_DEADLINE, v1::GetStatusRequest::default());
    let answer = limited!(FleetClient::new(channel)).get_status(request).await;
    answer.is_ok_and(|answer| !answer.into_inner().cluster_id.is_empty())
}

/// Returns all agents, including lost ones, page by page.
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
        // The pages are in order of the names, so the token only grows and the loop ends.
        if page.next_page_token <= page_token {
            return Ok(agents);
        }
        page_token = page.next_page_token;
    }
}

/// Sets a deadline that is enforced on both sides: in this client and at the server.
fn within<T>(deadline: Duration, message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(deadline);
    request
}

fn refused(method: &'static str, address: &str, status: &Status) -> Error {
    Error::Refused { method, address: address.to_owned(), code: status.code(), message: status.message().to_owned() }
}
