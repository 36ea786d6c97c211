// The waiting room by priority, and what was refused and why.

import { h, head, replace, setText } from "./dom.js";
import { PRIORITIES, number } from "./format.js";

const CAUSES = {
  room: "no room to wait",
  displaced: "gave way to a higher priority",
  wait: "the wait would have been too long",
  late: "too late to finish in time",
  budget: "no budget for another try",
  open_messages: "too many open messages",
  client_messages: "too many of one client",
  client_bytes: "too many bytes of one client",
};

export class Waiting {
  constructor(panel) {
    head(panel, "Waiting room", "Messages that wait for a place, by priority; what found no place is refused at once.");
    this.rows = [4, 3, 2, 1].map((priority) => {
      const bar = h("i");
      const count = h("span", { class: "number" });
      return { priority, bar, count, row: h("div", { class: "bar-row" }, h("span", {}, PRIORITIES[priority]), h("div", { class: "track", "aria-hidden": "true" }, bar), count) };
    });
    this.words = h("p", { class: "small muted" });
    this.causes = h("dl", { class: "facts-list" });
    panel.append(h("div", { class: "stack" }, h("div", { class: "bars" }, this.rows.map((each) => each.row)), this.words, this.causes));
  }

  draw(memory) {
    const { snapshot } = memory;
    if (!snapshot) return;
    const counts = snapshot.point.waiting;
    const size = counts.reduce((sum, count) => sum + count, 0);
    for (const { priority, bar, count } of this.rows) {
      bar.style.width = `${(counts[priority - 1] / Math.max(1, size)) * 100}%`;
      setText(count, number(counts[priority - 1]));
    }
    setText(this.words, size ? `${number(size)} of at most ${number(snapshot.waiting_most)} wait.` : `Nobody waits; there is room for ${number(snapshot.waiting_most)}.`);
    const refused = Object.entries(snapshot.refusals).filter(([, count]) => count);
    replace(this.causes, refused.length ? refused.map(([cause, count]) => [h("dt", {}, `Refused: ${CAUSES[cause] ?? cause}`), h("dd", {}, number(count))]) : [h("dt", {}, "Nothing was refused since the start.")]);
  }
}
