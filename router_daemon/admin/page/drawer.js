// A drawer on the right for an explanation, and the small dialogs. Esc closes, and the focus goes back to where it was.

import { h, replace } from "./dom.js";

export class Drawer {
  constructor() {
    this.title = h("h2");
    this.body = h("div");
    this.element = h("dialog", { class: "drawer", "aria-label": "Explanation" }, h("header", {}, this.title, h("button", { type: "button", onclick: () => this.element.close() }, "Close")), this.body);
    this.element.addEventListener("close", () => this.closed?.());
    this.element.addEventListener("click", (event) => event.target === this.element && this.element.close());
    document.body.append(this.element);
  }

  // Show something; `closed` is called when it is gone.
  show(title, content, closed) {
    this.closed?.();
    this.closed = closed;
    replace(this.title, title);
    replace(this.body, content);
    if (!this.element.open) this.element.showModal();
    this.element.scrollTop = 0;
  }

  get open() {
    return this.element.open;
  }
}

// Ask in a dialog; returns what `read` returns when the person says yes, null when not.
export function dialog(title, content, yes, { danger = false, read = () => true } = {}) {
  return new Promise((resolve) => {
    let said = null;
    const form = h("form", { method: "dialog", class: "stack" }, h("h2", {}, title), content, h("div", { class: "actions" }, h("button", { type: "submit", class: danger ? "danger" : "primary" }, yes), h("button", { type: "button", onclick: () => box.close() }, "Cancel")));
    const box = h("dialog", { "aria-label": title }, form);
    form.addEventListener("submit", (event) => {
      event.preventDefault(); // form-action 'none'
      said = read();
      box.close();
    });
    box.addEventListener("close", () => {
      box.remove();
      resolve(said);
    });
    document.body.append(box);
    box.showModal();
  });
}
