//! What a process holds of the network: a port on which it listens, and its end of a connection.

use std::{
    io,
    net::SocketAddr,
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes};

use super::{End, HostId, MAX_SEGMENT, Unit, WINDOW, Wire, address, reset};

/// One end of a connection.
pub struct Socket {
    pub(super) wire: Wire,
    pub(super) conn: u64,
    pub(super) end: End,
}

/// A port on which a process listens.
pub struct Port {
    pub(super) wire: Wire,
    pub(super) host: HostId,
    pub(super) port: u16,
}

impl Port {
    /// Returns its address.
    pub fn local_addr(&self) -> SocketAddr {
        address(self.host, self.port)
    }

    /// Waits for the next connection. Cancellation-safe.
    pub async fn accept(&mut self) -> (Socket, SocketAddr) {
        std::future::poll_fn(|cx| {
            let mut state = self.wire.state();
            let Some(listening) = state.listeners.get_mut(&(self.host, self.port)) else { return Poll::Pending };
            if let Some(conn) = listening.queue.pop_front() {
                // A connection that was closed before it was accepted is returned as well, and turns out to be broken.
                let peer = state.conns.get(&conn).map_or(self.host, |conn| conn.hosts[0]);
                let from = address(peer, 32_768 + (conn % 28_000) as u16);
                return Poll::Ready((Socket { wire: self.wire.clone(), conn, end: 1 }, from));
            }
            let before = listening.waker.replace(cx.waker().clone());
            drop(state);
            drop(before);
            Poll::Pending
        })
        .await
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let gone = {
            let mut state = self.wire.state();
            let gone = state.listeners.remove(&(self.host, self.port));
            for conn in gone.iter().flat_map(|listening| &listening.queue) {
                state.let_go(*conn, 1);
            }
            gone
        };
        drop(gone);
    }
}

impl Socket {
    /// Returns the address of the other end.
    pub fn peer_addr(&self) -> Option<SocketAddr> {
        let state = self.wire.state();
        let conn = state.conns.get(&self.conn)?;
        Some(address(conn.hosts[1 - self.end], conn.port))
    }

    /// Reads bytes that have arrived; returns none at the end of the stream.
    pub fn poll_read(&self, cx: &Context<'_>, most: usize) -> Poll<io::Result<Bytes>> {
        let mut state = self.wire.state();
        let Some(conn) = state.conns.get_mut(&self.conn) else { return Poll::Ready(Err(reset())) };
        if conn.reset[self.end] {
            return Poll::Ready(Err(reset()));
        }
        let way = &mut conn.ways[1 - self.end];
        if let Some(front) = way.arrived.front_mut() {
            let data = front.split_to(most.min(front.len()));
            if !front.has_remaining() {
                way.arrived.pop_front();
            }
            way.unread -= data.len();
            let writer = way.writer.take();
            drop(state);
            writer.into_iter().for_each(Waker::wake);
            return Poll::Ready(Ok(data));
        }
        if way.finished {
            return Poll::Ready(Ok(Bytes::new()));
        }
        let before = way.reader.replace(cx.waker().clone());
        drop(state);
        drop(before);
        Poll::Pending
    }

    /// Sends as many bytes as fit.
    pub fn poll_write(&self, cx: &Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.wire.state();
        let Some(conn) = state.conns.get_mut(&self.conn) else { return Poll::Ready(Err(reset())) };
        let way = &mut conn.ways[self.end];
        if conn.reset[self.end] || way.shut {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(way.unread).min(MAX_SEGMENT).min(data.len());
        if room == 0 && !data.is_empty() {
            let before = way.writer.replace(cx.waker().clone());
            drop(state);
            drop(before);
            return Poll::Pending;
        }
        state.send(self.conn, self.end, Unit::Data(Bytes::copy_from_slice(&data[..room])));
        Poll::Ready(Ok(room))
    }

    /// Sends the end of the stream.
    pub fn shut_down(&self) {
        let mut state = self.wire.state();
        let Some(conn) = state.conns.get_mut(&self.conn) else { return };
        if !std::mem::replace(&mut conn.ways[self.end].shut, true) {
            state.send(self.conn, self.end, Unit::Fin);
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.wire.state().let_go(self.conn, self.end);
    }
}
