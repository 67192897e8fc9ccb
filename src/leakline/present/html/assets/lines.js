function decode(raw) {
  if (raw.times) return raw;
  raw.times = undelta(raw.t).map((t) => raw.t0 + t * raw.unit);
  raw.low = undelta(raw.lo).map((v) => v === null ? null : v * 1024);
  raw.high = raw.hi ? raw.low.map((v, at) => v === null ? null : v + raw.hi[at] * 1024) : raw.low;
  return raw;
}

/* Pieces of a series between its gaps, as index ranges. */
function pieces(low) {
  const found = [];
  let start = null;
  low.forEach((value, at) => {
    if (value !== null && start === null) start = at;
    if (value === null && start !== null) { found.push([start, at]); start = null; }
  });
  if (start !== null) found.push([start, low.length]);
  return found;
}

function drawSeries(box, raw) {
  const series = decode(raw), known = series.low.filter((v) => v !== null);
  if (!known.length) return;
  const first = series.times[0], seen = (series.times[series.times.length - 1] - first) || 1;
  const ahead = series.rates ? seen * 0.2 : 0;
  const values = known.concat(series.high.filter((v) => v !== null), series.fit || []);
  let low = Math.min(...values), high = Math.max(...values);
  if (ahead) high = Math.max(high, series.fit[series.fit.length - 1] + series.rates[1] * ahead);
  const limit = series.limit !== undefined && series.limit <= high + 2 * (high - low) ? series.limit : null;
  if (limit !== null) high = Math.max(high, limit);
  if (high - low < 32768) { low -= 16384; high += 16384; }
  const room = (high - low) * 0.06;
  const chart = plane(box, first, first + seen + ahead, Math.max(0, low - room), high + room, true);
  const { x, y, clip } = chart;
  const tone = svg("g", { class: ["LEAK", "GROWING", "UNDECIDED"].includes(series.verdict) ? series.verdict : "tone" }, clip);
  const path = (points) => "M" + points.map(([t, v]) => `${x(t).toFixed(1)} ${y(v).toFixed(1)}`).join("L");
  for (const [start, end] of pieces(series.low)) {
    const part = [];
    for (let at = start; at < end; at++) part.push(at);
    const below = part.map((at) => [series.times[at], series.low[at]]), above = part.map((at) => [series.times[at], series.high[at]]);
    if (series.high === series.low) svg("path", { class: "sample", d: path(below) }, tone);
    else svg("path", { class: "range", d: path(above.concat(below.reverse())) + "Z" }, tone);
  }
  if (limit !== null) {
    svg("line", { class: "limit", x1: chart.left, x2: chart.right, y1: y(limit), y2: y(limit) }, clip);
    svg("text", { class: "limit-text", x: chart.right - 4, y: y(limit) + chart.rem, "text-anchor": "end" }, clip, `limit ${amount(limit)}`);
  }
  if (series.fit) {
    const from = series.ft[series.ft.length - 1], held = series.fit[series.fit.length - 1], to = first + seen + ahead;
    if (series.rates) {
      const [slow, fast] = series.rates.map((rate) => held + rate * (to - from));
      svg("path", { class: "cone", d: path([[from, held], [to, slow], [to, fast]]) + "Z" }, tone);
      svg("path", { class: "ahead", d: path([[from, held], [to, held + series.rate * (to - from)]]) }, tone);
    }
    svg("path", { class: "fit", d: path(series.ft.map((t, at) => [t, series.fit[at]])) }, tone);
    series.ft.forEach((t, at) => svg("circle", { class: "floor", cx: x(t), cy: y(series.floors[at]), r: Math.max(2.5, chart.rem * 0.17) }, tone));
  }
  cursor(box, chart, series.times, (at, where) => {
    if (at === null || series.low[at] === null) return tip(chart, null);
    const from = amount(series.low[at]), to = amount(series.high[at]);
    tip(chart, where, [elapsed(series.times[at] - first), from === to ? from : `${from} to ${to}`]);
  });
}

function keyLine(raw) {
  const line = document.createElement("p");
  line.className = "keyline " + (["LEAK", "GROWING", "UNDECIDED"].includes(raw.verdict) ? raw.verdict : "tone");
  const entry = (text, draw) => {
    const key = document.createElement("span");
    key.className = "key";
    draw(svg("svg", { viewBox: "0 0 22 11", "aria-hidden": "true" }, key));
    key.append(text);
    line.append(key);
  };
  entry(raw.hi ? "measured, least to most" : "measured", (s) => svg("path", { class: "sample", d: "M0 8L7 4L14 6L22 2" }, s));
  if (raw.fit) {
    entry("floors", (s) => svg("circle", { class: "floor", cx: 11, cy: 5.5, r: 3 }, s));
    entry(`likeliest shape (${raw.family})`, (s) => svg("path", { class: "fit", d: "M0 8L22 3" }, s));
    if (raw.rates) entry("if it goes on, 90 %", (s) => { svg("path", { class: "cone", d: "M0 8L22 0V8Z" }, s); svg("path", { class: "ahead", d: "M0 8L22 4" }, s); });
  }
  return line;
}

function seriesFigure(figure) {
  const raw = data.series[+figure.dataset.series], box = one(".plot", figure);
  box.after(keyLine(raw));
  whenSeen(box, () => drawSeries(box, raw));
}

/* A row of the table opens its chart below itself. */
function openSeries(button) {
  const row = button.closest("tr"), next = row.nextElementSibling;
  if (next && next.classList.contains("open")) {
    next.remove();
    button.setAttribute("aria-expanded", "false");
    return;
  }
  const raw = data.series[+button.dataset.show], below = document.createElement("tr"), cell = document.createElement("td");
  const figure = document.createElement("figure"), box = document.createElement("div");
  below.className = "open";
  cell.colSpan = row.cells.length;
  box.className = "plot";
  box.tabIndex = 0;
  box.setAttribute("role", "img");
  box.setAttribute("aria-label", `${raw.name} over time. Arrow keys move the cursor.`);
  figure.dataset.series = button.dataset.show;
  figure.append(box);
  cell.append(figure);
  below.append(cell);
  row.after(below);
  seriesFigure(figure);
  button.setAttribute("aria-expanded", "true");
}
