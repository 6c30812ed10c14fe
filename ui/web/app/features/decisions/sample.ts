// A decision for specs.

import type { Decision } from "../../api/client";

export function sampleDecision(change: Partial<Decision> = {}): Decision {
  return {
    id: "01932e4a-0000-7000-8000-000000000001",
    time: "2026-11-22T12:00:00.000001Z",
    log: "east.bank.example/signet-log",
    proxy: "spiffe://east.bank.example/ns/bank/proxy/ledger",
    source: "spiffe://east.bank.example/ns/bank/sa/web",
    destination: "spiffe://east.bank.example/ns/bank/sa/ledger",
    service: "east.bank.example/bank/ledger",
    action: "http:POST",
    path: "/accounts/1/entries",
    decision: "deny",
    enforcement: "enforce",
    policy_ids: [],
    policy_commit: "0f".repeat(20),
    bundle_digest: "sha256:00",
    reason: "no_permit",
    tls: "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384",
    refusal: false,
    count: 1,
    leaf_index: 7,
    ...change,
  };
}
