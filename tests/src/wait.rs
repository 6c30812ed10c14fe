//! Waiting with an end: every wait names what it waited for.

use std::time::{Duration, Instant};

use anyhow::bail;

const POLL: Duration = Duration::from_millis(20);

/// Asks `probe` until it answers `Some`, at most for `limit`.
///
/// # Errors
/// What was waited for, when it did not come; and what `probe` says when it fails for good.
pub async fn until<T, F>(what: &str, limit: Duration, mut probe: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let started = Instant::now();
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        if started.elapsed() > limit {
            bail!("waited {:.1} s for {what}", limit.as_secs_f64());
        }
        tokio::time::sleep(POLL).await;
    }
}
