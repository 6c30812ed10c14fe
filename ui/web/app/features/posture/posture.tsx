import "./posture.css";

import type { ReactNode } from "react";

import type { ClusterPosture, FederationPosture, Posture, Traffic } from "../../api/client";
import {
  formatCount,
  formatMoment,
  formatRate,
  formatShare,
  formatSpan,
  parseSpiffeId,
  secondsBetween,
  shortCommit,
} from "../../components/format";
import { RateChart } from "../../components/rate-chart";
import { Card, Mark, Status, type Tone } from "../../components/ui";
import { judge } from "./health";

export function PostureOverview({ posture, onDenied }: { posture: Posture; onDenied: ReactNode }) {
  const { traffic, clusters, at } = posture;
  return (
    <>
      <Headline posture={posture} />
      <div className="cards">
        <EncryptionCard traffic={traffic} />
        <RateCard traffic={traffic} />
        <DeniedCard traffic={traffic} action={onDenied} />
        <PolicyCard clusters={clusters} at={at} />
        <SvidCard clusters={clusters} at={at} />
        <FederationCard clusters={clusters} at={at} />
      </div>
    </>
  );
}

function Headline({ posture }: { posture: Posture }) {
  const health = judge(posture);
  return (
    <section className={`headline tone-${health.tone}`} aria-label="Posture" data-testid="posture">
      <span className="headline-mark">
        <Mark tone={health.tone} />
      </span>
      <div>
        <h1>{health.headline}</h1>
        {health.concerns.length > 0 && (
          <ul className="concerns">
            {health.concerns.map((concern) => (
              <li key={concern.text} className={`tone-${concern.tone}`}>
                {concern.text}
              </li>
            ))}
          </ul>
        )}
      </div>
    </section>
  );
}

function EncryptionCard({ traffic }: { traffic: Traffic | undefined }) {
  if (!traffic) {
    return <Unavailable title="Encrypted calls" />;
  }
  const { carried, encrypted, share } = traffic.encryption;
  const plaintext = carried - encrypted;
  return (
    <Card title="Encrypted calls" tone={plaintext > 0 ? "warn" : "neutral"}>
      <Figure value={share === undefined ? "–" : formatShare(share)} unit={share === undefined ? "" : "%"} />
      <p className="card-note">
        {carried === 0 && "No call was carried in the last minute."}
        {carried > 0 &&
          plaintext === 0 &&
          `All ${formatCount(carried)} calls carried in the last minute used mutual TLS.`}
        {plaintext > 0 &&
          `${formatCount(plaintext)} of ${formatCount(carried)} calls came in plaintext through permissive ports.`}
      </p>
    </Card>
  );
}

function RateCard({ traffic }: { traffic: Traffic | undefined }) {
  if (!traffic) {
    return <Unavailable title="Decisions per second" />;
  }
  const peak = Math.max(0, ...traffic.series.map((point) => point.allowed + point.denied));
  return (
    <Card title="Decisions per second" aside={<span className="card-aside">peak {formatCount(peak)}/s</span>}>
      <div className="rate">
        <Figure value={formatRate(traffic.per_second)} unit="/s" />
        <RateChart
          points={traffic.series}
          label={`Decisions per second over the last two minutes: ${formatRate(traffic.per_second)} on average over the last minute, ${formatCount(peak)} at most`}
        />
      </div>
      <p className="card-note legend">
        <span className="swatch allow" /> allowed <span className="swatch deny" /> denied
        <span className="legend-span">last 2 minutes</span>
      </p>
    </Card>
  );
}

function DeniedCard({ traffic, action }: { traffic: Traffic | undefined; action: ReactNode }) {
  if (!traffic) {
    return <Unavailable title="Denied" />;
  }
  const share = traffic.decisions > 0 ? (traffic.denied / traffic.decisions) * 100 : 0;
  return (
    <Card title="Denied" aside={action}>
      <Figure value={formatCount(traffic.denied)} unit="last minute" />
      <p className="card-note">
        {traffic.denied === 0
          ? "Nothing was denied."
          : `${share.toFixed(1)} % of ${formatCount(traffic.decisions)} decisions${
              traffic.refused > 0 ? `; ${formatCount(traffic.refused)} refused before a caller was known` : ""
            }.`}
      </p>
    </Card>
  );
}

function PolicyCard({ clusters, at }: { clusters: ClusterPosture[]; at: string }) {
  const refused = clusters.some((cluster) => cluster.policy?.refused);
  return (
    <Card title="Active policy" tone={refused ? "warn" : "neutral"}>
      <ClusterRows
        clusters={clusters}
        row={(cluster) => {
          const { policy, proxies } = cluster;
          if (!policy || policy.commit === "") {
            return { main: missing(cluster.control.status, "no policy accepted yet") };
          }
          return {
            main: (
              <code className="commit" title={`${policy.commit}\n${policy.digest}`}>
                {shortCommit(policy.commit)}
              </code>
            ),
            stale: cluster.control.status === "unreachable",
            note: [
              policy.refused && `refused ${shortCommit(policy.refused.commit)}`,
              policy.signer,
              policy.activated_at && `active ${formatSpan(secondsBetween(policy.activated_at, at))}`,
              proxies && `${proxies.current} of ${proxies.connected} proxies`,
            ],
          };
        }}
      />
    </Card>
  );
}

