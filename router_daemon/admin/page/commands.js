// What changes something: said back first, done when confirmed, and its refusal shown. The token, where the daemon asks
// for one, is kept in this page's memory and nowhere else: a reload forgets it.

import { ask } from "./asking.js";
import { dialog } from "./drawer.js";
import { h } from "./dom.js";

let token = "";

// Ask for confirmation and do it; returns what /routes says then, null where the person thought better of it.
// `command`: {title, text, yes, danger, method, path, body}; `refused` is called with a sentence.
export async function command({ title, text, yes, danger = false, method = "POST", path, body = {} }, refused) {
  if (!(await dialog(title, h("p", {}, text), yes, { danger }))) return null;
  for (;;) {
    try {
      return await send(method, path, body);
    } catch (fault) {
      if (fault.status !== 401) {
        refused(fault.message);
        return null;
      }
      if (!(await askToken(token === "" ? "The daemon wants a token for this." : "The daemon does not know that token."))) return null;
    }
  }
}

function send(method, path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  if (method === "DELETE") return ask(path, { method, headers });
  return ask(path, { method, headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

async function askToken(text) {
  const input = h("input", { type: "password", autocomplete: "off", "aria-label": "Token" });
  const given = await dialog("Token", [h("p", {}, text), input, h("p", { class: "small muted" }, "Kept in this page's memory until it is closed or loaded again.")], "Go on", { read: () => input.value.trim() });
  if (given) token = given;
  return Boolean(given);
}
