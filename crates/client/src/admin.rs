//! Calls of the Admin service about who may be in the fleet, its policies, and what kinds of tasks need. They are retried
//! like all others: a join token or a certificate that is made a second time replaces one that never arrived. What sets or
//! makes something is called at one coordinator at a time.

use robeing_proto::v1::{
    BarAgentRequest, BarAgentResponse, CertifyClientRequest, CertifyClientResponse, CreateJoinTokenRequest,
    CreateJoinTokenResponse, GetPoliciesRequest, GetTaskKindsRequest, ListAuditRecordsRequest,
    ListAuditRecordsResponse, Policies, ReleaseAgentRequest, ReleaseAgentResponse, SetPoliciesRequest,
    SetPoliciesResponse, SetTaskKindsRequest, SetTaskKindsResponse, TaskKinds,
};

use super::{ClientError, FleetClient, calls::Repeat};

impl FleetClient {
    /// Bars an agent from the fleet. An agent that is barred in this way already is no error.
    pub async fn bar_agent(&self, request: BarAgentRequest) -> Result<BarAgentResponse, ClientError> {
        self.call_admin(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.bar_agent(request).await }
        })
        .await
    }

    /// Lets an agent enrol again that was barred. The response states whether it was.
    pub async fn release_agent(&self, request: ReleaseAgentRequest) -> Result<ReleaseAgentResponse, ClientError> {
        self.call_admin(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.release_agent(request).await }
        })
        .await
    }

    /// Makes a token with which one agent can enrol once.
    pub async fn create_join_token(
        &self,
        request: CreateJoinTokenRequest,
    ) -> Result<CreateJoinTokenResponse, ClientError> {
        self.call_admin(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.create_join_token(request).await }
        })
        .await
    }

    /// Certifies the key of a client.
    pub async fn certify_client(&self, request: CertifyClientRequest) -> Result<CertifyClientResponse, ClientError> {
        self.call_admin(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.certify_client(request).await }
        })
        .await
    }

    /// Sets the policies of the fleet, in place of those that it has.
    pub async fn set_policies(&self, request: SetPoliciesRequest) -> Result<SetPoliciesResponse, ClientError> {
        self.call_admin(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.set_policies(request).await }
        })
        .await
    }

    /// Returns the policies of the fleet.
    pub async fn get_policies(&self) -> Result<Policies, ClientError> {
        self.call_admin(Repeat::AtOnce, |mut rpc| async move { rpc.get_policies(GetPoliciesRequest {}).await }).await
    }

    /// Sets what kinds of tasks need by default, in place of what was set.
    pub async fn set_task_kinds(&self, request: SetTaskKindsRequest) -> Result<SetTaskKindsResponse, ClientError> {
        self.call_admin(Repeat::InTurn, |mut rpc| {
            let request = request.clone();
            async move { rpc.set_task_kinds(request).await }
        })
        .await
    }

    /// Returns what kinds of tasks need by default.
    pub async fn get_task_kinds(&self) -> Result<TaskKinds, ClientError> {
        self.call_admin(Repeat::AtOnce, |mut rpc| async move { rpc.get_task_kinds(GetTaskKindsRequest {}).await }).await
    }

    /// Returns one page of the audit log.
    pub async fn list_audit_records(
        &self,
        request: ListAuditRecordsRequest,
    ) -> Result<ListAuditRecordsResponse, ClientError> {
        self.call_admin(Repeat::AtOnce, |mut rpc| async move { rpc.list_audit_records(request).await }).await
    }
}
