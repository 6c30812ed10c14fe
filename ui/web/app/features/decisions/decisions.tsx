import "./decisions.css";

import { useQuery } from "@tanstack/react-query";
import { type ReactNode, useState } from "react";

import { clustersQuery, servicesQuery } from "../../api/queries";
import { formatCount } from "../../components/format";
import { Notice, Status, TextButton } from "../../components/ui";
import { DecisionGrid } from "./decision-grid";
import { FilterBar } from "./filter-bar";
import { type Filters, isFiltered } from "./search";
import { type Decisions, useDecisions } from "./use-decisions";

export function DecisionList(props: {
  filters: Filters;
  open: string | undefined;
  onFilters: (filters: Filters) => void;
  onOpen: (id: string | undefined) => void;
}) {
  const { filters, open } = props;
  const [paused, setPaused] = useState(false);
  const [away, setAway] = useState(false);
  // Nobody can read what moves: the list stands still while it is paused, scrolled or explained.
  const held = paused || away || open !== undefined;
  const decisions = useDecisions(filters, held);
  const { workloads, services } = useChoices();
  const { list, loading } = decisions;

  return (
    <section className="decisions" aria-label="Decisions">
      <header className="decisions-head">
        <h2>Decisions</h2>
        <StreamState decisions={decisions} paused={paused} held={held} />
        <TextButton
          className="pause"
          aria-pressed={paused}
          onPress={() => {
            setPaused(!paused);
          }}
        >
          {paused ? "Resume" : "Pause"}
        </TextButton>
      </header>
      <FilterBar filters={filters} workloads={workloads} services={services} onChange={props.onFilters} />
      <div className="decisions-frame">
        {decisions.error && (
          <Notice tone="deny" title="The list could not be loaded">
            {decisions.error.message}
          </Notice>
        )}
        {list.rows.length === 0 && !decisions.error ? (
          <Empty loading={loading} filtered={isFiltered(filters)} />
        ) : (
          <DecisionGrid
            rows={list.rows}
            open={open}
            busy={loading}
            hasOlder={list.next !== undefined && !decisions.loadingOlder}
            onOpen={props.onOpen}
            onClose={() => {
              props.onOpen(undefined);
            }}
            onAway={setAway}
            onEnd={decisions.loadOlder}
          />
        )}
      </div>
    </section>
  );
}

function StreamState(props: { decisions: Decisions; paused: boolean; held: boolean }) {
  const { status, list } = props.decisions;
  const waiting = list.waitingCount > 0 ? `, ${formatCount(list.waitingCount)} new` : "";
  let state: ReactNode;
  if (status === "interrupted") {
    state = <Status tone="warn">Reconnecting</Status>;
  } else if (status === "connecting") {
    state = <Status tone="neutral">Connecting</Status>;
  } else if (props.held) {
    state = <Status tone="neutral">{`${props.paused ? "Paused" : "Held"}${waiting}`}</Status>;
  } else {
    state = <Status tone="allow">Live</Status>;
  }
  return (
    <span className="stream-state" data-testid="stream-state">
      {state}
    </span>
  );
}

function Empty({ loading, filtered }: { loading: boolean; filtered: boolean }) {
  if (loading) {
    return <p className="empty">Loading decisions…</p>;
  }
  return (
    <div className="empty">
      <strong>
        {filtered ? "No decision matches these filters." : "No decision has been recorded yet."}
      </strong>
      <p>
        {filtered
          ? "New ones that match appear here by themselves."
          : "The first call between two workloads appears here within a second."}
      </p>
    </div>
  );
}

/** Workloads and services to choose from; without them the fields still take what is typed. */
function useChoices(): { workloads: string[]; services: string[] } {
  const clusters = useQuery(clustersQuery).data?.clusters ?? [];
  const services = useQuery(servicesQuery).data?.clusters ?? [];
  const workloads = clusters
    .flatMap((cluster) => cluster.proxies)
    .map((proxy) => proxy.spiffe_id.replace(/\/proxy\/([^/]+)$/, "/sa/$1"))
    .filter((id) => id.includes("/sa/"));
  const names = services.flatMap((cluster) => cluster.services.map((service) => service.service));
  return { workloads: [...new Set(workloads)].sort(), services: [...new Set(names)].sort() };
}
