//! The gRPC service that processes attach to. Each stream is one process, attached from its first message until the
//! stream ends.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Waker},
    time::Duration,
};

use futures::Stream;
use robeing_net::described_routes;
use robeing_proto::worker::{
    FILE_DESCRIPTOR_SET,
    v1::{
        FromProcess, Hello, SendMessage, ToProcess, Welcome, from_process, to_process,
        worker_server::{Worker, WorkerServer},
    },
};
use tokio::{
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Request, Response, Status, Streaming, service::Routes};

use super::{
    attached::{Attached, MAX_PROCESSES, Member},
    batches::{Gathering, unpack},
    mail::{MAX_SENDING, WorkerMail},
};

/// How long a process may take to send Hello.
pub const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// The maximum length of a process's name, in bytes.
pub const MAX_PROCESS_NAME: usize = 63;

/// Returns the service, with gRPC health and reflection.
pub(super) fn routes(attached: Arc<Attached>, mail: Arc<WorkerMail>, welcome: Welcome) -> io::Result<Routes> {
    let service = robeing_net::limited!(WorkerServer::new(Service { attached, mail, welcome }));
    Ok(described_routes(&[FILE_DESCRIPTOR_SET])?.add_service(service))
}

struct Service {
    attached: Arc<Attached>,
    mail: Arc<WorkerMail>,
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
        let letters = Letters::new(Arc::clone(&self.mail), &member, hello.handles_messages);
        let gathering = Gathering::new(hello.takes_batches);
        let attached = Arc::clone(&self.attached);
        Ok(Response::new(Box::pin(talk(member, gathering, letters, incoming, attached, self.welcome.clone()))))
    }
}

/// Returns the messages to the process, until either side ends the stream.
fn talk(
    mut member: Member,
    mut gathering: Gathering,
    letters: Letters,
    incoming: Streaming<FromProcess>,
    attached: Arc<Attached>,
    welcome: Welcome,
) -> impl Stream<Item = Result<ToProcess, Status>> {
    async_stream::stream! {
        // A separate task, so that messages from a process that is slow to read are still received.
        let mut listening = AbortOnDropHandle::new(tokio::spawn(listen(member.number, letters, incoming, attached)));
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
                    yield Err(Status::aborted("detached: the process did not read its messages; attach again"));
                    break;
                }
                Some(message) = gathering.next(&mut member.outgoing) => yield Ok(message),
            }
        }
    }
}

/// The messages between a process and other agents, until dropped.
struct Letters {
    mail: Arc<WorkerMail>,
    number: u64,
    outgoing: mpsc::Sender<ToProcess>,
    /// Messages that are being sent, and those that are refused because there are too many.
    sending: JoinSet<()>,
    /// The room for messages that are not answered.
    room: Arc<Semaphore>,
}

impl Letters {
    fn new(mail: Arc<WorkerMail>, member: &Member, handles_messages: bool) -> Self {
        if handles_messages {
            mail.join(member.number, member.sender.clone());
        }
        Self {
            mail,
            number: member.number,
            outgoing: member.sender.clone(),
            sending: JoinSet::new(),
            room: Arc::new(Semaphore::new(MAX_SENDING)),
        }
    }

    /// Sends a message of the process, and then its outcome to the process.
    fn send(&mut self, message: SendMessage) {
        while self.sending.try_join_next().is_some() {}
        if self.sending.len() >= 2 * MAX_SENDING {
            // The process does not even read the refusals.
            return;
        }
        let (mail, outgoing) = (Arc::clone(&self.mail), self.outgoing.clone());
        let place = Arc::clone(&self.room).try_acquire_owned().ok();
        let mut sending = Box::pin(async move {
            let outcome = mail.send(message, place.is_none()).await;
            let message = ToProcess { message: Some(to_process::Message::SendOutcome(outcome)) };
            // Once the process has the outcome, it may send the next message.
            drop(place);
            // The process may be gone.
            let _ = outgoing.send(message).await;
        });
        // Begun here, because tasks begin in no certain order, and messages are sent in that of the process.
        if sending.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.sending.spawn(sending);
        }
    }
}

impl Drop for Letters {
    fn drop(&mut self) {
        self.mail.leave(self.number);
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

/// Receives the messages of the process until its stream ends; returns how it ended.
async fn listen(
    number: u64,
    mut letters: Letters,
    mut incoming: Streaming<FromProcess>,
    attached: Arc<Attached>,
) -> Result<(), Status> {
    let end = loop {
        match incoming.message().await {
            Ok(Some(FromProcess { message: Some(message) })) => {
                if let Err(status) = received(number, &mut letters, &attached, message) {
                    break Err(status);
                }
            }
            // Possibly a message of a newer client.
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
    // Detach here already: the outgoing stream of a process that is gone may not be polled for a while.
    attached.leave(number);
    end
}

/// Takes a message of the process. An error ends its stream.
fn received(
    number: u64,
    letters: &mut Letters,
    attached: &Attached,
    message: from_process::Message,
) -> Result<(), Status> {
    match message {
        from_process::Message::Result(result) => attached.answered(number, result),
        from_process::Message::Health(health) => attached.said_health(number, health),
        from_process::Message::MessageOutcome(outcome) => letters.mail.answered(number, outcome),
        from_process::Message::SendMessage(message) => letters.send(message),
        from_process::Message::Progress(progress) => attached.progressed(number, progress),
        from_process::Message::Log(log) => attached.logged(number, log),
        from_process::Message::Batch(batch) => unpack(attached, number, batch)?,
        from_process::Message::Hello(_) => {
            return Err(Status::invalid_argument("a process sends Hello once, as its first message"));
        }
    }
    Ok(())
}
