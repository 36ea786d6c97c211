// Dark or light: as the machine says, unless a person has said so here.

const KEY = "router-daemon-theme";
const ORDER = ["auto", "light", "dark"];
const NAMES = { auto: "Auto", light: "Light", dark: "Dark" };
const machine = matchMedia("(prefers-color-scheme: dark)");

export const tone = () => document.documentElement.dataset.tone;

function chosen() {
  try {
    const kept = localStorage.getItem(KEY);
    return ORDER.includes(kept) ? kept : "auto";
  } catch {
    return "auto"; // storage may be forbidden
  }
}

// `changed` is called after each change.
export function startTheme(button, changed) {
  let choice = chosen();
  const apply = () => {
    const dark = choice === "dark" || (choice === "auto" && machine.matches);
    document.documentElement.dataset.tone = dark ? "dark" : "light";
    button.textContent = NAMES[choice];
    button.setAttribute("aria-label", `Colours: ${choice}`);
    changed();
  };
  button.addEventListener("click", () => {
    choice = ORDER[(ORDER.indexOf(choice) + 1) % ORDER.length];
    try {
      localStorage.setItem(KEY, choice);
    } catch {
      // then it holds for this visit
    }
    apply();
  });
  machine.addEventListener("change", apply);
  apply();
}
