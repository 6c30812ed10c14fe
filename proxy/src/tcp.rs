//! Raw TCP: bytes both ways, each direction ended by its own end (half-close).

use std::io;

use tokio::io::{AsyncRead, AsyncWrite};

use crate::limits;

/// Copies until both directions have ended. Gives the bytes from `a` to `b` and from `b` to `a`.
///
/// # Errors
/// When either side broke; what was in flight then is lost, as with a reset.
pub(crate) async fn relay<A, B>(a: &mut A, b: &mut B) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    tokio::io::copy_bidirectional_with_sizes(a, b, limits::COPY_BUFFER, limits::COPY_BUFFER).await
}
