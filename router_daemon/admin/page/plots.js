// Latency, success and traffic over the last ten minutes, by backend or by route; what has happened as lines across.

import uPlot from "./vendor/uPlot.esm.js";
import { colourOf, dashOf, place } from "./colours.js";
import { h, head, name, replace, segments, setText, svg } from "./dom.js";
import { NONE, ms, number, percent } from "./format.js";
import { LEVELS, kindOf, sentence } from "./kinds.js";
import { KEEP_S } from "./memory.js";

const MOST_LINES = 64;
const MOST_ON = 12;
const NEAR_PX = 7;
const HEIGHT = () => (innerWidth < 700 ? 190 : 300);


// What can be plotted: how a line's value is found in a point, and how it reads.
const METRICS = {
  backend: {
    latency: { text: "Latency", of: (p, key) => p.backends[key]?.[0], say: ms },
    success: { text: "Success", of: (p, key) => times100(p.backends[key]?.[1]), say: (v) => `${percent(v / 100)} %`, most: 100 },
    rate: { text: "Answers/s", of: (p, key) => p.backends[key]?.[2], say: (v) => `${number(v)}/s` },
  },
  route: {
    p50: { text: "p50", of: (p, key) => routes(p)[key]?.p50_ms, say: ms },
    p99: { text: "p99", of: (p, key) => routes(p)[key]?.p99_ms, say: ms },
    success: { text: "Success", of: (p, key) => times100(routes(p)[key]?.success), say: (v) => `${percent(v / 100)} %`, most: 100 },
    rate: { text: "Messages/s", of: (p, key) => routes(p)[key]?.per_s, say: (v) => `${number(v)}/s` },
  },
};
const LISTED = { backend: (p) => Object.keys(p.backends), route: (p) => Object.keys(routes(p)) };
const times100 = (value) => (value === null || value === undefined ? null : value * 100);

// With one route, what came of it is what came of all.
const routes = (point) => (Object.keys(point.routes).length ? point.routes : { "all messages": point });

