//! Messages to and from a Python process: eight bytes of length, big endian, then JSON.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Largest message in either direction, with some room for what stands around a value.
pub(super) const MAX_BYTES: usize = (256 << 20) + (1 << 20);

pub(super) async fn write(to: &mut (impl AsyncWrite + Unpin), payload: &[u8]) -> io::Result<()> {
    to.write_all(&(payload.len() as u64).to_be_bytes()).await?;
    to.write_all(payload).await?;
    to.flush().await
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
