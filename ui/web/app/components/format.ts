// How values read. Everything is UTC: an auditor's clock, not the browser's.

const count = new Intl.NumberFormat("en-GB");
const rate = new Intl.NumberFormat("en-GB", { minimumFractionDigits: 1, maximumFractionDigits: 1 });

export function formatCount(value: number): string {
  return count.format(value);
}

export function formatRate(value: number): string {
  return value >= 100 ? count.format(Math.round(value)) : rate.format(value);
}

/** A share of 0..1 as per cent, never rounded up to 100 while something is missing. */
export function formatShare(share: number): string {
  if (share >= 1) {
    return "100";
  }
  return (Math.floor(share * 10_000) / 100).toFixed(share < 0.9 ? 1 : 2);
}

/** "20:49:42.123" of an RFC 3339 UTC time. */
export function formatClock(time: string): string {
  const match = /T(\d\d:\d\d:\d\d)(\.\d{1,3})?/.exec(time);
  return match ? `${match[1] ?? ""}${(match[2] ?? ".").padEnd(4, "0")}` : time;
}

/** "2026-11-22 20:49:42.123456 UTC". */
export function formatMoment(time: string): string {
  return time.replace("T", " ").replace("Z", " UTC");
}

/** "2026-11-22 20:49:42 UTC": for what need not be told to the microsecond. */
export function formatSecond(time: string): string {
  return formatMoment(time.replace(/\.\d+/, ""));
}

/** "4 min", "3 h 12 min", "2 d": a length of time with at most two units. */
export function formatSpan(seconds: number): string {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) {
    return `${s} s`;
  }
  const minutes = Math.floor(s / 60);
  if (minutes < 60) {
    return s % 60 === 0 || minutes >= 10 ? `${minutes} min` : `${minutes} min ${s % 60} s`;
  }
  const hours = Math.floor(minutes / 60);
  if (hours < 48) {
    return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  }
  return `${Math.floor(hours / 24)} d`;
}

/** Seconds from `from` to `to`, both RFC 3339. */
export function secondsBetween(from: string, to: string): number {
  return (Date.parse(to) - Date.parse(from)) / 1000;
}

export function formatLatency(us: number): string {
  return us < 1000 ? `${us} µs` : `${(us / 1000).toFixed(us < 10_000 ? 2 : 1)} ms`;
}

export function shortCommit(commit: string): string {
  return commit.slice(0, 8);
}

export interface Identity {
  name: string;
  namespace: string;
  trustDomain: string;
}

/** The parts of a workload's, proxy's or component's SPIFFE ID that people speak of. */
export function parseSpiffeId(id: string): Identity | undefined {
  const match = /^spiffe:\/\/([^/]+)\/(.+)$/.exec(id);
  const trustDomain = match?.[1];
  const path = match?.[2];
  if (trustDomain === undefined || path === undefined) {
    return undefined;
  }
  const parts = path.split("/");
  if (parts[0] === "ns" && parts.length === 4) {
    return { name: parts[3] ?? path, namespace: parts[1] ?? "", trustDomain };
  }
  if (parts[0] === "signet") {
    return { name: parts.slice(1).join("/"), namespace: "signet", trustDomain };
  }
  return { name: path, namespace: "", trustDomain };
}

/** The parts of `<trust domain>/<namespace>/<name>`. */
export function parseService(service: string): Identity | undefined {
  const [trustDomain, namespace, name] = service.split("/");
  return trustDomain && namespace && name ? { name, namespace, trustDomain } : undefined;
}

/** "http:GET" as people write it. */
export function formatAction(action: string): string {
  const [kind, rest] = action.split(":");
  if (kind === "http" && rest && rest === rest.toUpperCase()) {
    return rest;
  }
  switch (action) {
    case "grpc:call":
      return "gRPC";
    case "tcp:connect":
      return "TCP";
    case "gateway:forward":
      return "gateway";
    case "http:parse":
      return "HTTP";
    case "tls:handshake":
      return "TLS handshake";
    default:
      return action;
  }
}
