// Numbers as text, and elements that hold nothing but text: names come from outside.
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function amount(value, digits = 1) {
  if (value === null || value === undefined || Number.isNaN(value)) return "-";
  let size = value, unit = 0;
  while (Math.abs(size) >= 1024 && unit < UNITS.length - 1) { size /= 1024; unit += 1; }
  return `${unit ? size.toFixed(digits) : Math.round(size).toLocaleString("en")} ${UNITS[unit]}`;
}

export function change(value) {
  return value === null || value === undefined ? "-" : value === 0 ? "0" : `${value > 0 ? "+" : "−"}${amount(Math.abs(value))}`;
}

export function rate(value) {
  if (value === null || value === undefined) return "-";
  return Math.abs(value) >= 1024 ? `${amount(value)}/s` : `${amount(value * 3600)}/h`;
}

export function likely(value) {
  if (value === null || value === undefined) return "-";
  return value > 0.99 ? "over 99 %" : value < 0.01 ? "under 1 %" : `${Math.round(value * 100)} %`;
}

export function span(seconds) {
  if (seconds === null || seconds === undefined) return "-";
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= 2 * size) return `${Math.round(seconds / size)} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

export function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "class") made.className = value;
    else if (key in made && key !== "role") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

export function drawn(name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}
