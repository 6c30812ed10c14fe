// What a person looks at lives in the URL, so that it can be shared and survives a reload.

import type { Verdict } from "../../api/client";

export interface Search {
  decision?: Verdict;
  source?: string;
  destination?: string;
  action?: string;
  q?: string;
  /** The decision whose explanation is open. */
  why?: string;
}

export type Filters = Omit<Search, "why">;

export const TEXT_FILTERS = ["source", "destination", "action", "q"] as const;

export function parseSearch(raw: Record<string, unknown>): Search {
  const search: Search = {};
  const decision = raw["decision"];
  if (decision === "allow" || decision === "deny") {
    search.decision = decision;
  }
  for (const key of [...TEXT_FILTERS, "why"] as const) {
    const value = raw[key];
    // The router reads `?q=1` as a number.
    const text = typeof value === "string" ? value : typeof value === "number" ? String(value) : "";
    if (text.trim() !== "") {
      search[key] = text.slice(0, 512);
    }
  }
  return search;
}

export function filtersOf(search: Search): Filters {
  const filters: Search = { ...search };
  delete filters.why;
  return filters;
}

export function isFiltered(filters: Filters): boolean {
  return Object.keys(filters).length > 0;
}
