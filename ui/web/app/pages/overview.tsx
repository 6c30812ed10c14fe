import "./overview.css";

import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { useEffect } from "react";

import { ApiError, type Posture } from "../api/client";
import { onSignedOut, postureQuery, signOut } from "../api/queries";
import { formatClock } from "../components/format";
import { Notice, Seal, TextButton } from "../components/ui";
import { DecisionList } from "../features/decisions/decisions";
import { filtersOf } from "../features/decisions/search";
import { PostureOverview } from "../features/posture/posture";
import { WhyPanel } from "../features/why/why";

const route = getRouteApi("/");

export function OverviewPage() {
  const search = route.useSearch();
  const navigate = route.useNavigate();
  const posture = useQuery(postureQuery);
  const filters = filtersOf(search);

  useEffect(() => {
    onSignedOut(() => {
      void navigate({ to: "/login" });
    });
  }, [navigate]);

  const open = (id: string | undefined) => {
    const next = id === undefined ? filters : { ...filters, why: id };
    void navigate({ search: next, replace: search.why !== undefined && id !== undefined });
  };

  return (
    <div className="page">
      <header className="bar">
        <span className="brand">
          <Seal />
          Signet
        </span>
        <span className="bar-scope">{scope(posture.data)}</span>
        {posture.data && (
          <time className="bar-clock" dateTime={posture.data.at}>
            {formatClock(posture.data.at).slice(0, 8)} UTC
          </time>
        )}
        <TextButton
          className="quiet"
          onPress={() => {
            void signOut().finally(() => navigate({ to: "/login" }));
          }}
        >
          Sign out
        </TextButton>
      </header>
      <main className="overview">
        {posture.error && !(posture.error instanceof ApiError && posture.error.status === 401) && (
          <Notice tone="deny" title="The dashboard server does not answer">
            {`${posture.error.message}. What is shown below is the last that was heard.`}
          </Notice>
        )}
        {posture.data ? (
          <PostureOverview
            posture={posture.data}
            onDenied={
              <TextButton
                className="quiet link"
                onPress={() => {
                  void navigate({ search: { decision: "deny" } });
                }}
              >
                Show
              </TextButton>
            }
          />
        ) : (
          <div className="overview-loading">{posture.error ? "" : "Asking the mesh…"}</div>
        )}
        <div className={search.why === undefined ? "work" : "work with-why"}>
          <DecisionList
            filters={filters}
            open={search.why}
            onFilters={(next) => {
              void navigate({
                search: search.why === undefined ? next : { ...next, why: search.why },
                replace: true,
              });
            }}
            onOpen={open}
          />
          {search.why !== undefined && (
            <WhyPanel
              id={search.why}
              onClose={() => {
                open(undefined);
              }}
            />
          )}
        </div>
      </main>
    </div>
  );
}

function scope(posture: Posture | undefined): string {
  return posture?.clusters.map((cluster) => cluster.trust_domain).join("  ·  ") ?? "";
}
