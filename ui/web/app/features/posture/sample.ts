// A mesh in which all is well, for specs.

import type { ClusterPosture, Posture } from "../../api/client";

const reachable = { status: "reachable", since: "2026-11-22T12:00:00Z" } as const;

export function sampleCluster(change: Partial<ClusterPosture> = {}): ClusterPosture {
  return {
    name: "east",
    trust_domain: "east.bank.example",
    control: reachable,
    identity: reachable,
    policy: { commit: "0f".repeat(20), digest: "sha256:00", signer: "alice@bank.example" },
    federation: [],
    manifest_errors: [],
    ...change,
  };
}

export function samplePosture(change: Partial<Posture> = {}): Posture {
  return {
    at: "2026-11-22T12:00:00Z",
    store: reachable,
    alerts: [],
    traffic: {
      window_seconds: 60,
      decisions: 120,
      allowed: 100,
      denied: 20,
      refused: 0,
      per_second: 2,
      encryption: { carried: 100, encrypted: 100, share: 1 },
      series: [],
    },
    clusters: [sampleCluster()],
    ...change,
  };
}
