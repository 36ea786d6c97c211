// Messages that were, the newest first; one opens its story. Asked for only while the list can be seen.

import { ask, query } from "./asking.js";
import { h, head, name, replace } from "./dom.js";
import { NONE, PRIORITIES, clock, ms } from "./format.js";
import { tellStory } from "./story.js";

const EVERY_MS = 3000;
const LIMIT = 40;
const COLUMNS = [["at"], ["capability"], ["went to"], ["outcome"], ["took", "number"], ["priority", "desk"], ["kept as", "desk"], ["message", "desk"]];

export class Decisions {
  constructor(panel, drawer) {
    this.drawer = drawer;
    this.seen = false;
    this.outcome = h("select", { "aria-label": "Which outcome", onchange: () => this.look() }, [["", "all outcomes"], ["answered", "answered"], ["failed", "failed"], ["expired", "expired"], ["overloaded", "overloaded"], ["no_backend", "no backend"], ["no_capability", "no capability"]].map(([value, text]) => h("option", { value }, text)));
    this.capability = h("select", { "aria-label": "Which capability", onchange: () => this.look() }, h("option", { value: "" }, "all capabilities"));
    const search = h("input", { type: "search", id: "message", placeholder: "Message, client's id or trace", "aria-label": "Look for a message by its name, its client's id or its trace id" });
    const form = h("form", { onsubmit: (event) => { event.preventDefault(); if (search.value.trim()) tellStory(drawer, search.value.trim()); } }, search);
    head(panel, "Why did this message go there?", "Failed, slow, critical and retried messages, and a sample of the others. Choose one.", this.capability, this.outcome, form);
    this.rows = h("tbody", { onclick: (event) => this.#open(event.target), onkeydown: (event) => this.#key(event) });
    this.note = h("p", { class: "small muted" });
    panel.append(h("div", { class: "scroll tall" }, h("table", { class: "rows" }, h("thead", {}, h("tr", {}, COLUMNS.map(([text, kind]) => h("th", { scope: "col", class: kind }, text)))), this.rows)), this.note);
    new IntersectionObserver(([entry]) => { this.seen = entry.isIntersecting; if (this.seen) this.look(); }).observe(panel);
    setInterval(() => this.seen && !document.hidden && !drawer.open && !this.rows.contains(document.activeElement) && this.look(), EVERY_MS);
  }

  // Offer these capabilities to choose from.
  offer(snapshot) {
    const names = snapshot.capabilities.map((each) => each.name);
    if (names.join("\0") === this.offered) return;
    this.offered = names.join("\0");
    const chosen = this.capability.value;
    replace(this.capability, h("option", { value: "" }, "all capabilities"), names.map((each) => h("option", { value: each }, each)));
    if (names.includes(chosen)) this.capability.value = chosen;
  }

  async look() {
    const wanted = query({ capability: this.capability.value, outcome: this.outcome.value, limit: LIMIT });
    try {
      const told = await ask(`/decisions?${wanted}`);
      replace(this.rows, told.decisions.length ? told.decisions.map(row) : h("tr", {}, h("td", { colspan: 8, class: "muted" }, "Nothing of that kind is kept.")));
      replace(this.note, `${told.entries.toLocaleString("en")} messages are kept.`);
    } catch (fault) {
      replace(this.note, h("span", { class: "error" }, fault.message));
    }
  }

  #open(target) {
    const message = target.closest("tr")?.dataset.message;
    if (message) tellStory(this.drawer, message);
  }

  #key(event) {
    const row = event.target.closest("tr");
    if (event.key === "Enter" || event.key === " ") this.#open(event.target);
    else if (event.key === "ArrowDown") row.nextElementSibling?.focus();
    else if (event.key === "ArrowUp") row.previousElementSibling?.focus();
    else return;
    event.preventDefault();
  }
}

function row(entry) {
  const others = entry.backends.filter((each) => each !== entry.answered_by).length;
  const first = entry.answered_by ?? entry.backends[0];
  const bad = entry.outcome !== "answered" && entry.outcome !== "client_gone";
  const label = `${entry.capability}, ${entry.outcome}, ${first ?? "to nobody"}, ${ms(entry.took_ms)}: open why`;
  return h(
    "tr",
    { tabindex: 0, "data-message": entry.message, "aria-label": label },
    h("td", { class: "muted" }, clock(entry.at)),
    h("td", {}, name(entry.capability)),
    h("td", {}, first ? name(first) : NONE, others > 0 ? h("span", { class: "muted" }, ` +${others}`) : null),
    h("td", {}, h("span", { class: bad ? "tag bad" : "" }, entry.outcome)),
    h("td", { class: "number" }, ms(entry.took_ms)),
    h("td", { class: "desk" }, PRIORITIES[entry.priority]),
    h("td", { class: "desk muted" }, entry.kept),
    h("td", { class: "desk code" }, name(entry.message.slice(-10))),
  );
}
