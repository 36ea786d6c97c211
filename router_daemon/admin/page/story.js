// Why one message went where it went: /decisions/ID for people, with its deliveries in time and each decision's terms.

import { ask } from "./asking.js";
import { h, name, replace } from "./dom.js";
import { PRIORITIES, clock, ms, number } from "./format.js";
import { candidateCard, legend, legendOf, widest } from "./terms.js";

const KINDS = { first: "First decision", served: "Once there was room", retry: "After a failure", hedge: "Because the first was late" };
const GOOD = new Set(["acked", "cancelled", "out"]);

export async function tellStory(drawer, message) {
  const body = h("div", {}, h("p", { class: "muted" }, "Asking the daemon ..."));
  drawer.show(["Message ", h("span", { class: "code" }, name(message))], body);
  try {
    const { decisions } = await ask(`/decisions/${encodeURIComponent(message)}`);
    replace(body, decisions.map((entry) => story(entry, drawer)));
  } catch (fault) {
    replace(body, h("p", { class: "error" }, fault.message));
  }
}

function story(entry, drawer) {
  return h("article", { class: "stack" }, h("p", { class: "verdict" }, verdict(entry)), facts(entry), h("h3", {}, "Deliveries"), lanes(entry), entry.decisions.map((decision) => decided(decision)), nearest(entry, drawer));
}

function verdict(entry) {
  const took = ` after ${ms(entry.took_ms)}`;
  if (entry.outcome === "answered") return entry.answered_by ? ["Answered by ", h("strong", {}, name(entry.answered_by)), `${took}.`] : `Answered${took}.`;
  if (entry.outcome === null || entry.outcome === "open") return `Open for ${ms(entry.took_ms)}.`;
  return [h("strong", { class: "bad" }, entry.outcome), entry.reason ? `: ${entry.reason}` : "", `, ${took.trim()}.`];
}

function facts(entry) {
  const rows = [
    ["Capability", name(entry.capability)],
    ["Priority", PRIORITIES[entry.priority]],
    ["Came at", clock(entry.at)],
    ["Client's id", h("span", { class: "code" }, name(String(entry.id)))],
    ["Route", [name(entry.route), `, policy ${entry.policy}`]],
    ["Mode", `${entry.mode.asked ?? "not said"}, so ${entry.mode.as}${entry.mode.done && entry.mode.done !== entry.mode.as ? `: ${entry.mode.done}` : ""}; up to ${entry.heads} heads`],
    ["Time to live", ms(entry.ttl_ms)],
  ];
  if (entry.named) rows.push(["Names", name(entry.named)]);
  if (entry.waited_ms) rows.push(["Waited", ms(entry.waited_ms)]);
  if (entry.trace_id) rows.push(["Trace", h("span", { class: "code" }, name(entry.trace_id))]);
  return h("dl", { class: "facts-list" }, rows.map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]));
}

function lanes(entry) {
  if (!entry.deliveries.length) return h("p", { class: "muted" }, "It was delivered to nobody.");
  const end = Math.max(1e-6, entry.took_ms, ...entry.deliveries.map((each) => each.settled_ms ?? 0));
  const lane = (label, from, until, kind, text) => h("div", { class: "lane" }, h("span", {}, label), h("div", { class: "track", role: "img", "aria-label": text }, h("i", { class: kind, style: { left: `${(from / end) * 100}%`, width: `${(Math.max(0, until - from) / end) * 100}%` } })), h("span", { class: "small" }, text));
  const waited = entry.waited_ms ? [lane("waiting room", 0, entry.waited_ms, "wait", ms(entry.waited_ms))] : [];
  return h("div", { class: "gantt" }, waited, entry.deliveries.map((each) => lane(name(each.backend), each.sent_ms, each.settled_ms ?? end, !GOOD.has(each.outcome) ? "lost" : each.answered ? "" : "beside", `${each.outcome}${each.latency_ms === null ? "" : `, ${ms(each.latency_ms)}`}${each.answered ? ": the answer" : ""}`)), entry.deliveries_left_out ? h("p", { class: "muted" }, `and ${entry.deliveries_left_out} more`) : null);
}

function decided(decision) {
  const { candidates } = decision;
  const terms = legendOf(candidates);
  const most = widest(candidates);
  const ordered = [...candidates].sort((a, b) => (a.head ?? 99) - (b.head ?? 99));
  return h(
    "section",
    {},
    h("h3", {}, `${KINDS[decision.kind] ?? decision.kind}, after ${ms(decision.after_ms)}`),
    h("p", { class: "small muted" }, `${decision.policy}; ranking ${decision.cache === "hit" ? `from the cache, ${ms(decision.ranking_age_ms)} old` : `made anew (${decision.cache})`}; ${number(decision.pool.busy)} of ${decision.pool.slots} slots busy, ${decision.pool.free} of ${decision.pool.places} places free`),
    candidates.length ? [terms.size ? legend(terms) : null, h("ol", { class: "why" }, ordered.map((each) => candidateCard(each, terms, most, null)))] : h("p", { class: "muted" }, decision.terms === "named" ? "The message names its backend: nobody was compared." : "What was compared was not recorded: only a sample is, and what is critical, slow or went wrong."),
  );
}

function nearest(entry, drawer) {
  if (!entry.nearest) return null;
  const { message, later_ms: later } = entry.nearest;
  return h("p", {}, "The nearest message of this kind whose terms were recorded: ", h("button", { type: "button", class: "link", onclick: () => tellStory(drawer, message) }, message), ` (${ms(Math.abs(later))} ${later < 0 ? "earlier" : "later"}).`);
}
