// What has happened, the newest first: the same that the plots mark with a line.

import { h, head, name, replace } from "./dom.js";
import { clock } from "./format.js";
import { kindOf, sentence } from "./kinds.js";

const SHOWN = 60;
const AT_ONCE_S = 1;

export class Happenings {
  constructor(panel) {
    head(panel, "What has happened", "Backends that join, fail or leave; rollouts, overrides, reloads. The plots mark them.");
    this.list = h("ol", { class: "events", tabindex: 0, "aria-label": "Events, the newest first" });
    panel.append(this.list);
    this.shown = "";
  }

  draw(memory) {
    const recent = memory.happenings.slice(-SHOWN).reverse();
    const shape = recent.map((each) => `${each.at}${each.id}`).join();
    if (shape === this.shown) return;
    this.shown = shape;
    if (!recent.length) replace(this.list, h("li", { class: "muted" }, h("span"), h("span"), "Nothing has, as far as the daemon remembers."));
    else replace(this.list, together(recent).map(line));
  }
}

// What is of one kind and happened at once makes one line.
function together(happenings) {
  const groups = [];
  for (const happening of happenings) {
    const [last] = groups.at(-1) ?? [];
    if (last && happening.name && last.kind === happening.kind && Math.abs(last.at - happening.at) < AT_ONCE_S) groups.at(-1).push(happening);
    else groups.push([happening]);
  }
  return groups;
}

function line(group) {
  const [first] = group;
  const { mark, word, level } = kindOf(first);
  const names = group.map((each) => each.name);
  const text = group.length < 3 ? group.map((each, n) => [n ? ", " : "", name(sentence(each))]) : [`${group.length} ${word}: `, names.flatMap((each, n) => [n ? ", " : "", name(each)])];
  return h("li", {}, h("time", {}, clock(first.at)), h("b", { class: level, "aria-hidden": "true" }, mark), h("span", {}, text));
}
