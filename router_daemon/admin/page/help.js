// How to read the page and which keys it knows.

import { h } from "./dom.js";

const READ = [
  ["The map", "For each capability (a column) the attention weights of the backends that offer it, in percent. The darkest is the best of its column; a small 1 marks who gets the next message, 2 and 3 further heads. A striped field: it does not offer that."],
  ["Success", "Answered messages among those that somebody can be blamed for, of the last five seconds; so are messages per second, p50, p99, cache hits and refusals."],
  ["A backend's latency", "The average that the daemon keeps and decides with, not that of the last second."],
  ["Dots", "Round and green: up. Square: paused, draining, or drained by a person. Diamond: ejected because it fails, or disconnected."],
];
const KEYS = [
  ["Tab", "from panel to panel; the map is one stop"],
  ["Arrows, Home, End", "within the map"],
  ["Enter", "why: of a cell of the map, or of a message"],
  ["Esc", "closes what is open"],
  ["/", "filter backends"],
  ["m", "to the map"],
  ["?", "this help"],
];

export function showHelp(drawer) {
  const list = (rows, term) => h("dl", { class: "facts-list" }, rows.map(([what, text]) => [h("dt", {}, term(what)), h("dd", {}, text)]));
  drawer.show("How to read this page", h("div", { class: "stack" }, list(READ, (text) => text), h("h3", {}, "Keys"), list(KEYS, (text) => h("span", { class: "code" }, text))));
}
