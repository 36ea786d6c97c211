// Health at a glance: eight numbers of the last seconds, each with its last five minutes.

import { h, setAttribute, setText, svg } from "./dom.js";
import { NONE, ms, number, percent } from "./format.js";

const SHOWN_S = 300;
const WIDTH = 120;
const HEIGHT = 22;
const total = (point) => point.waiting.reduce((sum, count) => sum + count, 0);

const VITALS = [
  { id: "rate", label: "Messages", unit: "/s", of: (p) => p.per_s, text: number },
  {
    id: "success", label: "Success", unit: "%", of: (p) => p.success, text: percent, low: 0, high: 1,
    level: (p) => (p.success === null || p.success >= 0.99 ? "" : p.success >= 0.95 ? "warn" : "bad"),
  },
  { id: "p50", label: "Latency p50", unit: "", of: (p) => p.p50_ms, text: ms },
  { id: "p99", label: "Latency p99", unit: "", of: (p) => p.p99_ms, text: ms },
  { id: "open", label: "In flight", unit: "", of: (p) => p.in_flight, text: number },
  { id: "waits", label: "Waiting", unit: "", of: total, text: number, level: (p) => (total(p) > 0 ? "warn" : "") },
  { id: "hits", label: "Cache hits", unit: "%", of: (p) => p.hit_ratio, text: percent, low: 0, high: 1 },
  {
    id: "refused", label: "Refused", unit: "/s", of: (p) => p.refused_per_s, text: number,
    level: (p) => (p.refused_per_s > 0 ? "bad" : ""),
  },
];

export class Vitals {
  constructor(list) {
    this.tiles = VITALS.map((vital) => {
      const value = h("span");
      const unit = h("small", {}, vital.unit);
      const area = svg("path", { class: "area" });
      const line = svg("path");
      const spark = svg("svg", { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" }, area, line);
      const tile = h("div", { class: "vital", id: `vital-${vital.id}` }, h("dt", {}, vital.label), h("dd", {}, value, unit), h("dd", { "aria-hidden": "true" }, spark));
      list.append(tile);
      return { vital, tile, value, unit, area, line };
    });
  }

  draw(history) {
    const point = history.points.at(-1);
    if (!point) return;
    const recent = history.points.filter((each) => each.at >= point.at - SHOWN_S);
    for (const { vital, tile, value, unit, area, line } of this.tiles) {
      const text = vital.text(vital.of(point));
      setText(value, text);
      unit.hidden = text === NONE;
      setAttribute(tile, "data-level", vital.level?.(point) || null);
      const path = trace(recent, vital);
      setAttribute(line, "d", path);
      setAttribute(area, "d", path && `${path}V${HEIGHT}H${(path.match(/^M([\d.]+)/) ?? [0, 0])[1]}Z`);
    }
  }
}

function trace(points, vital) {
  const known = points.map((point) => [point.at, vital.of(point)]).filter(([, value]) => value !== null);
  if (known.length < 2) return "";
  const end = points.at(-1).at;
  const values = known.map(([, value]) => value);
  const high = vital.high ?? Math.max(...values, 1e-9) * 1.1;
  const low = Math.min(vital.low ?? 0, ...values);
  const x = (at) => (((at - end + SHOWN_S) / SHOWN_S) * WIDTH).toFixed(1);
  const y = (value) => (HEIGHT - 1 - ((value - low) / (high - low)) * (HEIGHT - 3)).toFixed(1);
  return known.map(([at, value], n) => `${n ? "L" : "M"}${x(at)} ${y(value)}`).join("");
}
