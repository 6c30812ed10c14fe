// Loads the newest page, then follows the stream; older pages on demand.

import { useCallback, useEffect, useMemo, useReducer, useRef, useState } from "react";

import { answer, ApiError, client } from "../../api/client";
import { queryClient, sessionQuery } from "../../api/queries";
import { EMPTY, type ListState, parseDecisions, reduce } from "./list";
import { type Filters, filtersOf, parseSearch } from "./search";

export type StreamStatus = "connecting" | "live" | "interrupted";

export interface Decisions {
  list: ListState;
  status: StreamStatus;
  /** The first page is on its way. */
  loading: boolean;
  error: Error | undefined;
  loadingOlder: boolean;
  loadOlder: () => void;
  reload: () => void;
}

const RETRY_MS = 2_000;

export function useDecisions(filters: Filters, held: boolean): Decisions {
  const [list, dispatch] = useReducer(reduce, EMPTY);
  const [status, setStatus] = useState<StreamStatus>("connecting");
  const [loading, setLoading] = useState(true);
  const [error, setError] = useState<Error>();
  const [loadingOlder, setLoadingOlder] = useState(false);
  const [round, setRound] = useState(0);
  const heldNow = useRef(held);
  const { decision, source: caller, destination, action, q } = filters;
  // The same filters are the same object, so that the stream is opened again only when they change.
  const query = useMemo(
    () => filtersOf(parseSearch({ decision, source: caller, destination, action, q })),
    [decision, caller, destination, action, q],
  );
  const reload = useCallback(() => {
    setRound((n) => n + 1);
  }, []);

  useEffect(() => {
    heldNow.current = held;
    if (!held) {
      dispatch({ type: "released" });
    }
  }, [held]);

  // A list with a hole in it starts again from its newest page as soon as nobody is reading it.
  useEffect(() => {
    if (list.stale && !held) {
      reload();
    }
  }, [list.stale, held, reload]);

  useEffect(() => {
    setLoading(true);
  }, [query]);

  useEffect(() => {
    const ended = new AbortController();
    let source: EventSource | undefined;
    let retry: ReturnType<typeof setTimeout> | undefined;

    const again = (cause: unknown) => {
      if (ended.signal.aborted) {
        return;
      }
      setStatus("interrupted");
      setLoading(false);
      setError(cause instanceof Error ? cause : undefined);
      if (cause instanceof ApiError && cause.status === 400) {
        return;
      }
      retry = setTimeout(() => void start(), RETRY_MS);
    };

    const follow = (after: string | undefined) => {
      source = new EventSource(streamUrl(query, after));
      source.addEventListener("open", () => {
        setStatus("live");
      });
      source.addEventListener("decisions", (event: MessageEvent<string>) => {
        dispatch({ type: "arrived", rows: parseDecisions(event.data), held: heldNow.current });
      });
      source.addEventListener("skipped", () => {
        dispatch({ type: "skipped" });
      });
      source.addEventListener("error", () => {
        // The browser reconnects by itself, with the last event's id, unless the server refused.
        setStatus("interrupted");
        if (source?.readyState === EventSource.CLOSED) {
          void queryClient.invalidateQueries({ queryKey: sessionQuery.queryKey });
          again(undefined);
        }
      });
    };

    const start = async () => {
      try {
        const page = await answer(client.GET("/api/decisions", { params: { query }, signal: ended.signal }));
        setLoading(false);
        setError(undefined);
        dispatch({ type: "loaded", page });
        follow(page.live);
      } catch (cause) {
        again(cause);
      }
    };

    setStatus("connecting");
    void start();
    return () => {
      ended.abort();
      clearTimeout(retry);
      source?.close();
    };
  }, [query, round]);

  const next = list.next;
  const loadOlder = useCallback(() => {
    if (next === undefined || loadingOlder) {
      return;
    }
    setLoadingOlder(true);
    answer(client.GET("/api/decisions", { params: { query: { ...query, cursor: next } } }))
      .then((page) => {
        dispatch({ type: "older", page });
      })
      .catch((cause: unknown) => {
        setError(cause instanceof Error ? cause : undefined);
      })
      .finally(() => {
        setLoadingOlder(false);
      });
  }, [query, next, loadingOlder]);

  return { list, status, loading, error, loadingOlder, loadOlder, reload };
}

function streamUrl(filters: Filters, after: string | undefined): string {
  const query = new URLSearchParams(Object.entries(filters));
  if (after !== undefined) {
    query.set("after", after);
  }
  return `/api/decisions/stream?${query.toString()}`;
}
