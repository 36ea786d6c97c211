// The map: backends by capabilities, in each cell the attention weight in percent. A column adds up to 100.
// One cell is in the tab order; arrows, Home and End move, Enter and Space open why.

import { ask, query } from "./asking.js";
import { shade } from "./colours.js";
import { h, head, name, replace, segments, setAttribute, setText } from "./dom.js";
import { ms, number, percent } from "./format.js";

const SHARPNESS = 4; // weights of good backends lie close together: (weight / best)^4 tells them apart
const NARROW = 7; // from so many capabilities on their names stand upright
const POLL_MS = 2000;
const SORTS = [["name", "Name"], ["rate", "Traffic"], ["latency", "Latency"], ["success", "Success"]];
const COMPARE = {
  name: (a, b) => a.name.localeCompare(b.name),
  rate: (a, b) => b.per_s - a.per_s,
  latency: (a, b) => b.latency_ms - a.latency_ms,
  success: (a, b) => a.success - b.success,
};

export class Heat {
  // `open` is called with (capability, backend).
  constructor(panel, open) {
    this.open = open;
    this.sort = "name";
    this.wanted = "";
    this.found = null; // a snapshot of what the filter finds, where the stream does not have all
    this.snapshot = null;
    this.shape = "";
    this.at = [0, 0];
    const filter = h("input", { type: "search", placeholder: "Filter backends  ( / )", "aria-label": "Filter backends by name, group or capability", id: "filter", oninput: () => this.#filter(filter.value) });
    head(
      panel,
      "Who would get the next message",
      "Attention weights in percent, live: read a column from top to bottom. Click a cell, or press Enter, to see why.",
      filter,
      segments("Sort backends by", SORTS, this.sort, (sort) => { this.sort = sort; this.draw(); }),
    );
    this.table = h("table", { class: "heat", role: "grid", "aria-labelledby": "map-title", onkeydown: (event) => this.#key(event) });
    this.note = h("span", { id: "map-note" });
    const legend = h("div", { class: "legend" }, h("span", {}, "far from the best of its column", h("i", { class: "ramp", "aria-hidden": "true" }), "the best"), h("span", {}, h("span", { class: "chip" }, "1"), " who gets the next message; 2, 3: further heads"), this.note);
    panel.append(h("div", { class: "scroll" }, this.table), legend);
    setInterval(() => this.#poll(), POLL_MS);
  }

  show(snapshot) {
    this.snapshot = snapshot;
    this.draw();
  }

  draw() {
    const source = this.found ?? this.snapshot;
    if (!source) return;
    const rows = source.backends.filter((backend) => this.found || this.#suits(backend)).sort(COMPARE[this.sort]);
    const columns = source.capabilities;
    const shape = JSON.stringify([rows.map((row) => row.name), columns.map((column) => column.name)]);
    if (shape !== this.shape) this.#build(rows, columns, shape);
    rows.forEach((row, r) => this.#row(row, r, columns));
    columns.forEach((column, c) => setText(this.heads[c], `${number(column.busy)}/${column.slots} busy`));
    setText(this.note, this.#left(source, rows));
  }

  focusFilter() {
    document.getElementById("filter").focus();
  }

  // --- what is shown ---

  #suits(backend) {
    if (!this.wanted) return true;
    const offers = this.snapshot.capabilities.filter((each) => backend.name in each.weights).map((each) => each.name);
    return [backend.name, backend.group ?? "", ...offers].some((text) => text.toLowerCase().includes(this.wanted));
  }

  #left(source, rows) {
    const parts = [];
    const backends = source.backends_there - rows.length;
    const capabilities = source.capabilities_there - source.capabilities.length;
    if (!rows.length) parts.push(this.wanted ? "No backend has that in its name, group or capabilities." : "No backend is registered.");
    else if (backends > 0) parts.push(`${rows.length} of ${source.backends_there} backends${this.wanted ? "" : ", the busiest; the filter finds the others"}.`);
    if (capabilities > 0) parts.push(`${capabilities} capabilities with less traffic are left out.`);
    const faults = source.capabilities.filter((each) => each.fault).map((each) => `${each.name}: ${each.fault}`);
    const oldest = Math.max(0, ...source.capabilities.map((each) => each.read_s));
    if (oldest > 2.5) parts.push(`Weights are read in turn, the oldest ${Math.round(oldest)} s ago.`);
    return [...parts, ...faults].join(" ");
  }

  #build(rows, columns, shape) {
    const had = this.table.contains(document.activeElement) ? this.shape && this.#named() : null;
    this.shape = shape;
    this.heads = columns.map(() => h("small"));
    const names = columns.map((column, c) => h("th", { class: "capability", scope: "col", title: column.name }, h("span", {}, broken(column.name), this.heads[c])));
    const figures = ["in flight", "answers", "latency", "success"].map((text) => h("th", { class: "figure number", scope: "col" }, text));
    this.cells = rows.map((row, r) => columns.map((column, c) => h("td", { role: "gridcell", tabindex: -1, onclick: () => this.#enter(r, c), onfocus: () => { this.at = [r, c]; this.#rove(); } })));
    this.figures = rows.map(() => figures.map(() => h("td", { class: "figure", role: "gridcell" })));
    this.rows = rows.map((row, r) => h("tr", {}, h("th", { scope: "row", title: row.name }, h("i", { class: "dot", "aria-hidden": "true" }), name(row.name)), this.figures[r], this.cells[r]));
    this.order = { rows: rows.map((row) => row.name), columns: columns.map((column) => column.name) };
    this.narrow = columns.length >= NARROW || innerWidth < 700;
    this.table.classList.toggle("narrow", this.narrow);
    replace(this.table, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "backend"), figures, names)), h("tbody", {}, this.rows));
    if (had) this.at = [Math.max(0, this.order.rows.indexOf(had[0])), Math.max(0, this.order.columns.indexOf(had[1]))];
    this.at = [Math.min(this.at[0], Math.max(0, rows.length - 1)), Math.min(this.at[1], Math.max(0, columns.length - 1))];
    this.#rove();
    if (had) this.cells[this.at[0]]?.[this.at[1]]?.focus({ preventScroll: true });
  }

  #row(row, r, columns) {
    setAttribute(this.rows[r], "data-state", row.state);
    setAttribute(this.rows[r].firstChild, "title", `${row.name}: ${row.state}${row.version ? `, version ${row.version}` : ""}`);
    const texts = [`${row.in_flight}/${row.places}`, `${number(row.per_s, 2)}/s`, row.samples ? ms(row.latency_ms) : "–", `${percent(row.success)} %`];
    texts.forEach((text, n) => setText(this.figures[r][n], row.state === "up" || n !== 0 ? text : row.state));
    columns.forEach((column, c) => this.#cell(this.cells[r][c], row, column));
  }

  #cell(cell, row, column) {
    const [weight, place] = column.weights[row.name] ?? [null, null];
    setAttribute(cell, "class", weight === null ? "none" : "cell");
    setAttribute(cell, "data-head", place);
    const what = weight === null ? "cannot do it" : `weight ${percent(weight)} %${place ? `, head ${place}` : ""}`;
    setAttribute(cell, "aria-label", `${column.name}, ${row.name}${row.state === "up" ? "" : ` (${row.state})`}: ${what}`);
    setText(cell, weight === null ? "" : (weight * 100).toFixed(this.narrow ? 0 : 1));
    const { background, text } = weight === null ? { background: "", text: "" } : shade(column.best ? (weight / column.best) ** SHARPNESS : 0);
    if (cell.style.background !== background) cell.style.background = background;
    if (cell.style.color !== text) cell.style.color = text;
  }

  // --- the keyboard ---

  #named() {
    return [this.order.rows[this.at[0]], this.order.columns[this.at[1]]];
  }

  #rove() {
    const [r, c] = this.at;
    this.cells.forEach((cells, y) => cells.forEach((cell, x) => setAttribute(cell, "tabindex", y === r && x === c ? 0 : -1)));
  }

  #key(event) {
    const [r, c] = this.at;
    const [last, end] = [this.cells.length - 1, (this.cells[0]?.length ?? 1) - 1];
    const steps = { ArrowUp: [r - 1, c], ArrowDown: [r + 1, c], ArrowLeft: [r, c - 1], ArrowRight: [r, c + 1], Home: [event.ctrlKey ? 0 : r, 0], End: [event.ctrlKey ? last : r, end], PageUp: [0, c], PageDown: [last, c] };
    if (event.key === "Enter" || event.key === " ") this.#enter(r, c);
    else if (event.key in steps) this.cells[clamp(steps[event.key][0], last)]?.[clamp(steps[event.key][1], end)]?.focus();
    else return;
    event.preventDefault();
  }

  #enter(r, c) {
    this.at = [r, c];
    this.#rove();
    this.open(this.order.columns[c], this.order.rows[r]);
  }

  // --- the filter ---

  #filter(text) {
    this.wanted = text.trim().toLowerCase();
    if (!this.#mustAsk()) this.found = null;
    this.draw();
    this.#poll();
  }

  #mustAsk() {
    return this.wanted !== "" && this.snapshot !== null && this.snapshot.backends_there > this.snapshot.backends.length;
  }

  async #poll() {
    if (!this.#mustAsk() || document.hidden) return;
    const wanted = this.wanted;
    try {
      const found = await ask(`/snapshot?${query({ backends: wanted })}`);
      if (this.wanted === wanted) {
        this.found = found;
        this.draw();
      }
    } catch {
      // the banner says already that the daemon is gone; the next look asks again
    }
  }
}

const clamp = (value, most) => Math.max(0, Math.min(most, value));

// A name that may be broken where its words end.
function broken(text) {
  return h("bdi", {}, text.split(/(?<=[_.\-/:])/).flatMap((part, n) => (n ? [h("wbr"), part] : [part])));
}
