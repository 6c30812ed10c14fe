// A decision told in one or two sentences.

import type { Decision } from "../../api/client";
import { formatAction, parseService, parseSpiffeId } from "../../components/format";
import { reasonWords } from "../decisions/words";

export function whoCalledWhat(decision: Decision): string {
  const source =
    decision.source === undefined ? undefined : (parseSpiffeId(decision.source)?.name ?? decision.source);
  const caller = source ?? "A caller without identity";
  const service = parseService(decision.service)?.name ?? decision.service;
  const target = service === "" ? "a sidecar" : service;
  const path = decision.path === undefined ? "" : ` ${decision.path}`;
  switch (decision.action) {
    case "tcp:connect":
      return `${caller} opened a TCP connection to ${target}`;
    case "gateway:forward":
      return `${caller} asked the gateway to reach ${target}`;
    case "tls:handshake":
      return `${caller} tried to connect to ${target}`;
    default:
      return `${caller} called ${formatAction(decision.action)}${path} on ${target}`;
  }
}

export function verdictWords(decision: Decision): string {
  const policies = decision.policy_ids.join(", ");
  if (decision.decision === "allow") {
    return policies === "" ? "Allowed." : `Allowed by ${policies}.`;
  }
  if (policies !== "") {
    return `Denied by ${policies}.`;
  }
  return `${decision.refusal ? "Refused" : "Denied"}: ${reasonWords(decision.reason)}.`;
}

/** "TLSv1.3 X25519MLKEM768 TLS13_AES_256_GCM_SHA384" in words. */
export function tlsWords(tls: string): string {
  if (tls === "none" || tls === "") {
    return "none: plaintext";
  }
  const [version, group, ...suite] = tls.split(" ");
  if (version === undefined || group === undefined) {
    return tls;
  }
  const quantum = group.includes("MLKEM") ? " (post-quantum)" : "";
  return `${version.replace("v", " ")}, ${group}${quantum}${suite.length > 0 ? `, ${suite.join(" ")}` : ""}`;
}
