// The list of decisions as a value: pages from the store below, what arrives above, nothing twice.

import type { Decision, DecisionPage } from "../../api/client";

/** Rows kept at most while they stream in; past it the list starts again from its newest page. */
export const MAX_LIVE_ROWS = 3_000;
/** Rows kept while the list is held; past it they are counted only. */
export const MAX_WAITING = 1_000;

export interface ListState {
  /** Newest first. */
  rows: readonly Decision[];
  /** Cursor of the next older page. */
  next: string | undefined;
  /** Arrived while the list was held, newest first. */
  waiting: readonly Decision[];
  /** How many arrived while the list was held, those not kept included. */
  waitingCount: number;
  /** There is a hole between what is kept and what is there: load again. */
  stale: boolean;
}

export const EMPTY: ListState = { rows: [], next: undefined, waiting: [], waitingCount: 0, stale: false };

export type ListAction =
  | { type: "loaded"; page: DecisionPage }
  | { type: "older"; page: DecisionPage }
  | { type: "arrived"; rows: readonly Decision[]; held: boolean }
  | { type: "released" }
  | { type: "skipped" };

export function reduce(state: ListState, action: ListAction): ListState {
  switch (action.type) {
    case "loaded":
      return { ...EMPTY, rows: action.page.items, next: action.page.next };
    case "older":
      return { ...state, rows: merge(state.rows, action.page.items), next: action.page.next };
    case "arrived":
      return action.held ? hold(state, action.rows) : show(state, action.rows);
    case "released":
      if (state.waitingCount === 0) {
        return state;
      }
      return show({ ...state, waiting: [], waitingCount: 0 }, state.waiting);
    case "skipped":
      return { ...state, stale: true };
  }
}

function hold(state: ListState, arrived: readonly Decision[]): ListState {
  const waitingCount = state.waitingCount + arrived.length;
  if (waitingCount > MAX_WAITING) {
    return { ...state, waiting: [], waitingCount, stale: true };
  }
  return { ...state, waiting: merge(state.waiting, arrived), waitingCount };
}

function show(state: ListState, arrived: readonly Decision[]): ListState {
  const rows = merge(state.rows, arrived);
  return { ...state, rows, stale: state.stale || rows.length > MAX_LIVE_ROWS };
}

/** Newest first, each decision once. UUIDs of version 7 settle ties in the order of their making. */
export function merge(a: readonly Decision[], b: readonly Decision[]): readonly Decision[] {
  if (b.length === 0) {
    return a;
  }
  const known = new Set(a.map((row) => row.id));
  const added = b.filter((row) => !known.has(row.id));
  if (added.length === 0) {
    return a;
  }
  return [...a, ...added].sort((x, y) => compare(y.time, x.time) || compare(y.id, x.id));
}

/** The decisions of one event of the stream; what is none is left out. */
export function parseDecisions(text: string): Decision[] {
  const value: unknown = JSON.parse(text);
  return Array.isArray(value) ? value.filter(isDecision) : [];
}

function isDecision(value: unknown): value is Decision {
  return (
    typeof value === "object" &&
    value !== null &&
    "id" in value &&
    typeof value.id === "string" &&
    "time" in value &&
    typeof value.time === "string" &&
    "policy_ids" in value &&
    Array.isArray(value.policy_ids)
  );
}

function compare(a: string, b: string): number {
  return a < b ? -1 : a > b ? 1 : 0;
}
