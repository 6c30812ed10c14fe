import { describe, expect, it } from "vitest";

import {
  formatAction,
  formatClock,
  formatLatency,
  formatShare,
  formatSpan,
  parseService,
  parseSpiffeId,
} from "./format";

describe("format", () => {
  it("never rounds a share up to 100 per cent", () => {
    expect(formatShare(1)).toBe("100");
    expect(formatShare(0.99999)).toBe("99.99");
    expect(formatShare(0.5)).toBe("50.0");
  });

  it("shows a clock with milliseconds", () => {
    expect(formatClock("2026-11-22T20:49:42.123456Z")).toBe("20:49:42.123");
    expect(formatClock("2026-11-22T20:49:42Z")).toBe("20:49:42.000");
  });

  it.each([
    [0.4, "0 s"],
    [59, "59 s"],
    [61, "1 min 1 s"],
    [3600, "1 h"],
    [11_520, "3 h 12 min"],
    [200_000, "2 d"],
  ])("says %s seconds as %s", (seconds, text) => {
    expect(formatSpan(seconds)).toBe(text);
  });

  it("reads SPIFFE IDs and services", () => {
    expect(parseSpiffeId("spiffe://east.bank.example/ns/bank/sa/web")).toEqual({
      name: "web",
      namespace: "bank",
      trustDomain: "east.bank.example",
    });
    expect(parseSpiffeId("spiffe://a/signet/gateway")?.name).toBe("gateway");
    expect(parseSpiffeId("web")).toBeUndefined();
    expect(parseService("a/b/c")?.name).toBe("c");
    expect(parseService("")).toBeUndefined();
  });

  it("says actions and latencies as people do", () => {
    expect(formatAction("http:POST")).toBe("POST");
    expect(formatAction("grpc:call")).toBe("gRPC");
    expect(formatLatency(412)).toBe("412 µs");
    expect(formatLatency(2_345)).toBe("2.35 ms");
  });
});
