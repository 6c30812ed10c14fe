// What the list shows of a decision.

import type { ReactNode } from "react";

import type { Decision } from "../../api/client";
import { formatAction, formatClock, formatCount, formatLatency, formatMoment } from "../../components/format";
import { ServiceName, WorkloadName } from "../../components/names";
import { Status } from "../../components/ui";
import { reasonWords } from "./words";

export interface Column {
  key: string;
  title: string;
  cell: (decision: Decision) => ReactNode;
}

export const COLUMNS: readonly Column[] = [
  {
    key: "time",
    title: "Time (UTC)",
    cell: (decision) => <time title={formatMoment(decision.time)}>{formatClock(decision.time)}</time>,
  },
  {
    key: "decision",
    title: "Decision",
    cell: (decision) => <DecisionStatus decision={decision} />,
  },
  {
    key: "source",
    title: "Caller",
    cell: (decision) => <WorkloadName id={decision.source} />,
  },
  {
    key: "service",
    title: "Service",
    cell: (decision) => <ServiceName service={decision.service} />,
  },
  {
    key: "call",
    title: "Call",
    cell: (decision) => (
      <span title={`${decision.action} ${decision.path ?? ""}`}>
        <span className="action">{formatAction(decision.action)}</span>
        {decision.path !== undefined && <code className="path">{decision.path}</code>}
      </span>
    ),
  },
  {
    key: "policy",
    title: "Decided by",
    cell: (decision) =>
      decision.policy_ids.length > 0 ? (
        <code title={decision.policy_ids.join("\n")}>
          {decision.policy_ids[0]}
          {decision.policy_ids.length > 1 && ` +${decision.policy_ids.length - 1}`}
        </code>
      ) : (
        <span className="reason">
          {decision.count > 1 && `${formatCount(decision.count)} × `}
          {reasonWords(decision.reason)}
        </span>
      ),
  },
  {
    key: "latency",
    title: "Took",
    cell: (decision) => (decision.latency_us === undefined ? "" : formatLatency(decision.latency_us)),
  },
];

export function DecisionStatus({ decision }: { decision: Decision }) {
  if (decision.decision === "allow") {
    return <Status tone="allow">Allowed</Status>;
  }
  return <Status tone="deny">{decision.refusal ? "Refused" : "Denied"}</Status>;
}
