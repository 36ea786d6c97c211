// Elements from code. Texts become text nodes, never markup: names of backends and messages come from whoever sends them.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [key, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("aria-")) element.setAttribute(key, String(value));
    else if (value === false) continue;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [name, text] of Object.entries(value)) element.style.setProperty(name, text);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// h("td", {class: "number"}, "12"): children are elements, texts, or lists of them; null and false are left out.
export const h = (tag, props = {}, ...children) => fill(document.createElement(tag), props, children);

export const svg = (tag, props = {}, ...children) => fill(document.createElementNS(SVG, tag), props, children);

// A name as its owner wrote it, kept from turning around the text beside it (right-to-left marks).
export const name = (text) => h("bdi", {}, text);

export const byId = (id) => document.getElementById(id);

// Set a text only where it has changed: what is read aloud, selected or focused stays as it is.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setAttribute(element, key, value) {
  if (value === null) element.removeAttribute(key);
  else if (element.getAttribute(key) !== String(value)) element.setAttribute(key, value);
}

export const replace = (element, ...children) =>
  element.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));

// The head of a panel: its title, one sentence that says how to read it, and its tools.
export function head(panel, title, sentence, ...tools) {
  const beside = tools.length ? h("div", { class: "tools" }, tools) : null;
  panel.append(h("header", {}, h("h2", { id: `${panel.id}-title` }, title), beside, h("p", {}, sentence)));
}

// Buttons of which one is pressed; `choose` is called with the value of the one that was.
export function segments(label, options, chosen, choose) {
  const group = h("div", { class: "segments", role: "group", "aria-label": label });
  for (const [value, text] of options) {
    group.append(h("button", {
      type: "button",
      "data-value": value,
      onclick: () => {
        for (const each of group.children) each.setAttribute("aria-pressed", each.dataset.value === String(value));
        choose(value);
      },
    }, text));
  }
  for (const each of group.children) each.setAttribute("aria-pressed", each.dataset.value === String(chosen));
  return group;
}
