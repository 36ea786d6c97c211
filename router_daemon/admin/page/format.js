// Numbers as people read them: three digits that matter, a unit, and a dash where nothing is known.

export const NONE = "–";

export function number(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 10_000) return compact(value);
  if (size >= 100 || Number.isInteger(value)) return Math.round(value).toLocaleString("en");
  return String(Number(value.toPrecision(digits)));
}

function compact(value) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= size) return `${Number((value / size).toPrecision(3))}${unit}`;
  }
  return String(value);
}

// A share as percent without its sign; what is nearly all is not rounded up to all, nor nearly nothing to nothing.
export function percent(share, digits = 3) {
  if (share === null || share === undefined || !Number.isFinite(share)) return NONE;
  const value = share * 100;
  if (value > 99 && value < 100) return String(Math.min(99.99, Number(value.toFixed(2))));
  if (value > 0 && value < 0.01) return "<0.01";
  return String(Number(value.toPrecision(digits)));
}

export function ms(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return NONE;
  return value >= 1000 ? `${number(value / 1000)} s` : `${number(value)} ms`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return NONE;
  if (seconds < 90) return `${seconds < 10 ? number(seconds, 2) : Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${number(seconds / 3600, 2)} h`;
}

export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB");
}

export const PRIORITIES = ["", "low", "normal", "high", "critical"];
