// One candidate: its weight, its terms as a stacked bar, and why it gets the message or is passed over.

import { variableOf } from "./colours.js";
import { h, name } from "./dom.js";
import { ms, number, percent } from "./format.js";

// The terms by name, in the order in which the candidates have them: each its colour, and whether all have the same.
export function legendOf(candidates) {
  const compared = candidates.filter((candidate) => Object.keys(candidate.terms).length);
  const names = [...new Set(compared.flatMap((candidate) => Object.keys(candidate.terms)))];
  const isSame = (term) => compared.length > 1 && compared.every((each) => Math.abs(each.terms[term] - compared[0].terms[term]) < 1e-9);
  return new Map(names.map((term, n) => [term, { colour: variableOf(n), same: isSame(term) }]));
}

export function legend(terms) {
  return h("div", { class: "legend", "aria-label": "Terms of the score" }, [...terms].map(([term, { colour, same }]) => h("span", {}, h("i", { class: `swatch${same ? " same" : ""}`, style: { background: colour } }), term.replaceAll("_", " "), same ? " (the same for all)" : "")));
}

// The widest sum of absolute terms: what fills a bar.
export const widest = (candidates) => Math.max(1e-12, ...candidates.map((each) => Object.values(each.terms).reduce((sum, value) => sum + Math.abs(value), 0)));

export function bar(candidate, terms, most) {
  const parts = Object.entries(candidate.terms);
  if (!parts.length) return null;
  const words = parts.map(([term, value]) => `${term.replaceAll("_", " ")} ${number(value)}`).join(", ");
  return h(
    "div",
    { class: "terms", role: "img", "aria-label": words, title: words },
    parts.map(([term, value]) => h("i", { class: `${value < 0 ? "minus" : ""}${terms.get(term).same ? " same" : ""}`, title: `${term}: ${number(value)}`, style: { width: `${(Math.abs(value) / most) * 100}%`, background: terms.get(term).colour } })),
  );
}

export function candidateCard(candidate, terms, most, asked) {
  const end = candidate.weight === null || candidate.weight === undefined ? (candidate.score === null ? "" : candidate.score.toFixed(4)) : `${percent(candidate.weight)} %`;
  return h(
    "li",
    { class: `candidate${candidate.head ? " chosen" : ""}${candidate.backend === asked ? " asked" : ""}` },
    h("div", { class: "line" }, h("b", {}, name(candidate.backend)), h("span", { class: candidate.head ? "" : "muted" }, candidate.reason), h("span", { class: "end" }, end)),
    bar(candidate, terms, most),
    h("div", { class: "small muted" }, facts(candidate)),
  );
}

function facts(candidate) {
  const parts = [];
  if (candidate.expected_ms !== undefined) parts.push(`expects ${ms(candidate.expected_ms)}${candidate.expected_wait_ms ? `, of it ${ms(candidate.expected_wait_ms)} waiting` : ""}`);
  parts.push(`${candidate.in_flight} in flight`, `${candidate.free} places free`, `success ${percent(candidate.success_ratio)} %`);
  if (candidate.cost !== null && candidate.cost !== undefined) parts.push(`costs ${number(candidate.cost)}`);
  if (candidate.samples === 0) parts.push("never measured");
  return parts.join(" · ");
}
