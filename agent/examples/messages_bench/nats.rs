//! Request-reply by way of a NATS server with mutual TLS: a client of what it takes and no more, which writes whatever
//! waits at once.

use std::{
    collections::HashMap,
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::{Buf, Bytes, BytesMut};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, IpAddr, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split},
    net::TcpStream,
    sync::{mpsc, oneshot},
    time::sleep,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Failure, fleet::NATS, raw::ID};

/// How long the server may take to start.
const START: Duration = Duration::from_secs(20);
const SUBJECT: &str = "bench";
const INBOX: &str = "_INBOX.bench";

/// A NATS server, which ends with this value.
pub struct NatsServer(Child);

impl NatsServer {
    /// Starts a server with mutual TLS.
    pub fn start(program: &Path, folder: &Path) -> Result<Self, Failure> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let path = |name: &str| folder.join(name).display().to_string();
        let tls = format!(
            "cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true",
            path("nats.pem"),
            path("nats.key"),
            path("ca.pem")
        );
        fs::write(
            folder.join("nats.conf"),
            format!("listen: \"127.0.0.1:{port}\"\nping_interval: \"1h\"\ntls {{ {tls} }}\n"),
        )?;
        let log = fs::File::create(folder.join("nats.log"))?;
        let mut command = Command::new(program);
        let child = command.arg("-c").arg(folder.join("nats.conf")).stdout(Stdio::null()).stderr(log).spawn()?;
        // Other processes find the server by this file.
        fs::write(folder.join("nats.port"), port.to_string())?;
        Ok(Self(child))
    }

    /// Returns the id of the process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Bytes>>>>;

/// A client that makes requests.
pub struct Nats {
    outgoing: mpsc::UnboundedSender<(u64, Bytes)>,
    waiting: Waiting,
    next: std::sync::atomic::AtomicU64,
}

impl Nats {
    /// Connects to the server of a folder.
    pub async fn connect(folder: &Path, name: &str) -> Result<Self, Failure> {
        let (mut incoming, mut writer) = split(connect(folder, name).await?);
        writer.write_all(format!("SUB {INBOX}.* 1\r\n").as_bytes()).await?;
        let waiting = Waiting::default();
        let (outgoing, requests) = mpsc::unbounded_channel();
        tokio::spawn(write_requests(writer, requests));
        let replies = Arc::clone(&waiting);
        tokio::spawn(async move {
            let mut buffer = BytesMut::new();
            while incoming.read_buf(&mut buffer).await? > 0 {
                while let Some(message) = next_message(&mut buffer)? {
                    let id = message.subject.rsplit('.').next().and_then(|id| id.parse().ok()).ok_or("no id")?;
                    let waiting = replies.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
                    waiting.map(|waiting| waiting.send(message.payload));
                }
            }
            Ok::<_, Failure>(())
        });
        Ok(Self { outgoing, waiting, next: 0.into() })
    }

    /// Makes a request, and waits for its reply.
    pub async fn request(&self, payload: Bytes) -> Result<(), Failure> {
        let id = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let (reply, awaited) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(id, reply);
        self.outgoing.send((id, payload))?;
        let reply = awaited.await?;
        if reply.len() == ID { Ok(()) } else { Err("the reply is no id".into()) }
    }
}

async fn write_requests(
    mut writer: WriteHalf<TlsStream<TcpStream>>,
    mut requests: mpsc::UnboundedReceiver<(u64, Bytes)>,
) -> Result<(), Failure> {
    let (mut some, mut buffer) = (Vec::new(), Vec::new());
    while requests.recv_many(&mut some, 1_024).await > 0 {
        for (id, payload) in some.drain(..) {
            buffer.extend_from_slice(format!("PUB {SUBJECT} {INBOX}.{id} {}\r\n", payload.len()).as_bytes());
            buffer.extend_from_slice(&payload);
            buffer.extend_from_slice(b"\r\n");
        }
        writer.write_all(&buffer).await?;
        writer.flush().await?;
        buffer.clear();
    }
    Ok(())
}

/// Replies to requests with the first bytes of each.
pub async fn respond(folder: &Path, name: &str) -> Result<(), Failure> {
    let (mut incoming, mut writer): (ReadHalf<_>, _) = split(connect(folder, name).await?);
    writer.write_all(format!("SUB {SUBJECT} 1\r\n").as_bytes()).await?;
    writer.flush().await?;
    let (mut buffer, mut replies) = (BytesMut::new(), Vec::new());
    while incoming.read_buf(&mut buffer).await? > 0 {
        while let Some(message) = next_message(&mut buffer)? {
            replies.extend_from_slice(format!("PUB {} {ID}\r\n", message.reply).as_bytes());
            replies.extend_from_slice(&message.payload[..ID]);
            replies.extend_from_slice(b"\r\n");
        }
        writer.write_all(&replies).await?;
        writer.flush().await?;
        replies.clear();
    }
    Ok(())
}

struct Message {
    subject: String,
    reply: String,
    payload: Bytes,
}

/// Takes the next message from what has arrived; `None`: it is not there as a whole.
fn next_message(buffer: &mut BytesMut) -> Result<Option<Message>, Failure> {
    loop {
        let Some(end) = buffer.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
        let line = std::str::from_utf8(&buffer[..end])?.trim_end();
        let Some(fields) = line.strip_prefix("MSG ") else {
            if line.starts_with("-ERR") {
                return Err(line.to_owned().into());
            }
            // The server pings once an hour, later than a run takes.
            buffer.advance(end + 1);
            continue;
        };
        let fields: Vec<&str> = fields.split(' ').collect();
        let len: usize = fields.last().ok_or("no length")?.parse()?;
        if buffer.len() < end + 1 + len + 2 {
            return Ok(None);
        }
        let reply = if fields.len() == 4 { fields[2] } else { "" };
        let (subject, reply) = (fields[0].to_owned(), reply.to_owned());
        buffer.advance(end + 1);
        let payload = buffer.split_to(len).freeze();
        buffer.advance(2);
        return Ok(Some(Message { subject, reply, payload }));
    }
}

/// Connects to the server of a folder with the certificate of a member.
async fn connect(folder: &Path, name: &str) -> Result<TlsStream<TcpStream>, Failure> {
    let port: u16 = fs::read_to_string(folder.join("nats.port"))?.parse()?;
    let begun = Instant::now();
    let mut connection = loop {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Ok(connection) => break connection,
            Err(error) if begun.elapsed() > START => return Err(error.into()),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    };
    connection.set_nodelay(true)?;
    // The server introduces itself before TLS begins.
    while connection.read_u8().await? != b'\n' {}
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join("ca.pem"))?)?;
    let own = CertificateDer::from_pem_file(folder.join(format!("{name}.pem")))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    let config = config.with_root_certificates(roots).with_client_auth_cert(vec![own], key)?;
    let server = ServerName::IpAddress(IpAddr::V4([127, 0, 0, 1].into()));
    let mut connection = TlsConnector::from(Arc::new(config)).connect(server, connection).await?;
    let options =
        format!("CONNECT {{\"verbose\":false,\"pedantic\":false,\"tls_required\":true,\"name\":\"{NATS}\"}}\r\n");
    connection.write_all(options.as_bytes()).await?;
    Ok(connection)
}
