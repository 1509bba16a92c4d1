//! Calls of the DeadLetters service. Calls are retried like all others: name the epochs of the letters, and a call that
//! is repeated does nothing a second time.

use std::time::Duration;

use robeing_proto::v1::{
    DeadLetterRef, DropDeadLettersRequest, DropDeadLettersResponse, ListDeadLettersRequest, ListDeadLettersResponse,
    RetryDeadLettersRequest, RetryDeadLettersResponse, dead_letters_client::DeadLettersClient,
};
use tonic::{Response, Status};

use super::{
    ClientError, FleetClient, Wire,
    calls::{Repeat, too_old},
    limited,
};

/// Returns how a call about these letters may be repeated: one that names no epoch does another thing if it comes late.
fn repeat(letters: &[DeadLetterRef]) -> Repeat {
    if letters.iter().all(|letter| letter.epoch.is_some()) { Repeat::AtOnce } else { Repeat::InTurn }
}

impl FleetClient {
    /// Returns a page of the dead letters, in the order in which they died.
    pub async fn list_dead_letters(
        &self,
        request: ListDeadLettersRequest,
    ) -> Result<ListDeadLettersResponse, ClientError> {
        self.call_dead_letters(Repeat::AtOnce, |mut rpc| {
            let request = request.clone();
            async move { rpc.list_dead_letters(request).await }
        })
        .await
    }

    /// Tries dead letters again. The response has a result for each.
    pub async fn retry_dead_letters(
        &self,
        request: RetryDeadLettersRequest,
    ) -> Result<RetryDeadLettersResponse, ClientError> {
        self.call_dead_letters(repeat(&request.letters), |mut rpc| {
            let request = request.clone();
            async move { rpc.retry_dead_letters(request).await }
        })
        .await
    }

    /// Drops dead letters. The response has a result for each.
    pub async fn drop_dead_letters(
        &self,
        request: DropDeadLettersRequest,
    ) -> Result<DropDeadLettersResponse, ClientError> {
        self.call_dead_letters(repeat(&request.letters), |mut rpc| {
            let request = request.clone();
            async move { rpc.drop_dead_letters(request).await }
        })
        .await
    }

    /// Makes a call of the DeadLetters service, as [`FleetClient::call`] does.
    async fn call_dead_letters<T, F, A>(&self, repeat: Repeat, attempt: F) -> Result<T, ClientError>
    where
        F: Fn(DeadLettersClient<Wire>) -> A,
        A: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(repeat, Duration::ZERO, |target| {
            let call = attempt(limited!(DeadLettersClient::new(self.wire(target))));
            async move { call.await.map_err(|status| too_old(status, "keeps no dead letters")) }
        })
        .await
    }
}
