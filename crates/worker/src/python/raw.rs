//! What C code and child processes write, by pipes that belong to one call.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use durable_core::model::Stream;
use tokio::net::unix::pipe::Receiver;

use crate::log::CallLog;

/// Most bytes that are taken at the end of a call: a child that goes on writing must not hold it up.
const LAST: usize = 8 << 20;

/// How long pipes are read whose call has ended: a child that writes on shall not die of it.
const AFTERWARDS: Duration = Duration::from_secs(24 * 3600);

/// The ends at which a call's output is read.
pub(super) struct RawOutput {
    sides: [Side; 2],
    buffer: Vec<u8>,
}

struct Side {
    stream: Stream,
    pipe: Receiver,
    closed: bool,
}

/// The ends at which it is written.
pub(super) type Ends = [OwnedFd; 2];

impl RawOutput {
    pub(super) fn new() -> io::Result<(Self, Ends)> {
        let side = |stream| -> io::Result<(Side, OwnedFd)> {
            let (read, written) = io::pipe()?;
            Ok((Side { stream, pipe: Receiver::from_owned_fd(read.into())?, closed: false }, written.into()))
        };
        let (stdout, out) = side(Stream::Stdout)?;
        let (stderr, err) = side(Stream::Stderr)?;
        Ok((Self { sides: [stdout, stderr], buffer: vec![0; 64 << 10] }, [out, err]))
    }

    /// Waits for output and adds some of it to the log.
    pub(super) async fn read(&mut self, log: &CallLog) {
        let [stdout, stderr] = &mut self.sides;
        tokio::select! {
            _ = stdout.pipe.readable(), if !stdout.closed => stdout.take(&mut self.buffer, log),
            _ = stderr.pipe.readable(), if !stderr.closed => stderr.take(&mut self.buffer, log),
            else => std::future::pending().await,
        }
    }

    /// Adds what has been written until now to the log.
    pub(super) fn drain(&mut self, log: &CallLog) {
        for Side { stream, pipe, .. } in &self.sides {
            let mut left = LAST;
            // Directly: the runtime may not have noticed yet that there is something.
            while left > 0
                && let Ok(count @ 1..) = rustix::io::read(pipe.as_fd(), &mut self.buffer[..])
            {
                log.write_bytes(*stream, &self.buffer[..count]);
                left = left.saturating_sub(count);
            }
        }
    }

    /// Reads on, for nobody, until everybody who could write has closed.
    pub(super) fn abandon(mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(tokio::time::timeout(AFTERWARDS, async move {
            let nobody = CallLog::default();
            while !self.sides.iter().all(|side| side.closed) {
                self.read(&nobody).await;
            }
        }));
    }
}

impl Side {
    fn take(&mut self, buffer: &mut [u8], log: &CallLog) {
        match self.pipe.try_read(buffer) {
            Ok(count @ 1..) => log.write_bytes(self.stream, &buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => self.closed = true,
        }
    }
}
