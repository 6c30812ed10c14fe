import { describe, expect, it } from "vitest";

import { EMPTY, MAX_LIVE_ROWS, MAX_WAITING, parseDecisions, reduce } from "./list";
import { sampleDecision } from "./sample";

const at = (second: number, id = `id-${second}`) =>
  sampleDecision({ id, time: `2026-11-22T12:00:${String(second).padStart(2, "0")}.000000Z` });
const many = (count: number) => Array.from({ length: count }, (_, n) => at(1, `many-${n}`));

describe("the list of decisions", () => {
  it("keeps newest first and nothing twice, whatever order things arrive in", () => {
    let state = reduce(EMPTY, { type: "loaded", page: { items: [at(5), at(3)], next: "older" } });
    state = reduce(state, { type: "arrived", rows: [at(4), at(6), at(5)], held: false });
    state = reduce(state, { type: "older", page: { items: [at(3), at(1)] } });
    expect(state.rows.map((row) => row.id)).toEqual(["id-6", "id-5", "id-4", "id-3", "id-1"]);
    expect(state.next).toBeUndefined();
  });

  it("keeps what arrives apart while it is held and shows it when released", () => {
    let state = reduce(EMPTY, { type: "loaded", page: { items: [at(1)] } });
    state = reduce(state, { type: "arrived", rows: [at(2)], held: true });
    expect([state.rows.length, state.waitingCount]).toEqual([1, 1]);
    state = reduce(state, { type: "released" });
    expect([state.rows.length, state.waitingCount]).toEqual([2, 0]);
  });

  it("reads decisions from the stream and leaves out what is none", () => {
    expect(parseDecisions(JSON.stringify([at(1), { id: 1 }, null]))).toEqual([at(1)]);
    expect(parseDecisions("{}")).toEqual([]);
  });

  it("asks to be loaded again rather than growing without bound", () => {
    const held = reduce(EMPTY, { type: "arrived", rows: many(MAX_WAITING + 1), held: true });
    expect([held.stale, held.waiting.length, held.waitingCount]).toEqual([true, 0, MAX_WAITING + 1]);
    const live = reduce(EMPTY, { type: "arrived", rows: many(MAX_LIVE_ROWS + 1), held: false });
    expect(live.stale).toBe(true);
    expect(reduce(live, { type: "loaded", page: { items: [at(1)] } }).stale).toBe(false);
  });
});
