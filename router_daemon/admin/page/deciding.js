// How long decisions take, and how many the cache saved: a histogram of the last minute or since the start.

import { h, head, replace, segments, setText } from "./dom.js";
import { number, percent } from "./format.js";

export class Deciding {
  constructor(panel) {
    this.ever = false;
    head(
      panel,
      "How long a decision takes",
      "Choosing the heads of one message. Striped: the ranking had to be made first.",
      segments("Of which time", [["minute", "1 min"], ["ever", "All"]], "minute", (which) => { this.ever = which === "ever"; this.draw(this.memory); }),
    );
    this.bars = h("div", { class: "histogram", role: "img" });
    this.scale = h("div", { class: "scale", "aria-hidden": "true" });
    this.words = h("p", { class: "small muted" });
    panel.append(this.bars, this.scale, this.words);
  }

  draw(memory) {
    this.memory = memory;
    const found = memory?.snapshot && memory.decisions(this.ever);
    if (!found) return;
    const [hits, misses] = found;
    const { bounds } = memory.snapshot.decision_seconds;
    const sums = hits.map((count, n) => count + misses[n]);
    const most = Math.max(1, ...sums);
    if (this.bars.children.length !== sums.length) this.#build(bounds);
    sums.forEach((sum, n) => {
      const [hit, miss] = this.bars.children[n].children;
      hit.style.height = `${(hits[n] / most) * 100}%`;
      miss.style.height = `${(misses[n] / most) * 100}%`;
      this.bars.children[n].title = `${label(bounds, n)}: ${number(sum)} decisions, ${number(misses[n])} with a new ranking`;
    });
    this.#tell(hits, misses, bounds, sums);
  }

  #build(bounds) {
    replace(this.bars, [...bounds, null].map(() => h("div", {}, h("i"), h("i", { class: "miss" }))));
    replace(this.scale, [...bounds.map((bound, n) => h("span", {}, n % 2 ? "" : short(bound))), h("span")]);
  }

  #tell(hits, misses, bounds, sums) {
    const count = sums.reduce((sum, each) => sum + each, 0);
    const hit = hits.reduce((sum, each) => sum + each, 0);
    const half = median(sums, count);
    const text = count
      ? `${number(count)} decisions, half of them within ${half < bounds.length ? short(bounds[half]) : "more than 5 ms"}; ${percent(hit / count)} % with a ranking from the cache.`
      : "No decision in this time.";
    setText(this.words, text);
    this.bars.setAttribute("aria-label", text);
  }
}

function median(counts, total) {
  let sum = 0;
  return counts.findIndex((count) => (sum += count) * 2 >= total);
}

const short = (seconds) => (seconds >= 1e-3 ? `${number(seconds * 1e3)} ms` : `${number(seconds * 1e6)} µs`);

const label = (bounds, n) => (n < bounds.length ? `up to ${short(bounds[n])}` : `more than ${short(bounds.at(-1))}`);
