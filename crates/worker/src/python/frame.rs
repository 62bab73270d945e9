//! Messages to and from a Python process: eight bytes of length, big endian, then JSON, or output of a call.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    sync::mpsc,
};

/// Largest message in either direction, with some room for what stands around a value.
pub(super) const MAX_BYTES: usize = (256 << 20) + (1 << 20);

/// A message to a process, and descriptors that it gets with it.
pub(super) struct Outgoing {
    pub(super) payload: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Outgoing {
    pub(super) fn plain(payload: &serde_json::Value) -> Self {
        Self { payload: payload.to_string().into_bytes(), descriptors: Vec::new() }
    }
}

/// Sends messages one after the other. A task of its own: a message that has begun is also ended.
pub(super) async fn write_all(mut to: UnixStream, mut messages: mpsc::UnboundedReceiver<Outgoing>) {
    while let Some(message) = messages.recv().await {
        if write(&mut to, message).await.is_err() {
            // The process has ended, which is noticed where its answers are read.
            break;
        }
    }
}

async fn write(to: &mut UnixStream, message: Outgoing) -> io::Result<()> {
    let head = (message.payload.len() as u64).to_be_bytes();
    let fds: Vec<BorrowedFd<'_>> = message.descriptors.iter().map(AsFd::as_fd).collect();
    let sent = to
        .async_io(Interest::WRITABLE, || {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
            let mut extra = SendAncillaryBuffer::new(&mut space);
            extra.push(SendAncillaryMessage::ScmRights(&fds));
            let flags = SendFlags::NOSIGNAL;
            Ok(sendmsg(to.as_fd(), &[IoSlice::new(&head)], &mut extra, flags)?)
        })
        .await?;
    to.write_all(&head[sent..]).await?;
    to.write_all(&message.payload).await
}

/// The next message; none when the other side has closed.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut header = [0; 8];
    match from.read_exact(&mut header).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    };
    let length = usize::try_from(u64::from_be_bytes(header)).unwrap_or(usize::MAX);
    if length > MAX_BYTES {
        return Err(io::Error::other(format!("a message of {length} bytes")));
    }
    let mut payload = vec![0; length];
    from.read_exact(&mut payload).await?;
    Ok(Some(payload))
}
