//! The ledger: accounts and entries in the ledger database, reached by TCP through the sidecar.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, NoTls};

use crate::outbound::{self, Way};

const DATABASE: &str = "ledger-db.bank.svc.cluster.local:5432";
const DATABASE_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is used for new queries this long, then left to its last query, as pools do. A sidecar closes a TCP
/// connection when the identity that opened it expires; one that is younger than half the shortest life never meets that.
const CONNECTION_LIFE: Duration = Duration::from_secs(5);

pub(crate) async fn run(listen: SocketAddr, way: Way, database: Option<String>) -> anyhow::Result<()> {
    let database = database.context("the ledger needs its database: give --database or set LEDGER_DATABASE")?;
    let config: Config = database.parse().context("LEDGER_DATABASE is not a PostgreSQL DSN")?;
    let ledger = Arc::new(Ledger { way, config, client: Mutex::new(None) });
    let router = Router::new()
        .route("/accounts/{id}", get(account))
        .route("/accounts/{id}/entries", post(entry))
        .route("/healthz", get(async || "ok"))
        .with_state(ledger);
    crate::serve::serve(listen, router).await
}

struct Ledger {
    way: Way,
    config: Config,
    client: Mutex<Option<(Arc<Client>, Instant)>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    amount: i64,
}

impl Ledger {
    /// The open connection, or a new one when there is none that works.
    async fn client(&self) -> anyhow::Result<Arc<Client>> {
        let mut slot = self.client.lock().await;
        if let Some((client, opened)) = slot.as_ref()
            && !client.is_closed()
            && opened.elapsed() < CONNECTION_LIFE
        {
            return Ok(Arc::clone(client));
        }
        let opened =
            tokio::time::timeout(DATABASE_TIMEOUT, self.open()).await.context("ledger-db did not answer")??;
        let client = Arc::new(opened);
        *slot = Some((Arc::clone(&client), Instant::now()));
        Ok(client)
    }

    async fn open(&self) -> anyhow::Result<Client> {
        let stream = outbound::connect(self.way, DATABASE, None).await?;
        let (client, connection) = self.config.connect_raw(stream, NoTls).await.context("ledger-db refused")?;
        // Ends with its client: the connection's future resolves when the last handle is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "the connection to ledger-db ended");
            }
        });
        client
            .batch_execute(
                "CREATE TABLE IF NOT EXISTS accounts (id bigint PRIMARY KEY, balance bigint NOT NULL);
                 CREATE TABLE IF NOT EXISTS entries (id bigserial PRIMARY KEY, account bigint NOT NULL, amount bigint NOT NULL);
                 INSERT INTO accounts SELECT n, 1000 FROM generate_series(1, 9) AS n ON CONFLICT DO NOTHING;",
            )
            .await?;
        Ok(client)
    }

    async fn balance(&self, id: i64) -> anyhow::Result<Option<i64>> {
        let query = "SELECT balance FROM accounts WHERE id = $1";
        // Reading twice does no harm, so a connection that breaks under a read is not the caller's concern.
        let row = match self.client().await?.query_opt(query, &[&id]).await {
            Err(error) if error.is_closed() => self.client().await?.query_opt(query, &[&id]).await?,
            other => other?,
        };
        Ok(row.map(|row| row.get(0)))
    }

    async fn book(&self, id: i64, amount: i64) -> anyhow::Result<Option<i64>> {
        let booked = self
            .client()
            .await?
            .query_opt(
                "WITH entry AS (INSERT INTO entries (account, amount) SELECT id, $2 FROM accounts WHERE id = $1 RETURNING account)
                 UPDATE accounts SET balance = balance + $2 FROM entry WHERE accounts.id = entry.account RETURNING balance",
                &[&id, &amount],
            )
            .await?;
        Ok(booked.map(|row| row.get(0)))
    }
}

async fn account(State(ledger): State<Arc<Ledger>>, Path(id): Path<i64>) -> (StatusCode, Json<Value>) {
    answer(id, StatusCode::OK, ledger.balance(id).await)
}

async fn entry(
    State(ledger): State<Arc<Ledger>>,
    Path(id): Path<i64>,
    Json(entry): Json<Entry>,
) -> (StatusCode, Json<Value>) {
    answer(id, StatusCode::CREATED, ledger.book(id, entry.amount).await)
}

fn answer(id: i64, success: StatusCode, balance: anyhow::Result<Option<i64>>) -> (StatusCode, Json<Value>) {
    match balance {
        Ok(Some(balance)) => (success, Json(json!({ "id": id, "balance": balance }))),
        Ok(None) => (StatusCode::NOT_FOUND, Json(json!({ "error": format!("there is no account {id}") }))),
        Err(error) => {
            tracing::warn!(error = format!("{error:#}"), "the ledger database failed");
            (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": "the ledger's database is away; try again" })))
        }
    }
}