export class Plots {
  constructor(panel) {
    this.by = "backend";
    this.metric = { backend: "latency", route: "p99" };
    this.off = new Set();
    this.on = new Set();
    this.lines = [];
    this.tools = h("span");
    head(
      panel,
      "Over time",
      "The last ten minutes. By backend: the averages that the daemon decides with. By route: of the messages that ended.",
      segments("By", [["backend", "Backends"], ["route", "Routes"]], this.by, (by) => { this.by = by; this.#metrics(); this.rebuild(); }),
      this.tools,
    );
    this.box = h("div", { class: "plot", role: "img", "aria-label": "Time series; the buttons below tell the latest values" });
    this.note = h("div", { class: "mark-note", hidden: true });
    this.box.append(this.note);
    this.keys = h("div", { class: "keys", role: "group", "aria-label": "Lines: pressed are shown" });
    panel.append(this.box, this.keys);
    this.#metrics();
    new ResizeObserver(() => requestAnimationFrame(() => this.plot?.setSize({ width: this.#width(), height: HEIGHT() }))).observe(panel);
  }

  draw(memory) {
    this.memory = memory;
    const lines = this.#listed();
    if (lines.join("\0") !== this.lines.join("\0") || !this.plot) this.rebuild();
    else {
      this.plot.setData(this.#data());
      this.#values();
    }
  }

  rebuild() {
    if (!this.memory?.points.length) return;
    this.lines = this.#listed();
    this.plot?.destroy();
    this.plot = new uPlot(this.#options(), this.#data(), this.box);
    replace(this.keys, this.lines.map((line) => this.#key(line)));
    this.#values();
  }

  // --- what is plotted ---

  #what() {
    return METRICS[this.by][this.metric[this.by]];
  }

  #metrics() {
    const options = Object.entries(METRICS[this.by]).map(([key, { text }]) => [key, text]);
    replace(this.tools, segments("Metric", options, this.metric[this.by], (key) => { this.metric[this.by] = key; this.rebuild(); }));
  }

  #listed() {
    const found = new Set();
    for (const point of this.memory.points.slice().reverse()) {
      for (const key of LISTED[this.by](point)) if (found.size < MOST_LINES) found.add(key);
    }
    const sorted = [...found].sort();
    sorted.forEach(place);
    return sorted;
  }

  #shown(line) {
    if (this.off.has(line)) return false;
    return this.on.has(line) || this.lines.length <= MOST_ON || this.#busiest().has(line);
  }

  #busiest() {
    const last = this.memory.points.at(-1);
    const rate = METRICS[this.by].rate.of;
    return new Set([...this.lines].sort((a, b) => (rate(last, b) ?? 0) - (rate(last, a) ?? 0)).slice(0, MOST_ON));
  }

  #data() {
    const { points } = this.memory;
    const { of } = this.#what();
    return [points.map((point) => point.at), ...this.lines.map((line) => points.map((point) => of(point, line) ?? null))];
  }

  #width() {
    return Math.max(240, this.box.clientWidth);
  }

  #options() {
    const css = getComputedStyle(document.documentElement);
    const [muted, grid] = [css.getPropertyValue("--muted").trim(), css.getPropertyValue("--line").trim()];
    const { say, most } = this.#what();
    const axis = { stroke: muted, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: "11px system-ui, sans-serif" };
    return {
      width: this.#width(),
      height: HEIGHT(),
      legend: { show: false },
      cursor: { drag: { x: false, y: false }, points: { size: 6 } },
      scales: { x: { time: true, range: (_, low, high) => [Math.max(low, high - KEEP_S), Math.max(high, low + 60)] }, y: { range: (_, low, high) => bounds(low, high, most) } },
      axes: [{ ...axis, values: (_, ticks) => ticks.map((at) => new Date(at * 1000).toLocaleTimeString("en-GB").slice(0, 8)), space: 74 }, { ...axis, size: 62, values: (_, ticks) => ticks.map((value) => say(value)) }],
      series: [{}, ...this.lines.map((line) => this.#series(line))],
      hooks: { draw: [(plot) => this.#marks(plot, css)], setCursor: [(plot) => { this.#values(); this.#noteAt(plot); }] },
    };
  }

  #series(line) {
    const n = place(line);
    return { stroke: colourOf(n), dash: dashOf(n), width: 1.5, spanGaps: true, points: { show: false }, show: this.#shown(line) };
  }

  // --- what has happened ---

  #visible(plot) {
    const { min, max } = plot.scales.x;
    return this.memory.happenings.filter((each) => each.at >= min && each.at <= max);
  }

  #marks(plot, css) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
    ctx.textAlign = "center";
    for (const happening of this.#visible(plot)) {
      const { mark, level } = kindOf(happening);
      const x = plot.valToPos(happening.at, "x", true);
      ctx.strokeStyle = ctx.fillStyle = css.getPropertyValue(LEVELS[level]).trim();
      ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top + 12 * devicePixelRatio);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      ctx.fillText(mark, x, bbox.top + 9 * devicePixelRatio);
    }
    ctx.restore();
  }

  #noteAt(plot) {
    const { left } = plot.cursor;
    const near = left >= 0 ? this.#visible(plot).filter((each) => Math.abs(plot.valToPos(each.at, "x") - left) < NEAR_PX) : [];
    this.note.hidden = !near.length;
    if (!near.length) return;
    replace(this.note, near.slice(-4).map((each) => h("div", {}, name(sentence(each)))));
    const x = left + plot.bbox.left / devicePixelRatio;
    this.note.style.top = "16px";
    this.note.style.left = `${Math.min(x + 8, Math.max(0, this.#width() - 200))}px`;
  }

  // --- the keys ---

  #key(line) {
    const n = place(line);
    const value = h("b");
    const stroke = svg("line", { x1: 0, y1: 4, x2: 18, y2: 4, "stroke-width": 2.5, style: { stroke: `var(--s${(n % 8) + 1})` }, "stroke-dasharray": dashOf(n).join(" ") || null });
    const button = h("button", { type: "button", title: line, "aria-pressed": this.#shown(line), onclick: () => this.#toggle(line, button) }, svg("svg", { "aria-hidden": "true", viewBox: "0 0 18 8" }, stroke), h("span", {}, name(line)), value);
    return button;
  }

  #toggle(line, button) {
    const show = !this.#shown(line);
    (show ? this.on : this.off).add(line);
    (show ? this.off : this.on).delete(line);
    button.setAttribute("aria-pressed", show);
    this.plot.setSeries(this.lines.indexOf(line) + 1, { show });
  }

  #values() {
    if (!this.plot) return;
    const { say } = this.#what();
    const at = this.plot.cursor.idx;
    this.lines.forEach((line, n) => {
      const column = this.plot.data[n + 1];
      const value = at === null || at === undefined ? column.at(-1) : column[at];
      const button = this.keys.children[n];
      if (button) setText(button.lastChild, value === null || value === undefined ? NONE : say(value));
    });
  }
}

// A scale from nought where that leaves the lines readable; shares end at their most.
function bounds(low, high, most) {
  if (low === null || high === null) return [0, most ?? 1];
  if (most !== undefined) return [Math.max(0, Math.min(low - (most - low) * 0.15, most - 1)), most];
  return [0, high > 0 ? high * 1.12 : 1];
}
