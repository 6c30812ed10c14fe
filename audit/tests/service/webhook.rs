//! A system that takes alerts.

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::StatusCode;
use parking_lot::Mutex;

use crate::outside::Https;

/// What it was sent: the signature header and the body.
type Taken = Arc<Mutex<Vec<(String, Bytes)>>>;

/// A webhook that refuses the first call and takes the rest.
pub struct Webhook {
    pub server: Https,
    calls: Taken,
}

impl Webhook {
    pub async fn start(directory: &Path) -> Self {
        let calls = Taken::default();
        let taken = Arc::clone(&calls);
        let server = Https::start(directory, move |head, body| {
            let signature = head.headers.get("signet-signature").unwrap().to_str().unwrap().to_owned();
            let mut calls = taken.lock();
            calls.push((signature, body));
            let first = calls.len() == 1;
            (if first { StatusCode::INTERNAL_SERVER_ERROR } else { StatusCode::NO_CONTENT }, String::new())
        });
        Self { server: server.await, calls }
    }

    /// The alerts that were taken, each with a signature that holds: cause, subject and state.
    pub fn alerts(&self, secret: &str) -> Vec<(String, String, String)> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let calls = self.calls.lock();
        // The first was refused and came again.
        let alerts = calls.iter().skip(1).map(|(signature, body)| {
            let (at, made) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
            let signed = [format!("{at}.").as_bytes(), body].concat();
            hmac::verify(&key, &signed, &hex::decode(made).unwrap()).unwrap();
            let alert: serde_json::Value = serde_json::from_slice(body).unwrap();
            assert_eq!(alert["version"], "signet.alert/v1");
            let text = |field: &str| alert[field].as_str().unwrap().to_owned();
            (text("cause"), text("subject"), text("state"))
        });
        alerts.collect()
    }

    /// What the refused call said, and the one that followed it.
    pub fn first_two(&self) -> Option<(Bytes, Bytes)> {
        let calls = self.calls.lock();
        Some((calls.first()?.1.clone(), calls.get(1)?.1.clone()))
    }
}
