import { describe, expect, it } from "vitest";

import { filtersOf, isFiltered, parseSearch } from "./search";

describe("the search of a URL", () => {
  it("keeps what it knows and drops the rest", () => {
    expect(parseSearch({ decision: "deny", q: 7, source: " ", other: "x", why: "id" })).toEqual({
      decision: "deny",
      q: "7",
      why: "id",
    });
    expect(parseSearch({ decision: "maybe" })).toEqual({});
  });

  it("does not count an open explanation as a filter", () => {
    expect(isFiltered(filtersOf({ why: "id" }))).toBe(false);
    expect(isFiltered(filtersOf({ q: "x", why: "id" }))).toBe(true);
  });
});
