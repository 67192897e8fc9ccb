const data = JSON.parse(document.getElementById("data").textContent);
const one = (selector, root = document) => root.querySelector(selector);
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

function svg(name, attributes = {}, parent = null, text = null) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== null) element.textContent = text;
  if (parent) parent.append(element);
  return element;
}

function amount(value, places = 1) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
  let at = 0, size = value;
  while (Math.abs(size) >= 1024 && at < units.length - 1) { size /= 1024; at++; }
  const digits = at ? places : 0;
  return size.toLocaleString("en-US", { minimumFractionDigits: digits, maximumFractionDigits: digits }) + " " + units[at];
}

/* As many digits as it takes to tell the marks of an axis apart. */
function markTexts(marks, bytes) {
  if (!bytes) return marks.map(count);
  for (let places = 0; places < 4; places++) {
    const texts = marks.map((mark) => amount(mark, places));
    const steps = new Set(marks.map((mark) => (mark / 1024 ** Math.floor(Math.log2(Math.max(mark, 1)) / 10)).toFixed(places + 1).endsWith("0")));
    if (new Set(texts).size === marks.length && !steps.has(false)) return texts;
  }
  return marks.map((mark) => amount(mark, 3));
}

const count = (value) => Math.round(value).toLocaleString("en-US");

function elapsed(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (Math.abs(seconds) >= size) return `${+(seconds / size).toFixed(2)} ${unit}`;
  }
  return `${+seconds.toFixed(seconds < 10 ? 2 : 0)} s`;
}

function undelta(values) {
  let last = 0;
  return values.map((value) => value === null ? null : (last += value));
}

/* Round steps for bytes (powers of two) or counts (1, 2, 5), three to seven of them. */
function steps(low, high, bytes, most) {
  let step;
  if (bytes) {
    step = 1024;
    while ((high - low) / step > most) step *= 2;
    while ((high - low) / step < most / 3 && step > 1) step /= 2;
  } else {
    const rough = Math.max((high - low) / most, 1e-9), ten = 10 ** Math.floor(Math.log10(rough));
    step = [1, 2, 5, 10].map((f) => f * ten).find((s) => s >= rough);
    step = Math.max(step, 1);
  }
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high; at += step) found.push(at);
  return found;
}

function timeSteps(first, last, most) {
  const round = [0.01, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800, 1209600, 2592000, 7776000, 31536000];
  const step = round.find((s) => (last - first) / s <= most) || round[round.length - 1];
  const found = [];
  for (let at = 0; at <= last - first + 1e-9; at += step) found.push(first + at);
  return found.slice(0, 60);
}

/* A plane with axes: where a time and a value lie, in pixels. */
function plane(box, first, last, low, high, bytes) {
  box.replaceChildren();
  const width = Math.max(box.clientWidth, 120), height = Math.max(box.clientHeight, 120);
  const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" }, box);
  const marks = steps(low, high, bytes, Math.max(2, Math.floor(height / (rem * 3.2))));
  const texts = markTexts(marks, bytes);
  const left = Math.max(...texts.map((text) => text.length), 3) * rem * 0.43 + rem * 0.7;
  const top = rem * 0.7, right = rem * 0.5, bottom = rem * 1.6;
  const span = last - first || 1, range = high - low || 1;
  const x = (time) => left + (time - first) / span * (width - left - right);
  const y = (value) => top + (1 - (value - low) / range) * (height - top - bottom);
  marks.forEach((mark, number) => {
    svg("line", { class: "gridline", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }, root);
    svg("text", { x: left - rem * 0.5, y: y(mark) + rem * 0.26, "text-anchor": "end" }, root, texts[number]);
  });
  svg("line", { class: "axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }, root);
  for (const mark of timeSteps(first, last, Math.max(2, Math.floor((width - left) / (rem * 5.5))))) {
    svg("line", { class: "axis", x1: x(mark), x2: x(mark), y1: height - bottom, y2: height - bottom + 4 }, root);
    svg("text", { x: x(mark), y: height - rem * 0.35, "text-anchor": mark === first ? "start" : "middle" }, root, elapsed(mark - first));
  }
  const clip = svg("svg", { x: left, y: top, width: width - left - right, height: height - top - bottom, viewBox: `${left} ${top} ${width - left - right} ${height - top - bottom}` }, root);
  clip.style.overflow = "hidden";
  return { root, clip, x, y, left, right: width - right, top, bottom: height - bottom, rem, width };
}

/* A line at a moment, moved by the pointer or the arrow keys. */
function cursor(box, chart, times, show) {
  const line = svg("line", { class: "cursor", y1: chart.top, y2: chart.bottom, visibility: "hidden" }, chart.root);
  let at = times.length - 1;
  const move = (index) => {
    at = Math.max(0, Math.min(times.length - 1, index));
    const x = chart.x(times[at]);
    line.setAttribute("x1", x); line.setAttribute("x2", x); line.setAttribute("visibility", "visible");
    show(at, x);
  };
  box.onpointermove = (event) => {
    const x = event.clientX - box.getBoundingClientRect().left;
    let best = 0, low = 0, high = times.length - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (chart.x(times[middle]) <= x) { best = middle; low = middle + 1; } else high = middle - 1;
    }
    if (best + 1 < times.length && x - chart.x(times[best]) > chart.x(times[best + 1]) - x) best++;
    move(best);
  };
  box.onkeydown = (event) => {
    const stride = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20, Home: -1e9, End: 1e9 }[event.key];
    if (stride === undefined) return;
    event.preventDefault();
    move(at + stride);
  };
  const hide = () => { line.setAttribute("visibility", "hidden"); show(null); };
  box.onpointerleave = hide;
  box.onblur = hide;
}

function tip(chart, x, lines) {
  one(".tip", chart.root)?.remove();
  if (x === null) return;
  const group = svg("g", { class: "tip" }, chart.root), rem = chart.rem;
  const rectangle = svg("rect", { rx: 5 }, group);
  const texts = lines.map((text, row) => svg("text", { y: chart.top + rem * (1.05 + row * 1.15) }, group, text));
  const wide = Math.max(...texts.map((t) => t.getComputedTextLength())) + rem;
  const left = x + wide + 12 > chart.right ? Math.max(chart.left, x - wide - 10) : x + 10;
  for (const text of texts) text.setAttribute("x", left + rem * 0.5);
  const box = { x: left, y: chart.top, width: wide, height: rem * (0.6 + lines.length * 1.15) };
  for (const key in box) rectangle.setAttribute(key, box[key]);
}

const drawings = new Map();
const sizes = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const width = Math.round(entry.contentRect.width), kept = drawings.get(entry.target);
    if (kept && kept.width !== width && width) { kept.width = width; kept.draw(); }
  }
});

/* Draw once it comes near, and again whenever its width changes. */
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    near.unobserve(entry.target);
    sizes.observe(entry.target);
  }
}, { rootMargin: "600px" });

function whenSeen(box, draw) {
  drawings.set(box, { width: 0, draw });
  near.observe(box);
}

function drawAll() {
  for (const [box, kept] of drawings) { near.unobserve(box); sizes.observe(box); kept.width = Math.round(box.clientWidth); kept.draw(); }
}