function SvidCard({ clusters, at }: { clusters: ClusterPosture[]; at: string }) {
  return (
    <Card title="Oldest SVID">
      <ClusterRows
        clusters={clusters}
        row={(cluster) => {
          const oldest = cluster.svids?.oldest;
          if (!oldest) {
            return { main: missing(cluster.identity.status, "none issued") };
          }
          const left = secondsBetween(at, oldest.not_after);
          const next = cluster.svids?.next_expiry;
          return {
            main: (
              <span title={`${oldest.spiffe_id}\nexpires ${formatMoment(oldest.not_after)}`}>
                {formatSpan(secondsBetween(oldest.not_before, at))} old
              </span>
            ),
            stale: cluster.identity.status === "unreachable",
            note: [
              `${parseSpiffeId(oldest.spiffe_id)?.name ?? oldest.spiffe_id} expires in ${formatSpan(left)}`,
              `${cluster.svids?.valid ?? 0} valid`,
              next &&
                next.serial !== oldest.serial &&
                `next expiry in ${formatSpan(secondsBetween(at, next.not_after))}`,
            ],
          };
        }}
      />
    </Card>
  );
}

function FederationCard({ clusters, at }: { clusters: ClusterPosture[]; at: string }) {
  const worst: Tone = clusters.some((cluster) => cluster.federation.some((link) => link.state === "broken"))
    ? "deny"
    : clusters.some((cluster) => cluster.federation.some((link) => link.state === "degraded"))
      ? "warn"
      : "neutral";
  return (
    <Card title="Federation" tone={worst}>
      <ul className="cluster-rows">
        {clusters.map((cluster) =>
          cluster.federation.length === 0 ? (
            <li key={cluster.name}>
              <span className="cluster-name">{cluster.name}</span>
              <span className="cluster-main">{missing(cluster.identity.status, "not federated")}</span>
            </li>
          ) : (
            cluster.federation.map((link) => (
              <li key={`${cluster.name} ${link.trust_domain}`}>
                <span className="cluster-name">{cluster.name}</span>
                <span className="cluster-main">
                  <FederationStatus link={link} />
                </span>
                <span className="cluster-note" title={`${link.trust_domain}\n${link.error ?? ""}`}>
                  {[
                    `trusts ${link.trust_domain}`,
                    link.services === 1 ? "1 service" : `${link.services} services`,
                    link.last_refresh !== undefined &&
                      `bundle ${formatSpan(secondsBetween(link.last_refresh, at))} old`,
                  ]
                    .filter((part) => part !== false)
                    .join(" · ")}
                </span>
              </li>
            ))
          ),
        )}
      </ul>
    </Card>
  );
}

function FederationStatus({ link }: { link: FederationPosture }) {
  switch (link.state) {
    case "linked":
      return <Status tone="allow">linked</Status>;
    case "degraded":
      return <Status tone="warn">degraded</Status>;
    case "broken":
      return <Status tone="deny">broken</Status>;
  }
}

interface ClusterRow {
  main: ReactNode;
  note?: (string | false | undefined | null)[];
  /** What is shown is the last thing that was heard. */
  stale?: boolean;
}

function ClusterRows(props: { clusters: ClusterPosture[]; row: (cluster: ClusterPosture) => ClusterRow }) {
  return (
    <ul className="cluster-rows">
      {props.clusters.map((cluster) => {
        const { main, note, stale } = props.row(cluster);
        const text = note?.filter((part) => typeof part === "string" && part !== "").join(" · ");
        return (
          <li key={cluster.name} className={stale ? "stale" : undefined}>
            <span className="cluster-name" title={cluster.trust_domain}>
              {cluster.name}
            </span>
            <span className="cluster-main">{main}</span>
            {text !== undefined && (
              <span className="cluster-note" title={text}>
                {stale ? "last known · " : ""}
                {text}
              </span>
            )}
          </li>
        );
      })}
    </ul>
  );
}

function missing(status: "unknown" | "reachable" | "unreachable", otherwise: string): ReactNode {
  switch (status) {
    case "unknown":
      return <span className="missing">asking…</span>;
    case "unreachable":
      return <Status tone="deny">unreachable</Status>;
    case "reachable":
      return <span className="missing">{otherwise}</span>;
  }
}

function Figure({ value, unit }: { value: string; unit: string }) {
  return (
    <p className="figure">
      {value}
      <span className="figure-unit">{unit}</span>
    </p>
  );
}

function Unavailable({ title }: { title: string }) {
  return (
    <Card title={title} tone="warn">
      <Figure value="–" unit="" />
      <p className="card-note">The audit database does not answer; nothing is counted until it does.</p>
    </Card>
  );
}
