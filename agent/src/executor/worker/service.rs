//! The gRPC service that processes attach to. A stream is a process: it is attached from its first message to its end.

use std::{io, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use robeing_net::described_routes;
use robeing_proto::worker::{
    FILE_DESCRIPTOR_SET,
    v1::{
        FromProcess, Hello, ToProcess, Welcome, from_process, to_process,
        worker_server::{Worker, WorkerServer},
    },
};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status, Streaming, service::Routes};

use super::attached::{Attached, MAX_PROCESSES, Member};

/// How long a process may take to say hello.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of a process's name.
pub const MAX_PROCESS_NAME: usize = 63;

/// The service, with gRPC health and reflection.
pub(super) fn routes(attached: Arc<Attached>, welcome: Welcome) -> io::Result<Routes> {
    let service = robeing_net::limited!(WorkerServer::new(Service { attached, welcome }));
    Ok(described_routes(&[FILE_DESCRIPTOR_SET])?.add_service(service))
}

struct Service {
    attached: Arc<Attached>,
    welcome: Welcome,
}

#[tonic::async_trait]
impl Worker for Service {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<ToProcess, Status>> + Send>>;

    async fn attach(&self, request: Request<Streaming<FromProcess>>) -> Result<Response<Self::AttachStream>, Status> {
        let mut incoming = request.into_inner();
        let hello = timeout(HELLO_WITHIN, hello(&mut incoming)).await.map_err(|_| {
            Status::deadline_exceeded(format!("no Hello within {} s of attaching", HELLO_WITHIN.as_secs()))
        })??;
        let member = self.attached.join(&hello.name, hello.answers_health_checks).ok_or_else(|| {
            Status::resource_exhausted(format!("{MAX_PROCESSES} processes are attached, which is the most; end some"))
        })?;
        Ok(Response::new(Box::pin(talk(member, incoming, Arc::clone(&self.attached), self.welcome.clone()))))
    }
}

/// What the process is told, until either side ends it.
fn talk(
    mut member: Member,
    incoming: Streaming<FromProcess>,
    attached: Arc<Attached>,
    welcome: Welcome,
) -> impl Stream<Item = Result<ToProcess, Status>> {
    async_stream::stream! {
        // Beside this stream, so that a process that is slow to read is still heard.
        let mut listening = AbortOnDropHandle::new(tokio::spawn(listen(member.number, incoming, attached)));
        yield Ok(ToProcess { message: Some(to_process::Message::Welcome(welcome)) });
        loop {
            tokio::select! {
                biased;
                end = &mut listening => {
                    if let Ok(Err(status)) = end {
                        yield Err(status);
                    }
                    break;
                }
                () = member.detached.cancelled() => {
                    yield Err(Status::aborted("detached: what the agent says was not read; attach again"));
                    break;
                }
                Some(message) = member.outgoing.recv() => yield Ok(message),
            }
        }
    }
}

async fn hello(incoming: &mut Streaming<FromProcess>) -> Result<Hello, Status> {
    match incoming.message().await?.and_then(|message| message.message) {
        Some(from_process::Message::Hello(hello)) if hello.name.len() > MAX_PROCESS_NAME => {
            Err(Status::invalid_argument(format!("the name in Hello is longer than {MAX_PROCESS_NAME} bytes")))
        }
        Some(from_process::Message::Hello(hello)) => Ok(hello),
        _ => Err(Status::invalid_argument("the first message of a process must be Hello")),
    }
}

/// Hears the process to its end, whose kind is the answer.
async fn listen(number: u64, mut incoming: Streaming<FromProcess>, attached: Arc<Attached>) -> Result<(), Status> {
    let end = loop {
        match incoming.message().await {
            Ok(Some(FromProcess { message: Some(from_process::Message::Result(result)) })) => {
                attached.answered(number, result);
            }
            Ok(Some(FromProcess { message: Some(from_process::Message::Health(health)) })) => {
                attached.said_health(number, health);
            }
            Ok(Some(FromProcess { message: Some(from_process::Message::Hello(_)) })) => {
                break Err(Status::invalid_argument("a process says Hello once, as its first message"));
            }
            // Of a newer client, perhaps.
            Ok(Some(FromProcess { message: None })) => {}
            Ok(None) => break Ok(()),
            Err(status) => {
                if status.code() == Code::OutOfRange {
                    attached.overwhelmed(number);
                }
                break Err(status);
            }
        }
    };
    // At once: the stream to a process that is gone may not be looked at for a while.
    attached.leave(number);
    end
}
