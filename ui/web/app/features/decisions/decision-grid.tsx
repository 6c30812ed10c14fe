// The list itself: a virtualised grid with one tab stop. Arrow keys move, Enter opens, Escape closes.

import "./decision-grid.css";

import { useVirtualizer } from "@tanstack/react-virtual";
import { type KeyboardEvent, useEffect, useRef, useState } from "react";

import type { Decision } from "../../api/client";
import { COLUMNS } from "./columns";

const ROW = 34;

export function DecisionGrid(props: {
  rows: readonly Decision[];
  open: string | undefined;
  busy: boolean;
  hasOlder: boolean;
  onOpen: (id: string) => void;
  onClose: () => void;
  onAway: (away: boolean) => void;
  onEnd: () => void;
}) {
  const { rows, open, onOpen, onClose, onAway, onEnd, hasOlder } = props;
  const scroller = useRef<HTMLDivElement>(null);
  const [active, setActive] = useState<string>();
  const virtualizer = useVirtualizer({
    count: rows.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW,
    getItemKey: (index) => rows[index]?.id ?? index,
    overscan: 12,
  });
  const items = virtualizer.getVirtualItems();
  const last = items.at(-1)?.index ?? 0;

  useEffect(() => {
    if (hasOlder && rows.length > 0 && last >= rows.length - 20) {
      onEnd();
    }
  }, [hasOlder, last, rows.length, onEnd]);

  const activeIndex = rows.findIndex((row) => row.id === (active ?? open));

  const move = (index: number) => {
    const row = rows[Math.min(Math.max(index, 0), rows.length - 1)];
    if (row) {
      setActive(row.id);
      virtualizer.scrollToIndex(rows.indexOf(row), { align: "auto" });
    }
  };

  const onKeyDown = (event: KeyboardEvent) => {
    const page = Math.max(1, Math.floor((scroller.current?.clientHeight ?? ROW) / ROW) - 2);
    const keys: Record<string, () => void> = {
      ArrowDown: () => {
        move(activeIndex + 1);
      },
      ArrowUp: () => {
        move(Math.max(activeIndex, 0) - 1);
      },
      PageDown: () => {
        move(activeIndex + page);
      },
      PageUp: () => {
        move(activeIndex - page);
      },
      Home: () => {
        move(0);
      },
      End: () => {
        move(rows.length - 1);
      },
      Enter: () => {
        const row = rows[activeIndex];
        if (row) {
          onOpen(row.id);
        }
      },
      Escape: onClose,
    };
    const action = keys[event.key];
    if (action) {
      event.preventDefault();
      action();
    }
  };

  return (
    <div
      ref={scroller}
      className="grid"
      role="grid"
      aria-label="Decisions, newest first"
      aria-rowcount={rows.length + 1}
      aria-colcount={COLUMNS.length}
      aria-busy={props.busy}
      aria-activedescendant={activeIndex >= 0 ? `decision-${rows[activeIndex]?.id ?? ""}` : undefined}
      tabIndex={0}
      onKeyDown={onKeyDown}
      onScroll={(event) => {
        onAway(event.currentTarget.scrollTop > ROW / 2);
      }}
    >
      <div className="grid-head grid-row" role="row" aria-rowindex={1}>
        {COLUMNS.map((column) => (
          <div key={column.key} role="columnheader" className={`cell cell-${column.key}`}>
            {column.title}
          </div>
        ))}
      </div>
      <div className="grid-body" role="rowgroup" style={{ height: virtualizer.getTotalSize() }}>
        {items.map((item) => {
          const row = rows[item.index];
          if (!row) {
            return null;
          }
          const classes = [
            "grid-row",
            row.decision === "deny" && "is-deny",
            row.id === open && "is-open",
            row.id === active && "is-active",
          ];
          return (
            <div
              key={row.id}
              id={`decision-${row.id}`}
              role="row"
              aria-rowindex={item.index + 2}
              aria-selected={row.id === open}
              data-decision={row.decision}
              className={classes.filter((name) => name !== false).join(" ")}
              style={{ transform: `translateY(${item.start}px)` }}
              onClick={() => {
                setActive(row.id);
                onOpen(row.id);
              }}
            >
              {COLUMNS.map((column) => (
                <div key={column.key} role="gridcell" className={`cell cell-${column.key}`}>
                  {column.cell(row)}
                </div>
              ))}
            </div>
          );
        })}
      </div>
    </div>
  );
}
