// The page: what comes is taken into one memory, and every panel draws from it, at most once per frame.

import { byId, setText } from "./dom.js";
import { Deciding } from "./deciding.js";
import { Decisions } from "./decisions.js";
import { Drawer } from "./drawer.js";
import { explain } from "./explain.js";
import { clock } from "./format.js";
import { Happenings } from "./happenings.js";
import { Heat } from "./heat.js";
import { showHelp } from "./help.js";
import { Memory } from "./memory.js";
import { Overrides } from "./overrides.js";
import { Plots } from "./plots.js";
import { Rollout } from "./rollout.js";
import { Stream } from "./stream.js";
import { startTheme } from "./theme.js";
import { Vitals } from "./vitals.js";
import { Waiting } from "./waiting.js";

const memory = new Memory();
const drawer = new Drawer();
const panels = {
  vitals: new Vitals(byId("vitals")),
  heat: new Heat(byId("map"), (capability, backend) => explain(drawer, capability, backend)),
  happenings: new Happenings(byId("happenings")),
  plots: new Plots(byId("series")),
  deciding: new Deciding(byId("deciding")),
  decisions: new Decisions(byId("decisions"), drawer),
  waiting: new Waiting(byId("waiting")),
  rollout: new Rollout(byId("rollout")),
  overrides: new Overrides(byId("overrides")),
};
let due = false;

function draw() {
  due = false;
  const { snapshot } = memory;
  for (const panel of [panels.vitals, panels.happenings, panels.plots]) panel.draw(memory);
  if (!snapshot) return;
  panels.heat.show(snapshot);
  for (const panel of [panels.deciding, panels.waiting]) panel.draw(memory);
  for (const panel of [panels.rollout, panels.overrides]) panel.draw(snapshot);
  panels.decisions.offer(snapshot);
  setText(byId("facts"), `${snapshot.version} · policy ${snapshot.policy} · mode ${snapshot.mode}`);
}

function drawSoon() {
  if (!due) requestAnimationFrame(draw);
  due = true;
}

function say(state, heard) {
  document.body.dataset.state = state;
  byId("state").dataset.state = state;
  setText(byId("state"), state);
  const banner = byId("banner");
  const text = words(state, heard);
  banner.hidden = !text;
  banner.classList.toggle("warn", state !== "gone");
  setText(banner, text);
}

function words(state, heard) {
  const since = heard === null ? "" : ` since ${clock(heard / 1000)}; what you see is what it said last`;
  if (state === "gone") return `The daemon does not answer${since}. Trying again every two seconds.`;
  if (state === "full") return "The daemon runs, but as many pages listen as it allows. Trying again every two seconds.";
  if (state === "late") return `The daemon has said nothing${since}.`;
  return memory.snapshot?.draining ? "The daemon is draining: it takes no new messages and ends when the open ones have ended." : "";
}

startTheme(byId("theme"), () => {
  panels.plots.rebuild();
  drawSoon();
});
byId("help").addEventListener("click", () => showHelp(drawer));
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea, dialog")) return;
  if (event.key === "?") showHelp(drawer);
  else if (event.key === "/") panels.heat.focusFilter();
  else if (event.key === "m") byId("map").querySelector("[tabindex='0']")?.focus();
  else return;
  event.preventDefault();
});
new Stream("/events", {
  history: (told) => {
    memory.begin(told);
    drawSoon();
  },
  snapshot: (snapshot) => {
    memory.take(snapshot);
    drawSoon();
  },
  state: say,
});
