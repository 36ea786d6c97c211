// The rollout: its stage, what it waits for, what the guard has found, and the buttons that lead it.

import { command } from "./commands.js";
import { h, head, name, replace } from "./dom.js";
import { NONE, ms, number, percent, span } from "./format.js";

const STATES = { running: ["running", "good"], "rolled back": ["rolled back", "bad"], done: ["done", "good"] };

export class Rollout {
  constructor(panel) {
    head(panel, "Routes and rollout", "Each route is a policy; a rollout gives a candidate a growing share of the messages.");
    this.state = h("div", { class: "stack" });
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.percent = h("input", { type: "number", min: 0, max: 100, step: "any", value: 5, "aria-label": "Percent for the candidate", style: { width: "74px" } });
    this.buttons = {
      advance: this.#button("Next stage", () => ({ title: "Go to the next stage?", text: `The candidate ${this.rollout.candidate} gets the share of the next stage at once, whatever the guard still waits for.`, yes: "Next stage", path: "/routes/advance" })),
      percent: this.#button("Set share", () => ({ title: "Set the candidate's share?", text: `${this.rollout.candidate} gets ${this.percent.value} % of the messages from now on.`, yes: "Set share", path: "/routes/percent", body: { percent: Number(this.percent.value) } })),
      resume: this.#button("Resume", () => ({ title: "Resume the rollout?", text: `It begins again at its first stage. It was stopped: ${this.rollout.reason}`, yes: "Resume", path: "/routes/resume" })),
      rollback: this.#button("Roll back", () => ({ title: "Roll back?", text: `All messages of ${this.rollout.candidate} go to stable at once.`, yes: "Roll back", danger: true, path: "/routes/rollback", body: { why: "from the page" } }), "danger"),
    };
    const { advance, percent: share, resume, rollback } = this.buttons;
    this.actions = h("div", { class: "actions" }, advance, this.percent, share, resume, rollback);
    this.routes = h("div", { class: "scroll" });
    panel.append(h("div", { class: "stack" }, this.routes, this.state, this.actions, this.error));
  }

  draw(snapshot) {
    const { routes, rollout } = snapshot.routes;
    this.rollout = rollout;
    replace(this.routes, table(routes, rollout));
    this.actions.hidden = rollout === null;
    replace(this.state, rollout ? stage(rollout) : h("p", { class: "muted" }, "There is no rollout: rollout.candidate in the configuration names none."));
    if (!rollout) return;
    const back = rollout.state === "rolled back";
    this.buttons.advance.disabled = this.buttons.percent.disabled = this.buttons.rollback.disabled = back;
    this.buttons.resume.disabled = rollout.state === "running";
  }

  #button(text, what, kind = "") {
    return h("button", {
      type: "button",
      class: kind || null,
      onclick: async () => {
        this.error.hidden = true;
        await command(what(), (why) => {
          this.error.textContent = why;
          this.error.hidden = false;
        });
      },
    }, text);
  }
}

function table(routes, rollout) {
  const columns = ["route", "policy", "share", "messages", "success", "p50", "p99"];
  return h("table", {}, h("thead", {}, h("tr", {}, columns.map((text, n) => h("th", { scope: "col", class: n > 1 ? "number" : null }, text)))), h("tbody", {}, routes.map((route) => h(
    "tr",
    {},
    h("th", { scope: "row" }, name(route.name)),
    h("td", {}, route.policy, route.decides === route.name ? null : h("span", { class: "tag warn" }, `for now: ${route.decides}`)),
    h("td", { class: "number" }, rollout ? `${number(rollout.percent[route.name])} %` : "100 %"),
    h("td", { class: "number" }, number(route.messages)),
    h("td", { class: "number" }, `${percent(route.success)} %`),
    h("td", { class: "number" }, ms(route.p50_ms)),
    h("td", { class: "number" }, ms(route.p99_ms)),
  ))));
}

function stage(rollout) {
  const [word, level] = STATES[rollout.state] ?? [rollout.state, ""];
  const share = rollout.percent[rollout.candidate] ?? 0;
  const back = rollout.state === "rolled back";
  const stages = h("div", { class: `stages${back ? " stopped" : ""}`, role: "img", "aria-label": `Stages: ${rollout.stages.join(", ")} percent; now ${number(share)} percent` }, rollout.stages.map((each) => h("span", { class: back ? "" : each < share ? "done" : each === share ? "here" : "" }, `${number(each)} %`)));
  return [
    h("p", {}, h("span", { class: `tag ${level}` }, word), " ", h("b", {}, name(rollout.candidate)), ` gets ${number(share)} % of the messages, for ${span(rollout.stage_s)} so far.`),
    stages,
    rollout.reason ? h("p", { class: "bad" }, `Stopped: ${rollout.reason}`) : null,
    rollout.missing.length ? h("div", {}, h("h3", {}, "The stage still waits for"), h("ul", { class: "small" }, rollout.missing.map((each) => h("li", {}, `· ${each}`)))) : null,
    guard(rollout.window),
  ];
}

function guard(window) {
  const found = Object.entries(window.log_e_values);
  const line = (label, value, most, text) => h("div", { class: "bar-row" }, h("span", {}, label), h("div", { class: "track", role: "img", "aria-label": text }, h("i", { class: label.endsWith("worse") ? "second" : "", style: { width: `${Math.max(0, Math.min(1, value / most)) * 100}%` } })), h("span", { class: "number" }, Number.isFinite(value) ? `${number(value, 2)} / ${number(most, 2)}` : NONE));
  return h("details", {}, h("summary", {}, "Evidence of the guard (log e-values; full: it is sure)"), h("div", { class: "bars" }, found.flatMap(([of, each]) => [line(`${of} worse`, each.worse, window.stops_at, each.what), line(`${of} fine`, each.fine, window.may_go_on_at, each.what)])));
}
