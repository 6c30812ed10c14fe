// Decisions per second as a small stacked area: allowed, with denied on top of it.

import "uplot/dist/uPlot.min.css";
import "./rate-chart.css";

import { useEffect, useRef } from "react";
import UPlot from "uplot";

export interface RatePoint {
  at: number;
  allowed: number;
  denied: number;
}

function colour(name: string, element: Element): string {
  // light-dark() must be resolved by the browser before a canvas can use it.
  const probe = document.createElement("span");
  probe.className = `probe-${name}`;
  element.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

export function stack(points: readonly RatePoint[]): UPlot.AlignedData {
  return [
    points.map((point) => point.at),
    points.map((point) => point.allowed + point.denied),
    points.map((point) => point.denied),
  ];
}

export function RateChart({ points, label }: { points: readonly RatePoint[]; label: string }) {
  const host = useRef<HTMLDivElement>(null);
  const plot = useRef<UPlot>(null);
  const data = useRef<UPlot.AlignedData>(stack(points));

  useEffect(() => {
    const element = host.current;
    if (!element) {
      return;
    }
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const draw = () => {
      plot.current?.destroy();
      const allow = colour("allow", element);
      const deny = colour("deny", element);
      plot.current = new UPlot(
        {
          width: Math.max(element.clientWidth, 50),
          height: Math.max(element.clientHeight, 30),
          padding: [4, 0, 0, 0],
          legend: { show: false },
          cursor: { show: false },
          scales: {
            x: { time: true },
            y: { range: (_, __, max) => [0, Math.max(max * 1.08, 1)] },
          },
          axes: [{ show: false }, { show: false }],
          series: [
            {},
            { stroke: allow, width: 1.5, fill: colour("allow-fill", element), points: { show: false } },
            { stroke: deny, width: 1.5, fill: deny, points: { show: false } },
          ],
        },
        data.current,
        element,
      );
    };
    draw();
    const resized = new ResizeObserver(() => {
      plot.current?.setSize({
        width: Math.max(element.clientWidth, 50),
        height: Math.max(element.clientHeight, 30),
      });
    });
    resized.observe(element);
    dark.addEventListener("change", draw);
    return () => {
      dark.removeEventListener("change", draw);
      resized.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, []);

  useEffect(() => {
    data.current = stack(points);
    plot.current?.setData(data.current);
  }, [points]);

  return <div ref={host} className="rate-chart" role="img" aria-label={label} />;
}
