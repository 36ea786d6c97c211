// Overrides: all new messages of a capability to one backend, for a time.

import { query } from "./asking.js";
import { command } from "./commands.js";
import { h, head, name, replace } from "./dom.js";
import { span } from "./format.js";

export class Overrides {
  constructor(panel) {
    head(panel, "Overrides", "All new messages of a capability to one backend, for a time, whatever it scores.");
    this.list = h("ul", { class: "stack" });
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.capability = h("input", { type: "text", required: true, list: "capability-names", autocomplete: "off" });
    this.backend = h("input", { type: "text", required: true, list: "backend-names", autocomplete: "off" });
    this.minutes = h("input", { type: "number", required: true, min: 0.1, max: 10080, step: "any", value: 10 });
    this.names = { capabilities: h("datalist", { id: "capability-names" }), backends: h("datalist", { id: "backend-names" }) };
    const form = h("form", { class: "fields", onsubmit: (event) => { event.preventDefault(); this.#set(); } }, h("label", {}, "Capability", this.capability), h("label", {}, "Backend", this.backend), h("label", {}, "Minutes", this.minutes), h("button", { type: "submit" }, "Override"));
    panel.append(h("div", { class: "stack" }, this.list, form, this.error, this.names.capabilities, this.names.backends));
    this.shown = "";
  }

  draw(snapshot) {
    this.#names(snapshot);
    const { overrides } = snapshot.routes;
    const shape = overrides.map((each) => `${each.capability}\0${each.backend}`).join("\0\0");
    if (shape !== this.shown || !this.list.children.length) {
      this.shown = shape;
      this.left = overrides.map(() => h("span", { class: "muted" }));
      replace(this.list, overrides.length ? overrides.map((each, n) => this.#line(each, n)) : h("li", { class: "muted" }, "None is in force."));
    }
    overrides.forEach((each, n) => replace(this.left[n], ` for another ${span(each.left_s)} `));
  }

  #names(snapshot) {
    const offer = (list, names) => list.children.length === names.length && [...list.children].every((each, n) => each.value === names[n]) ? null : replace(list, names.map((value) => h("option", { value })));
    offer(this.names.capabilities, snapshot.capabilities.map((each) => each.name));
    offer(this.names.backends, snapshot.backends.map((each) => each.name));
  }

  #line(override, n) {
    const { capability, backend } = override;
    const end = () => ({ title: "End the override?", text: `Messages of ${capability} go again where they score best.`, yes: "End it", method: "DELETE", path: `/routes/override?${query({ capability })}` });
    return h("li", {}, h("b", {}, name(capability)), " → ", h("b", {}, name(backend)), this.left[n], h("button", { type: "button", onclick: () => this.#do(end()) }, "End"));
  }

  #set() {
    const [capability, backend, minutes] = [this.capability.value.trim(), this.backend.value.trim(), Number(this.minutes.value)];
    this.#do({ title: "Set the override?", text: `All new messages of ${capability} go to ${backend} alone for ${span(minutes * 60)}, also while it fails.`, yes: "Override", danger: true, path: "/routes/override", body: { capability, backend, for_s: minutes * 60 } });
  }

  async #do(what) {
    this.error.hidden = true;
    await command(what, (why) => {
      this.error.textContent = why;
      this.error.hidden = false;
    });
  }
}
