//! The demo's table: who calls whom with what, and what must come of it.

use super::calls::Outcome;

pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) source: &'static str,
    /// "<cluster>/<namespace>/<service>".
    pub(crate) destination: &'static str,
    pub(crate) call: Call,
    pub(crate) expect: Expect,
    pub(crate) cross_cluster: bool,
}

pub(crate) enum Call {
    Get {
        uri: &'static str,
    },
    Post {
        uri: &'static str,
        body: &'static str,
    },
    Pay,
    Refund,
    /// Opens a TCP connection and asks PostgreSQL whether it speaks TLS, the shortest question it answers.
    Tcp {
        authority: &'static str,
    },
}

pub(crate) enum Expect {
    /// The HTTP status of a call that reaches the app; gRPC answers OK, TCP an answer, whatever is given here.
    Allow(u16),
    Deny,
}

impl Row {
    /// The Cedar action that the call's record names.
    pub(crate) fn action(&self) -> &'static str {
        match self.call {
            Call::Get { .. } => "http:GET",
            Call::Post { .. } => "http:POST",
            Call::Pay | Call::Refund => "grpc:call",
            Call::Tcp { .. } => "tcp:connect",
        }
    }

    /// Whether the call's records carry its trace id: a TCP connection has no header that could.
    pub(crate) fn traced(&self) -> bool {
        !matches!(self.call, Call::Tcp { .. })
    }

    /// The row whose call the called app makes in its turn: a payment is booked on the ledger.
    pub(crate) fn makes(&self) -> Option<&'static str> {
        let books = matches!((&self.call, &self.expect), (Call::Pay, Expect::Allow(_)));
        books.then_some("payments-ledger-post")
    }

    /// # Errors
    /// What came instead of what the table says.
    pub(crate) fn verdict(&self, outcome: &Outcome) -> Result<(), String> {
        let fits = match (&self.expect, outcome) {
            (Expect::Allow(expected), Outcome::Status { status, .. }) => status == expected,
            (Expect::Deny, Outcome::Status { status, decision }) => *status == 403 && *decision,
            (Expect::Allow(_), Outcome::Grpc { code, .. }) => *code == tonic::Code::Ok,
            (Expect::Deny, Outcome::Grpc { code, decision }) => *code == tonic::Code::PermissionDenied && *decision,
            (Expect::Allow(_), Outcome::Tcp { answered }) => *answered,
            (Expect::Deny, Outcome::Tcp { answered }) => !answered,
            (_, Outcome::Failed(what)) => return Err(what.clone()),
        };
        if fits { Ok(()) } else { Err(format!("{outcome:?}")) }
    }
}

pub(crate) const TABLE: &[Row] = &[
    Row {
        name: "web-ledger-get",
        source: "east/bank/web",
        destination: "east/bank/ledger",
        call: Call::Get { uri: "http://ledger.bank.svc.cluster.local/accounts/1" },
        expect: Expect::Allow(200),
        cross_cluster: false,
    },
    Row {
        name: "web-payments-pay",
        source: "east/bank/web",
        destination: "east/bank/payments",
        call: Call::Pay,
        expect: Expect::Allow(0),
        cross_cluster: false,
    },
    Row {
        name: "payments-ledger-post",
        source: "east/bank/payments",
        destination: "east/bank/ledger",
        call: Call::Post { uri: "http://ledger.bank.svc.cluster.local/accounts/1/entries", body: r#"{"amount": 1}"# },
        expect: Expect::Allow(201),
        cross_cluster: false,
    },
    Row {
        name: "ledger-ledger-db",
        source: "east/bank/ledger",
        destination: "east/bank/ledger-db",
        call: Call::Tcp { authority: "ledger-db.bank.svc.cluster.local:5432" },
        expect: Expect::Allow(0),
        cross_cluster: false,
    },
    Row {
        name: "web-fraud-get",
        source: "east/bank/web",
        destination: "west/bank/fraud",
        call: Call::Get { uri: "http://fraud.bank.svc.clusterset.local/score?account=1" },
        expect: Expect::Allow(200),
        cross_cluster: true,
    },
    Row {
        name: "reporting-ledger-get",
        source: "west/bank/reporting",
        destination: "east/bank/ledger",
        call: Call::Get { uri: "http://ledger.bank.svc.clusterset.local/accounts/1" },
        expect: Expect::Allow(200),
        cross_cluster: true,
    },
    Row {
        name: "web-ledger-post",
        source: "east/bank/web",
        destination: "east/bank/ledger",
        call: Call::Post { uri: "http://ledger.bank.svc.cluster.local/accounts/1/entries", body: r#"{"amount": 1}"# },
        expect: Expect::Deny,
        cross_cluster: false,
    },
    Row {
        name: "web-payments-refund",
        source: "east/bank/web",
        destination: "east/bank/payments",
        call: Call::Refund,
        expect: Expect::Deny,
        cross_cluster: false,
    },
    Row {
        name: "web-ledger-db",
        source: "east/bank/web",
        destination: "east/bank/ledger-db",
        call: Call::Tcp { authority: "ledger-db.bank.svc.cluster.local:5432" },
        expect: Expect::Deny,
        cross_cluster: false,
    },
    Row {
        name: "reporting-ledger-post",
        source: "west/bank/reporting",
        destination: "east/bank/ledger",
        call: Call::Post {
            uri: "http://ledger.bank.svc.clusterset.local/accounts/1/entries",
            body: r#"{"amount": 1}"#,
        },
        expect: Expect::Deny,
        cross_cluster: true,
    },
    Row {
        name: "web-reporting-get",
        source: "east/bank/web",
        destination: "west/bank/reporting",
        call: Call::Get { uri: "http://reporting.bank.svc.clusterset.local/daily" },
        expect: Expect::Deny,
        cross_cluster: true,
    },
    Row {
        name: "ledger-payments-pay",
        source: "east/bank/ledger",
        destination: "east/bank/payments",
        call: Call::Pay,
        expect: Expect::Deny,
        cross_cluster: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_403_without_a_decision_is_not_a_denial() {
        let row = TABLE.iter().find(|row| row.name == "web-ledger-post").unwrap();
        assert!(row.verdict(&Outcome::Status { status: 403, decision: true }).is_ok());
        assert!(row.verdict(&Outcome::Status { status: 403, decision: false }).is_err());
        assert!(row.verdict(&Outcome::Status { status: 201, decision: false }).is_err());
    }

    #[test]
    fn an_allowed_connection_must_answer() {
        let row = TABLE.iter().find(|row| row.name == "ledger-ledger-db").unwrap();
        assert!(row.verdict(&Outcome::Tcp { answered: true }).is_ok());
        assert!(row.verdict(&Outcome::Tcp { answered: false }).is_err());
        assert!(row.verdict(&Outcome::Failed("refused".into())).is_err());
    }
}
