// Colours of series and of the map. A series keeps its colour while the page is open; lines of the same colour differ
// by their dashes. The map is one hue by lightness, with the number written in black or white, whichever is plainer.

import { tone } from "./theme.js";

const SERIES = 8;
const DASHES = [[], [6, 3], [2, 3], [9, 3, 2, 3]];
const given = new Map();

// Return the place of a name among all that were ever shown.
export function place(name) {
  if (!given.has(name)) given.set(name, given.size);
  return given.get(name);
}

export const colourOf = (n) => getComputedStyle(document.documentElement).getPropertyValue(`--s${(n % SERIES) + 1}`).trim();

export const variableOf = (n) => `var(--s${(n % SERIES) + 1})`;

export const dashOf = (n) => DASHES[Math.floor(n / SERIES) % DASHES.length];

const MAPS = { light: { from: [238, 243, 250], to: [20, 78, 156] }, dark: { from: [30, 42, 60], to: [142, 196, 255] } };

// Return the background and the text colour of a cell; `part`: 0 to 1.
export function shade(part) {
  const { from, to } = MAPS[tone()] ?? MAPS.light;
  const mixed = from.map((channel, n) => Math.round(channel + (to[n] - channel) * part));
  return { background: `rgb(${mixed.join(" ")})`, text: luminance(mixed) > 0.18 ? "#000" : "#fff" };
}

// Relative luminance as WCAG 2.2 defines it; at 0.18 black and white text have the same contrast.
function luminance(rgb) {
  const [r, g, b] = rgb.map((channel) => {
    const c = channel / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
