import { describe, expect, it } from "vitest";

import { judge } from "./health";
import { sampleCluster, samplePosture } from "./sample";

describe("the headline", () => {
  it("is good news only when nothing speaks against it", () => {
    expect(judge(samplePosture())).toEqual({
      tone: "allow",
      headline: "Every call carried in the last minute was encrypted and authorised",
      concerns: [],
    });
  });

  it("counts calls carried in plaintext", () => {
    const posture = samplePosture();
    if (posture.traffic) {
      posture.traffic.encryption = { carried: 100, encrypted: 97, share: 0.97 };
    }
    expect(judge(posture)).toMatchObject({
      tone: "warn",
      headline: "3 of 100 calls in the last minute were carried in plaintext",
    });
  });

  it("says what is unreachable, and since when", () => {
    const gone = { status: "unreachable", since: "2026-11-22T12:00:05.538679Z" } as const;
    const health = judge(samplePosture({ clusters: [sampleCluster({ control: gone })] }));
    expect(health.tone).toBe("warn");
    expect(health.concerns[0]?.text).toBe("east: control plane unreachable since 2026-11-22 12:00:05 UTC");
  });

  it("names what fails in recording", () => {
    const alert = {
      log: "east.bank.example/signet-log",
      cause: "spool_failed",
      subject: "spiffe://east.bank.example/ns/bank/proxy/web",
      detail: "records met a full spool",
      since: "2026-11-22T12:00:05.538679Z",
    };
    const health = judge(samplePosture({ alerts: [alert] }));
    expect(health.tone).toBe("warn");
    expect(health.concerns).toEqual([
      {
        tone: "deny",
        text: "Audit: a spool is full or failed since 2026-11-22 12:00:05 UTC: spiffe://east.bank.example/ns/bank/proxy/web: records met a full spool",
      },
    ]);
  });

  it("never claims encryption that it cannot see", () => {
    const posture = samplePosture();
    delete posture.traffic;
    expect(judge(posture).headline).not.toContain("encrypted");
  });

  it("notices clusters that enforce different commits and refused heads", () => {
    const policy = { commit: "aa", digest: "d", signer: "s", refused: { commit: "bb", reason: "unsigned" } };
    const health = judge(
      samplePosture({ clusters: [sampleCluster(), sampleCluster({ name: "west", policy })] }),
    );
    expect(health.concerns.map((concern) => concern.text)).toEqual([
      "west: policy commit bb was refused: unsigned",
      "The clusters enforce different policy commits",
    ]);
  });
});
