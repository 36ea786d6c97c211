// Who would get the next message of a capability, and why the others would not: /explain for people.

import { ask, query } from "./asking.js";
import { h, name, replace, segments } from "./dom.js";
import { PRIORITIES, ms, number, percent, span } from "./format.js";
import { candidateCard, legend, legendOf, widest } from "./terms.js";

const AGAIN_MS = 2000;

export function explain(drawer, capability, backend) {
  let priority = 2;
  let route = "";
  let timer = 0;
  let turn = 0; // an answer that comes after a later question, or after the end, is not shown
  const body = h("div", { "aria-live": "off" }, h("p", { class: "muted" }, "Asking the daemon ..."));
  const numbers = h("details", {}, h("summary", {}, "All numbers of the candidates"), h("div"));
  const look = async () => {
    clearTimeout(timer);
    const mine = (turn += 1);
    const told = await ask(`/explain?${query({ capability, priority, route })}`).catch((fault) => fault);
    if (mine !== turn) return;
    if (told instanceof Error) replace(body, h("p", { class: "error" }, told.message));
    else show(told);
    if (live.checked) timer = setTimeout(look, AGAIN_MS);
  };
  const show = (told) => {
    replace(body, story(told, backend));
    replace(numbers.lastChild, tableOf(told.candidates));
    if (!routes.children.length) offerRoutes(told.route);
  };
  const routes = h("span", { class: "legend" });
  const offerRoutes = ({ name: first, others }) => {
    if (others.length) replace(routes, "Route", segments("Route", [first, ...others].map((each) => [each, each]), first, (each) => { route = each; look(); }));
  };
  const live = h("input", { type: "checkbox", checked: true, onchange: () => live.checked && look() });
  const tools = h("div", { class: "legend" }, "Priority", segments("Priority", [1, 2, 3, 4].map((each) => [each, PRIORITIES[each]]), priority, (each) => { priority = Number(each); look(); }), routes, h("label", { class: "check" }, live, "again every 2 s"));
  drawer.show(["Why, for ", name(capability)], [tools, body, numbers], () => {
    clearTimeout(timer);
    turn += 1;
  });
  look();
}

function story(told, asked) {
  const { candidates } = told;
  const heads = candidates.filter((each) => each.head).sort((a, b) => a.head - b.head);
  const terms = legendOf(candidates);
  const most = widest(candidates);
  const inOrder = [...heads, ...candidates.filter((each) => !each.head)];
  const own = inOrder.find((each) => each.backend === asked);
  return [
    told.override ? h("p", { class: "warn" }, "An override sends all new messages of this capability to ", h("strong", {}, name(told.override.backend)), ` for another ${span(told.override.left_s)}${told.override.there ? "" : "; that backend is not there"}. Without it:`) : null,
    h("p", { class: "verdict" }, verdict(told, heads)),
    own && !own.head ? h("p", {}, h("strong", {}, name(asked)), ` would not get it: ${own.reason}.`) : null,
    asked && !own ? h("p", {}, h("strong", {}, name(asked)), " does not offer this capability.") : null,
    terms.size ? legend(terms) : null,
    h("ol", { class: "why", "aria-label": "Candidates, in the order in which they would be chosen" }, inOrder.slice(0, 100).map((each) => candidateCard(each, terms, most, asked))),
    inOrder.length > 100 ? h("p", { class: "muted" }, `${told.backends - 100} more score less.`) : null,
    h("h3", {}, "What the decision stands on"),
    facts(told),
  ];
}

function verdict(told, heads) {
  if (told.error) return [h("strong", { class: "bad" }, `It would be answered with ${told.error.code}`), `: ${told.error.detail ?? ""}`];
  const { would, why } = told.admission;
  if (would === "send" && heads.length) {
    const [first, ...others] = heads.map((each) => h("strong", {}, name(each.backend)));
    const listed = others.flatMap((each, n) => (n ? [n < others.length - 1 ? ", " : " and ", each] : [each]));
    if (!listed.length) return ["A message sent now would go to ", first, "."];
    if (told.auto.would === "fanout") return ["A message sent now would go to ", first, others.length > 1 ? ", " : " and ", listed, " at once: the first success answers."];
    return ["A message sent now would go to ", first, ", and only if need be to ", listed, "."];
  }
  return [h("strong", {}, { wait: "It would wait", refuse: "It would be refused" }[would] ?? "Nobody would get it"), `: ${why}.`];
}

function facts(told) {
  const { pool, auto, cache } = told;
  const rows = [
    ["Route", [name(told.route.name), told.route.decides === told.route.name ? "" : `; for now ${told.route.decides} decides`]],
    ["Policy", `${told.policy}, mode ${told.mode}, up to ${told.heads} heads`],
    ["Now it would", `${auto.would ?? "send nothing"}: ${auto.why}`],
    ["Load", `${number(pool.busy)} of ${pool.slots} slots busy, ${pool.free} of ${pool.places} places free${pool.reserved ? `, ${pool.reserved} of them kept for critical messages` : ""}`],
    ["Mean latency", ms(pool.reference_ms)],
    ["Budgets", `${number(pool.budgets.retry.tokens, 2)} retries, ${number(pool.budgets.hedge.tokens, 2)} hedges`],
    ["Ranking", cache.state === "hit" ? `from the cache, ${span(cache.age_s)} old of at most ${span(cache.ttl_s)}` : `made anew (${cache.state})`],
  ];
  if (pool.ejected) rows.push(["Ejected", `${pool.ejected} of ${pool.members}`]);
  return h("dl", { class: "facts-list" }, rows.map(([term, text]) => [h("dt", {}, term), h("dd", {}, text)]));
}

function tableOf(candidates) {
  const terms = [...legendOf(candidates).keys()];
  const columns = [["weight", (c) => `${percent(c.weight)} %`], ["score", (c) => number(c.score, 4)], ...terms.map((term) => [term, (c) => number(c.terms[term], 4)]), ["service", (c) => ms(c.service_ms)], ["wait", (c) => ms(c.expected_wait_ms)], ["deviation", (c) => ms(c.deviation_ms)], ["samples", (c) => number(c.samples)]];
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, "backend"), columns.map(([title]) => h("th", { class: "number" }, title)))), h("tbody", {}, candidates.slice(0, 100).map((each) => h("tr", {}, h("th", { scope: "row" }, name(each.backend)), columns.map(([, text]) => h("td", { class: "number" }, text(each))))))));
}
