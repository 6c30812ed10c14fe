// The one sentence at the top of the page, and what keeps it from being good news.

import type { Alert, ClusterPosture, Posture, Reach } from "../../api/client";
import { formatCount, formatSecond, shortCommit } from "../../components/format";
import type { Tone } from "../../components/ui";

export interface Concern {
  tone: "deny" | "warn";
  text: string;
}

export interface Health {
  tone: Tone;
  headline: string;
  concerns: Concern[];
}

export function judge(posture: Posture): Health {
  const concerns = [
    ...storeConcerns(posture),
    ...posture.alerts.map(alertConcern),
    ...posture.clusters.flatMap(clusterConcerns),
    ...policySplit(posture),
  ];
  const traffic = posture.traffic;
  const plaintext = traffic ? traffic.encryption.carried - traffic.encryption.encrypted : 0;
  if (traffic && plaintext > 0) {
    return {
      tone: "warn",
      headline: `${formatCount(plaintext)} of ${formatCount(traffic.encryption.carried)} calls in the last minute were carried in plaintext`,
      concerns,
    };
  }
  if (!traffic) {
    return { tone: "warn", headline: "What is being decided cannot be seen right now", concerns };
  }
  // What is carried is in order; what else is wrong stands below.
  const tone = concerns.length > 0 ? "warn" : "allow";
  if (traffic.encryption.carried === 0) {
    return {
      tone: concerns.length > 0 ? tone : "neutral",
      headline: "No call was carried in the last minute",
      concerns,
    };
  }
  return { tone, headline: "Every call carried in the last minute was encrypted and authorised", concerns };
}

function storeConcerns({ store }: Posture): Concern[] {
  return store.status === "unreachable"
    ? [{ tone: "deny", text: `The audit database is unreachable since ${formatSecond(store.since)}` }]
    : [];
}

const causes: Record<string, string> = {
  clock_offset: "a clock is off",
  export_failed: "a continuous export is not taken",
  ingestion_failed: "records are not taken",
  records_missing: "records are missing",
  review_overdue: "a review of the log is overdue",
  sequencing_failed: "records get no place in the log",
  spool_failed: "a spool is full or failed",
};

function alertConcern({ cause, subject, detail, since }: Alert): Concern {
  return {
    tone: cause === "clock_offset" || cause === "review_overdue" ? "warn" : "deny",
    text: `Audit: ${causes[cause] ?? cause} since ${formatSecond(since)}: ${subject}: ${detail}`,
  };
}

function clusterConcerns(cluster: ClusterPosture): Concern[] {
  const concerns: Concern[] = [];
  const unreachable = (part: string, reach: Reach) => {
    if (reach.status === "unreachable") {
      concerns.push({
        tone: "deny",
        text: `${cluster.name}: ${part} unreachable since ${formatSecond(reach.since)}`,
      });
    }
  };
  unreachable("control plane", cluster.control);
  unreachable("identity server", cluster.identity);
  if (cluster.policy?.refused) {
    const { commit, reason } = cluster.policy.refused;
    concerns.push({
      tone: "warn",
      text: `${cluster.name}: policy commit ${shortCommit(commit)} was refused: ${reason}`,
    });
  }
  for (const link of cluster.federation) {
    if (link.state !== "linked") {
      concerns.push({
        tone: link.state === "broken" ? "deny" : "warn",
        text: `${cluster.name}: federation with ${link.trust_domain} is ${link.state}${link.error === undefined ? "" : `: ${link.error}`}`,
      });
    }
  }
  const refusing = cluster.proxies?.refusing ?? 0;
  if (refusing > 0) {
    concerns.push({
      tone: "warn",
      text: `${cluster.name}: ${refusing} proxies refuse the newest configuration`,
    });
  }
  if (cluster.manifest_errors.length > 0) {
    concerns.push({
      tone: "warn",
      text: `${cluster.name}: ${cluster.manifest_errors[0] ?? ""}${cluster.manifest_errors.length > 1 ? ` (and ${cluster.manifest_errors.length - 1} more)` : ""}`,
    });
  }
  return concerns;
}

function policySplit(posture: Posture): Concern[] {
  const commits = new Set(
    posture.clusters.flatMap((cluster) => (cluster.policy?.commit ? [cluster.policy.commit] : [])),
  );
  return commits.size > 1 ? [{ tone: "warn", text: "The clusters enforce different policy commits" }] : [];
}
