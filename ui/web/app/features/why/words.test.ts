import { describe, expect, it } from "vitest";

import { sampleDecision } from "../decisions/sample";
import { tlsWords, verdictWords, whoCalledWhat } from "./words";

describe("a decision in words", () => {
  it("says who called what", () => {
    expect(whoCalledWhat(sampleDecision())).toBe("web called POST /accounts/1/entries on ledger");
    expect(whoCalledWhat(sampleDecision({ action: "tcp:connect" }))).toBe(
      "web opened a TCP connection to ledger",
    );
    const stranger = sampleDecision({ action: "tls:handshake", service: "" });
    delete stranger.source;
    expect(whoCalledWhat(stranger)).toBe("A caller without identity tried to connect to a sidecar");
  });

  it("says how it was decided", () => {
    expect(verdictWords(sampleDecision())).toBe("Denied: no policy permits it.");
    expect(verdictWords(sampleDecision({ policy_ids: ["no-refunds"] }))).toBe("Denied by no-refunds.");
    expect(verdictWords(sampleDecision({ decision: "allow", policy_ids: ["a", "b"] }))).toBe(
      "Allowed by a, b.",
    );
  });

  it("says what encrypted it", () => {
    expect(tlsWords("TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384")).toBe(
      "TLS 1.3, X25519MLKEM768 (post-quantum), TLS13_AES_256_GCM_SHA384",
    );
    expect(tlsWords("none")).toBe("none: plaintext");
  });
});
