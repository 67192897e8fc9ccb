// Curves and stacked layers over time, as SVG; what lies under the pointer is told in words.
import { amount, drawn, element, span } from "./format.js";

const TOP = 8, RIGHT = 6;

function step(range, count) {
  let size = 1;
  while (size * count < range) size *= 2;
  return size;
}

export function sparkline(svg, values) {
  const known = values.filter((value) => value !== null);
  const path = svg.firstChild;
  if (known.length < 2) { path.setAttribute("d", ""); return; }
  const low = Math.min(...known), high = Math.max(...known), range = Math.max(high - low, high * 0.02, 4096);
  const at = values.map((value, place) => value === null ? null :
    `${(100 * place / (values.length - 1)).toFixed(1)} ${(22 - 20 * (value - low) / range).toFixed(1)}`);
  path.setAttribute("d", at.map((one, place) => one === null ? "" : `${place && at[place - 1] !== null ? "L" : "M"}${one}`).join(""));
}

export class Chart {
  constructor(place, { zero = false, told = (text) => text } = {}) {
    this.place = place;
    this.zero = zero;
    this.told = told;
    this.data = null;
    this.pointer = null;
    new ResizeObserver(() => this.draw()).observe(place);
    place.addEventListener("pointermove", (event) => { this.pointer = event.offsetX; this.cross(); });
    place.addEventListener("pointerleave", () => { this.pointer = null; this.cross(); });
  }

  // layers: [{name, values, fill}], from the bottom up; a single one is drawn as a curve.
  show(times, layers, { ago = false, stacked = false } = {}) {
    this.data = { times, layers, ago, stacked };
    this.draw();
  }

  wait(text) {
    this.data = null;
    this.place.replaceChildren(element("p", { class: "wait" }, text));
  }

  draw() {
    if (!this.data) return;
    const { times, layers, stacked } = this.data;
    const width = this.place.clientWidth, height = this.place.clientHeight;
    if (times.length < 2 || !layers.length) { const kept = this.data; this.wait("Two looks make a line: a moment."); this.data = kept; return; }
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const LEFT = 4.2 * rem, BOTTOM = 1.3 * rem;
    if (width < LEFT + 40) return;
    const sums = times.map(() => 0);
    const bands = layers.map((layer) => layer.values.map((value, place) => {
      const from = stacked ? sums[place] : 0;
      if (stacked) sums[place] += value ?? 0;
      return [from, value === null ? null : from + value];
    }));
    const tops = bands.flat().map((band) => band[1]).filter((value) => value !== null);
    const most = Math.max(...tops);
    let low = stacked || this.zero ? 0 : Math.min(...tops);
    const size = step(Math.max(most - low, most * 0.05, 16384), 4);
    low = Math.floor(low / size) * size;
    const high = Math.max(low + size, Math.ceil(most / size) * size);
    const first = times[0], last = times[times.length - 1];
    const x = (when) => LEFT + (width - LEFT - RIGHT) * (when - first) / (last - first || 1);
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - (value - low) / (high - low));
    this.scale = { x, width, height };
    const svg = drawn("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
    svg.setAttribute("aria-label", this.summary());
    for (let value = low; value <= high; value += size) {
      svg.append(drawn("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }));
      const label = drawn("text", { x: LEFT - 8, y: y(value) + rem / 4, "text-anchor": "end" });
      label.textContent = value === 0 ? "0" : amount(value, this.digits(high, size)).replace(/\.0+ /, " ");
      svg.append(label);
    }
    for (const [when, anchor] of [[first, "start"], [last, "end"]]) {
      const label = drawn("text", { x: x(when), y: height - rem / 5, "text-anchor": anchor });
      label.textContent = this.clock(when);
      svg.append(label);
    }
    layers.forEach((layer, number) => {
      const band = bands[number];
      const upper = band.map(([, top], place) => top === null ? null : [x(times[place]), y(top)]);
      const known = upper.map((point, place) => [point, place]).filter(([point]) => point !== null);
      if (!known.length) return;
      const line = known.map(([point], place) => `${place ? "L" : "M"}${point[0].toFixed(1)} ${point[1].toFixed(1)}`).join("");
      const lower = known.map(([point, place]) => `L${point[0].toFixed(1)} ${y(stacked ? band[place][0] : low).toFixed(1)}`).reverse().join("");
      svg.append(drawn("path", { class: stacked ? `layer ${layer.fill}` : "area", d: `${line}${lower}Z` }));
      if (!stacked) svg.append(drawn("path", { class: "curve", d: line }));
    });
    this.line = drawn("line", { class: "cross", y1: TOP, y2: height - BOTTOM, visibility: "hidden" });
    svg.append(this.line);
    this.tip = element("div", { class: "tip", hidden: true });
    this.place.replaceChildren(svg, this.tip);
    this.cross();
  }

  // As many as the step of the grid has.
  digits(high, size) {
    for (const digits of [1, 2, 3]) {
      if (Number.isInteger(size / 1024 ** Math.floor(Math.log2(high) / 10) * 10 ** digits)) return digits;
    }
    return 2;
  }

  clock(when) {
    const { times, ago } = this.data;
    const back = times[times.length - 1] - when;
    return ago ? (back < 1 ? "now" : `${span(back)} ago`) : span(when);
  }

  summary() {
    const { times, layers, stacked } = this.data;
    const end = times.length - 1;
    const parts = layers.map((layer) => `${stacked ? `${layer.name} ` : ""}${amount(layer.values[end])}`);
    return `${this.told("over time")}: ${parts.join(", ")} at the end; ${amount(layers[0].values[0])} at the beginning`;
  }

  cross() {
    if (!this.data || !this.tip) return;
    if (this.pointer === null) { this.tip.hidden = true; this.line.setAttribute("visibility", "hidden"); return; }
    const { times, layers, stacked } = this.data, { x, width } = this.scale;
    let best = 0;
    times.forEach((when, place) => { if (Math.abs(x(when) - this.pointer) < Math.abs(x(times[best]) - this.pointer)) best = place; });
    const at = x(times[best]);
    this.line.setAttribute("x1", at);
    this.line.setAttribute("x2", at);
    this.line.setAttribute("visibility", "visible");
    const largest = [...layers].sort((a, b) => (b.values[best] ?? 0) - (a.values[best] ?? 0)).slice(0, 3);
    const text = largest.map((layer) => `${stacked ? `${layer.name} ` : ""}${amount(layer.values[best])}`).join(" · ");
    this.tip.textContent = `${this.clock(times[best])}: ${text}`;
    this.tip.hidden = false;
    this.tip.style.left = `${Math.max(0, Math.min(at + 8, width - this.tip.offsetWidth))}px`;
  }
}
