use std::{
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::{StreamExt, stream::BoxStream};
use robeing_proto::v1::{self, fleet_server::FleetServer};
use tokio::{net::TcpListener, sync::watch, time::timeout};
use tonic::{Request, Response, Streaming, transport::Server};

use super::*;

/// How long a test waits for what should happen at once.
const PATIENCE: Duration = Duration::from_secs(30);
const APART: Duration = Duration::from_secs(3);

/// How a coordinator responds to a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Tells,
    Ends,
    CannotTell,
}

/// A fake coordinator that reports the changes of a number.
#[derive(Clone)]
struct Coordinator {
    manner: watch::Receiver<Manner>,
    revision: watch::Receiver<u64>,
    listened: Arc<AtomicUsize>,
}

type Told<T> = BoxStream<'static, Result<T, Status>>;
type Answer<T> = Result<Response<T>, Status>;

fn not_here<T>() -> Answer<T> {
    Err(Status::unimplemented("not here"))
}

#[tonic::async_trait]
impl v1::fleet_server::Fleet for Coordinator {
    type SubmitStreamStream = Told<v1::SubmitStreamResponse>;
    type WatchTasksStream = Told<v1::WatchTasksResponse>;
    type WatchStatusStream = Told<v1::WatchStatusResponse>;
    type TaskLogsStream = Told<v1::TaskLogsResponse>;

    async fn watch_status(&self, request: Request<v1::WatchStatusRequest>) -> Answer<Self::WatchStatusStream> {
        assert_eq!(request.into_inner().at_most_every, APART.try_into().ok());
        self.listened.fetch_add(1, Ordering::SeqCst);
        let manner = *self.manner.borrow();
        if manner == Manner::CannotTell {
            return not_here();
        }
        let (mut until, mut revisions) = (self.manner.clone(), self.revision.clone());
        let end = async move {
            let _ = until.wait_for(|manner| *manner == Manner::Ends).await;
        };
        revisions.mark_changed();
        let changes = futures::stream::unfold(revisions, |mut revisions| async move {
            revisions.changed().await.ok()?;
            let revision = *revisions.borrow_and_update();
            Some((Ok(v1::WatchStatusResponse { revision }), revisions))
        });
        Ok(Response::new(changes.take_until(Box::pin(end)).boxed()))
    }

    async fn submit(&self, _: Request<v1::SubmitRequest>) -> Answer<v1::SubmitResponse> {
        not_here()
    }

    async fn submit_stream(&self, _: Request<Streaming<v1::SubmitStreamRequest>>) -> Answer<Self::SubmitStreamStream> {
        not_here()
    }

    async fn get_task(&self, _: Request<v1::GetTaskRequest>) -> Answer<v1::Task> {
        not_here()
    }

    async fn list_tasks(&self, _: Request<v1::ListTasksRequest>) -> Answer<v1::ListTasksResponse> {
        not_here()
    }

    async fn watch_tasks(&self, _: Request<v1::WatchTasksRequest>) -> Answer<Self::WatchTasksStream> {
        not_here()
    }

    async fn list_subtasks(&self, _: Request<v1::ListSubtasksRequest>) -> Answer<v1::ListSubtasksResponse> {
        not_here()
    }

    async fn cancel_tasks(&self, _: Request<v1::CancelTasksRequest>) -> Answer<v1::CancelTasksResponse> {
        not_here()
    }

    async fn task_logs(&self, _: Request<v1::TaskLogsRequest>) -> Answer<Self::TaskLogsStream> {
        not_here()
    }

    async fn list_agents(&self, _: Request<v1::ListAgentsRequest>) -> Answer<v1::ListAgentsResponse> {
        not_here()
    }

    async fn get_status(&self, _: Request<v1::GetStatusRequest>) -> Answer<v1::FleetStatus> {
        not_here()
    }
}

/// A fleet, its coordinator, and the triggered fleets.
struct Scene {
    manner: watch::Sender<Manner>,
    revision: watch::Sender<u64>,
    listened: Arc<AtomicUsize>,
    address: String,
    pending: Arc<Pending>,
    news: FleetWatches,
    coordinators: Arc<CoordinatorClient>,
    _serving: AbortOnDropHandle<()>,
}

impl Scene {
    async fn with(manner: Manner) -> Self {
        let (manner, revision) = (watch::Sender::new(manner), watch::Sender::new(7));
        let listened = Arc::new(AtomicUsize::new(0));
        let coordinator =
            Coordinator { manner: manner.subscribe(), revision: revision.subscribe(), listened: Arc::clone(&listened) };
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let incoming = futures::stream::unfold(listener, |listener| async move {
            let stream = listener.accept().await.map(|(stream, _)| stream);
            Some((stream, listener))
        });
        let server = Server::builder().add_service(FleetServer::new(coordinator));
        let serving = AbortOnDropHandle::new(tokio::spawn(async move {
            let _ = server.serve_with_incoming(incoming).await;
        }));
        let pending = Arc::new(Pending::default());
        let (news, coordinators) = (FleetWatches::new(Arc::clone(&pending)), Arc::default());
        Self { manner, revision, listened, address, pending, news, coordinators, _serving: serving }
    }

    fn follow(&self) -> bool {
        let mut cluster = RobeingCluster::new("fleet", Default::default());
        cluster.metadata.namespace = Some("n".into());
        self.news.follow(&cluster, &self.coordinators, (&self.address, &Security::plain()), APART)
    }

    fn listened(&self) -> usize {
        self.listened.load(Ordering::SeqCst)
    }

    async fn woken(&self) {
        let woken = timeout(PATIENCE, Arc::clone(&self.pending).clusters().next()).await;
        assert_eq!(woken.expect("it is woken").map(|fleet| fleet.name), Some("fleet".into()));
    }
}

#[tokio::test]
async fn what_a_coordinator_tells_wakes_its_fleet_and_it_is_listened_to_once() {
    let scene = Scene::with(Manner::Tells).await;
    assert!(scene.follow());
    scene.woken().await;
    for revision in 8..11 {
        assert!(scene.follow(), "it is already watched");
        scene.revision.send_replace(revision);
        scene.woken().await;
    }
    assert_eq!(scene.listened(), 1);
    scene.news.keep("n", "fleet", std::slice::from_ref(&scene.address));
    assert_eq!(scene.news.lock().len(), 1);
    scene.news.keep("n", "fleet", &["10.0.0.1:8080".into()]);
    assert!(scene.news.lock().is_empty(), "its pod is gone");
}

#[tokio::test]
async fn a_coordinator_of_a_version_that_tells_nothing_is_tried_once() {
    let scene = Scene::with(Manner::CannotTell).await;
    assert!(scene.follow(), "it is not known yet");
    scene.woken().await;
    for _ in 0..3 {
        assert!(!scene.follow());
    }
    assert_eq!(scene.listened(), 1);
}

#[tokio::test]
async fn a_coordinator_that_falls_silent_wakes_its_fleet_and_is_not_tried_without_pause() {
    let scene = Scene::with(Manner::Tells).await;
    assert!(scene.follow());
    scene.woken().await;
    let began = Instant::now();
    scene.manner.send_replace(Manner::Ends);
    timeout(PATIENCE, async {
        while scene.follow() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it is known to be silent");
    assert_eq!(scene.listened(), 1, "not before the pause has passed");
    scene.woken().await;
    assert!(began.elapsed() >= FIRST_PAUSE, "{:?}", began.elapsed());
    scene.manner.send_replace(Manner::Tells);
    assert!(scene.follow(), "and then again");
    scene.woken().await;
    assert_eq!(scene.listened(), 2);
}
