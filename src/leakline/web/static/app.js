// The page: what the server tells by events, as tables and curves. Everything that is shown is text, never markup.
import { Chart, sparkline } from "./charts.js";
import { amount, change, drawn, element, likely, rate, say, span } from "./format.js";

const SEVERITY = ["LEAK", "GROWING", "UNDECIDED", "STEP", "PLATEAU", "SETTLING", "PERIODIC", "DECLINING", "STABLE", "INSUFFICIENT"];
const COLUMNS = [
  { key: "verdict", title: "Verdict", of: (row) => row.verdict === null ? SEVERITY.length : SEVERITY.indexOf(row.verdict), wide: "" },
  { key: "command", title: "Process", of: (row) => row.command.toLowerCase(), wide: "" },
  { key: "user", title: "User", of: (row) => row.user ?? "", wide: "w3" },
  { key: "held", title: "Held", hint: "USS + swap: what is judged", of: (row) => row.held, number: true, wide: "" },
  { key: "rate", title: "Growth", of: (row) => row.rate, number: true, wide: "w1", show: rate },
  { key: "probability", title: "Probability", hint: "of sustained growth", of: (row) => row.probability, number: true, wide: "w2", show: likely },
  { key: "uss", title: "USS", hint: "Would come back if it ended", of: (row) => row.uss, number: true, wide: "w3" },
  { key: "pss", title: "PSS", hint: "With its share of what is shared", of: (row) => row.pss, number: true, wide: "w2" },
  { key: "rss", title: "RSS", hint: "All that is resident", of: (row) => row.rss, number: true, wide: "w3" },
  { key: "swap", title: "Swap", of: (row) => row.swap, number: true, wide: "w3" },
  { key: "spark", title: "Over time", of: () => 0, wide: "", fixed: true },
];
const SPARK = 40, MACHINE = 600, OLDEST_ROUNDS = 4;
const get = (name) => document.getElementById(name);

const rows = new Map(), shown = new Map();
const page = { about: null, head: null, history: null, sort: { key: "verdict", down: false }, opened: null, depth: null, heard: 0, source: null, wait: 2000, beats: 0, spacing: 1 };
const charts = {
  machine: new Chart(get("machine-chart"), { zero: true, told: () => "Memory in use over time" }),
  held: new Chart(get("held-chart"), { told: () => "USS and swap over time" }),
  kinds: new Chart(get("kinds-chart"), { told: () => "Mappings by kind over time" }),
};

// ---- the stream

function connect() {
  page.source?.close();
  const source = page.source = new EventSource(page.opened ? `/api/events?process=${encodeURIComponent(page.opened)}` : "/api/events");
  source.addEventListener("all", (event) => hear(event, (data) => {
    page.about = data.about;
    page.history = data.history;
    page.spacing = Math.max(1, Math.ceil(data.history.times.length / SPARK));
    rows.clear();
    for (const row of data.rows) rows.set(row.key, { ...row, spark: data.sparks[row.key] ?? [] });
    look(data);
  }));
  source.addEventListener("tick", (event) => hear(event, (data) => {
    for (const key of data.gone) rows.delete(key);
    for (const row of data.rows) rows.set(row.key, { ...row, spark: rows.get(row.key)?.spark ?? [] });
    // The points of a curve stay as far apart as those that the server sent.
    page.beats += 1;
    const beat = page.beats % page.spacing === 0;
    for (const row of rows.values()) {
      if (beat) row.spark.push(row.held);
      else row.spark[Math.max(0, row.spark.length - 1)] = row.held;
      if (row.spark.length > SPARK) row.spark.shift();
    }
    if (data.history) page.history = data.history;
    else if (page.history) {
      page.history.times.push(data.time);
      page.history.used.push(data.machine.used);
      if (page.history.times.length > MACHINE) { page.history.times.shift(); page.history.used.shift(); }
    }
    look(data);
  }));
  source.addEventListener("process", (event) => hear(event, (data) => {
    if (data.key === page.opened) { page.depth = data; showDepth(); }
  }));
  source.onerror = () => {
    state("lost", "reconnecting");
    if (source.readyState === EventSource.CLOSED && source === page.source) {
      setTimeout(() => { if (source === page.source) connect(); }, page.wait);
      page.wait = Math.min(30000, page.wait * 2);
    }
  };
}

function hear(event, take) {
  page.heard = Date.now();
  page.wait = 2000;
  take(JSON.parse(event.data));
}

function state(kind, text) {
  get("state").className = `state ${kind}`;
  say(get("state-text"), text);
}

// A browser that slept may keep a connection that is none any more.
setInterval(() => {
  const patience = Math.max(20000, OLDEST_ROUNDS * 1000 * (page.about?.interval ?? 5));
  if (page.heard && !page.about?.recording && !page.head?.ended && Date.now() - page.heard > patience) { page.heard = Date.now(); state("lost", "reconnecting"); connect(); }
}, 5000);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && page.heard && !page.about?.recording && Date.now() - page.heard > 5000 + 2000 * (page.about?.interval ?? 1)) connect();
});

// ---- the machine

function look(head) {
  page.head = head;
  const about = page.about ?? {};
  say(get("host"), about.recording ? `recording ${about.recording}` : `${about.host ?? ""} · Linux ${about.kernel ?? ""}`);
  state("live", head.ended ? "all have ended" : about.recording ? "recording" : about.interval >= 2 ? `live, every ${span(about.interval)}` : "live");
  const banner = get("banner");
  banner.hidden = !head.trouble && !head.ended;
  say(banner, head.trouble ? `Not the latest: ${head.trouble}` : head.ended ? "All processes that were chosen have ended." : "");
  showMachine(head);
  showRows();
}

function showMachine({ machine, growing, leaking, unreadable }) {
  say(get("used"), amount(machine.used));
  say(get("of"), machine.total === null ? "" : `of ${amount(machine.total)} in use`);
  const parts = [["used", "used"], ["cached", "cache"], ["buffers", "buffers"], ["free", "free"]].filter(([key]) => machine[key] !== null);
  const bar = get("bar");
  if (bar.childElementCount !== parts.length) bar.replaceChildren(...parts.map(([key]) => element("span", { class: `f-${key}` })));
  parts.forEach(([key], place) => { bar.children[place].style.flexGrow = machine[key]; bar.children[place].style.flexBasis = "0"; });
  bar.setAttribute("aria-label", parts.map(([key, title]) => `${title} ${amount(machine[key])}`).join(", "));
  if (machine.swap_total) parts.push(["swap_used", "swap"]);
  get("bar-legend").replaceChildren(...parts.map(([key, title]) =>
    element("li", {}, element("span", { class: `swatch f-${key.replace("_used", "")}` }), `${title} `, element("b", {}, amount(machine[key])))));
  if (page.history?.times.length) charts.machine.show(page.history.times, [{ name: "used", values: page.history.used, fill: "f0" }], { ago: true });
  const figure = get("growing");
  say(figure, String(growing));
  figure.className = leaking ? "bad" : growing ? "warn" : "";
  const hidden = unreadable ? `, ${unreadable} not readable` : "";
  say(get("growing-of"), `of ${rows.size} ${rows.size === 1 ? "process" : "processes"} grow${growing === 1 ? "s" : ""}${hidden}`);
  const worst = [...rows.values()].filter((row) => row.verdict === "LEAK" || row.verdict === "GROWING").sort(attention).slice(0, 4);
  get("worst").replaceChildren(...(worst.length ? worst.map((row) => element("li", {},
    badge(row.verdict), element("a", { href: `#${row.key}` }, `${row.command} (${row.pid ?? "-"})`), element("span", { class: "rate" }, rate(row.rate)))) :
    [element("li", { class: "how" }, "Nothing grows without end, as far as can be told. It takes 5 looks to say so, 30 for LEAK.")]));
}

function attention(one, other) {
  return COLUMNS[0].of(one) - COLUMNS[0].of(other) || (other.held ?? 0) - (one.held ?? 0) || (one.key < other.key ? -1 : 1);
}

function badge(verdict, title) {
  return element("span", { class: `badge ${verdict ?? ""}`, title: title ?? "" }, verdict === "INSUFFICIENT" ? "TOO FEW" : verdict ?? "-");
}

// ---- the table

function heads() {
  get("heads").replaceChildren(...COLUMNS.map((column) => {
    const head = element("th", { class: `${column.number ? "number " : ""}${column.wide}`, scope: "col", title: column.hint ?? "" });
    if (column.fixed) { head.append(column.title); return head; }
    if (page.sort.key === column.key) head.setAttribute("aria-sort", page.sort.down ? "descending" : "ascending");
    head.append(element("button", { type: "button", onclick: () => {
      page.sort = { key: column.key, down: page.sort.key === column.key ? !page.sort.down : Boolean(column.number) };
      heads();
      showRows();
      get("heads").children[COLUMNS.indexOf(column)].firstChild.focus();
    } }, column.title));
    return head;
  }));
}

function chosen() {
  const words = get("filter").value.toLowerCase().split(/\s+/).filter(Boolean), only = get("only").checked;
  const column = COLUMNS.find((one) => one.key === page.sort.key), way = page.sort.down ? -1 : 1;
  const found = [...rows.values()].filter((row) => {
    if (only && row.verdict !== "LEAK" && row.verdict !== "GROWING" && !row.at_risk) return false;
    const text = `${row.command} ${row.pid} ${row.user ?? ""} ${row.cgroup ?? ""} ${row.cmdline ?? ""} ${row.verdict ?? ""}`.toLowerCase();
    return words.every((word) => text.includes(word));
  });
  return found.sort((one, other) => {
    const a = column.of(one), b = column.of(other);
    if (a === null || b === null) return (a === null) - (b === null) || attention(one, other);
    return (a < b ? -way : a > b ? way : 0) || attention(one, other);
  });
}

function makeRow(row) {
  const line = element("tr", { onclick: (event) => { if (!event.target.closest("a")) location.hash = row.key; } });
  for (const column of COLUMNS) {
    const cell = element("td", { class: `${column.number ? "number " : ""}${column.wide}` });
    if (column.key === "command") { cell.classList.add("name"); cell.append(element("a", { href: `#${row.key}` }), element("small")); }
    if (column.key === "spark") {
      const svg = drawn("svg", { class: "spark", viewBox: "0 0 100 24", preserveAspectRatio: "none", "aria-hidden": "true" });
      svg.append(drawn("path"));
      cell.append(svg);
    }
    line.append(cell);
  }
  return line;
}

function fillRow(line, row) {
  line.className = row.verdict ?? "";
  COLUMNS.forEach((column, place) => {
    const cell = line.children[place];
    if (column.key === "verdict") {
      const text = `${row.verdict} ${row.at_risk}`;
      if (cell.dataset.said !== text) {
        cell.dataset.said = text;
        cell.replaceChildren(badge(row.verdict), ...(row.at_risk ? [element("span", { class: "badge risk w1", title: "The limit is reached within the horizon, if it goes on like this" }, "AT RISK")] : []));
      }
    } else if (column.key === "command") {
      say(cell.firstChild, row.command);
      say(cell.lastChild, String(row.pid ?? ""));
      cell.title = row.cmdline ?? "";
    } else if (column.key === "spark") sparkline(cell.firstChild, row.spark);
    else {
      const value = row[column.key];
      say(cell, column.number ? (column.show ?? amount)(value) : value ?? "-");
      cell.classList.toggle("unknown", value === null);
    }
  });
}

function showRows() {
  if (page.opened) return;
  const wanted = chosen(), body = get("rows");
  for (const [key, line] of shown) if (!rows.has(key)) { line.remove(); shown.delete(key); }
  const order = wanted.map((row) => {
    let line = shown.get(row.key);
    if (!line) { line = makeRow(row); shown.set(row.key, line); }
    fillRow(line, row);
    return line;
  });
  order.forEach((line, place) => { if (body.children[place] !== line) body.insertBefore(line, body.children[place] ?? null); });
  while (body.childElementCount > order.length) body.lastChild.remove();
  say(get("count"), wanted.length === rows.size ? `${rows.size}` : `${wanted.length} of ${rows.size}`);
  get("empty").hidden = wanted.length > 0;
  say(get("empty"), rows.size ? (get("only").checked && !get("filter").value ? "Nothing grows." : "Nothing fits the filter.") : "No process was seen yet.");
}

// ---- one process

function open(key) {
  page.opened = /^[a-z0-9]+-[0-9]+$/.test(key) ? key : null;
  page.depth = null;
  get("list").hidden = get("machine").hidden = Boolean(page.opened);
  get("depth").hidden = !page.opened;
  document.title = "leakline";
  if (page.opened) {
    const row = rows.get(page.opened);
    say(get("name"), row ? `${row.command} (${row.pid ?? "-"})` : "One moment");
    for (const name of ["badge", "take", "facts", "kinds"]) get(name).replaceChildren();
    for (const name of ["line", "why", "next"]) say(get(name), "");
    charts.held.wait("One moment");
    charts.kinds.wait("One moment");
    window.scrollTo(0, 0);
    get("name").focus();
  } else showRows();
  connect();
}

function showDepth() {
  const data = page.depth;
  if (!data.known) {
    say(get("name"), "This process is gone");
    say(get("why"), "It has ended before anybody looked into it, or was never here.");
    charts.held.wait("Nothing is known of it.");
    charts.kinds.wait("Nothing is known of it.");
    return;
  }
  const row = data.row;
  document.title = `${row.command} (${row.pid ?? "-"}) - leakline`;
  say(get("name"), `${row.command} (${row.pid ?? "-"})`);
  get("badge").replaceChildren(...(data.ended ? [element("span", { class: "badge risk" }, "ENDED")] : []), badge(row.verdict),
    ...(row.at_risk ? [element("span", { class: "badge risk" }, "AT RISK")] : []));
  if (!get("take").childElementCount && !data.ended) {
    get("take").replaceChildren(...(page.about?.reports ?? []).map((form) =>
      element("a", { href: `/api/processes/${data.key}/report.${form}`, download: "" }, `Report as ${form.toUpperCase()}`)));
  }
  if (data.ended) get("take").replaceChildren();
  say(get("line"), [row.cmdline, row.user && `user ${row.user}`, row.cgroup && `group ${row.cgroup}`].filter(Boolean).join(" · "));
  say(get("why"), data.ended ? `It has ended; this is what was seen last. ${data.why ?? ""}` : data.why ?? "It takes 5 looks to judge it.");
  const facts = [
    ["Held (USS + swap)", amount(row.held)], ["Growth", rate(row.rate)],
    ["90 % interval", row.rate_interval ? `${rate(row.rate_interval[0])} to ${rate(row.rate_interval[1])}` : "-", true],
    ["Probability", likely(row.probability)], ["Limit reached in", span(row.eta)], ["PSS", amount(row.pss)], ["RSS", amount(row.rss)], ["Swap", row.swap ? amount(row.swap) : "-"],
    ["Page faults, major", !row.major_faults ? "-" : row.major_faults.toLocaleString("en")],  ].filter(([, value]) => value !== "-");
  get("facts").replaceChildren(...facts.map(([title, value, long]) =>
    element("div", {}, element("dt", {}, title), element("dd", { class: long ? "long" : "" }, value))));
  if (data.held.times.length) charts.held.show(data.held.times, [{ name: "held", values: data.held.values, fill: "f0" }]);
  else charts.held.wait("It may not be read, or was not yet.");
  showKinds(data);
  get("next").replaceChildren(...(row.pid && !data.ended && !page.about?.recording ? ["To the line: ", element("code", {}, `leakline diagnose ${row.pid}`)] : []));
}

function showKinds(data) {
  const { times, values, unknown } = data.kinds;
  const kinds = Object.entries(values).map(([name, list]) => ({ name, values: list, now: list[list.length - 1], first: list[0] }));
  kinds.sort((one, other) => other.now - one.now || (one.name < other.name ? -1 : 1));
  if (unknown || !kinds.length) { charts.kinds.wait(unknown ?? "One moment"); get("kinds").replaceChildren(); return; }
  const layers = kinds.slice(0, 7).map((kind, place) => ({ name: kind.name, values: kind.values, fill: `f${place}` }));
  if (kinds.length > 7) {
    layers.push({ name: "others", values: times.map((_, place) => kinds.slice(7).reduce((sum, kind) => sum + kind.values[place], 0)), fill: "f7" });
  }
  charts.kinds.show(times, layers, { stacked: true });
  const total = kinds.reduce((sum, kind) => sum + kind.now, 0);
  get("kinds").replaceChildren(...kinds.map((kind, place) => {
    const meter = element("span", { class: `f${Math.min(place, 7)}` });
    meter.style.width = `${100 * kind.now / (total || 1)}%`;
    return element("tr", {}, element("td", {}, element("span", { class: `swatch f${Math.min(place, 7)}` }), kind.name),
      element("td", { class: "number" }, amount(kind.now)), element("td", { class: "number" }, change(kind.now - kind.first)),
      element("td", { class: "share" }, element("div", { class: "meter" }, meter)));
  }));
}

// ---- keys, theme, places

const THEMES = ["auto", "light", "dark"];
function theme(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  say(get("theme"), `Theme: ${name}`);
  try { localStorage.setItem("theme", name); } catch { /* a browser that keeps nothing */ }
}
function nextTheme() {
  const now = document.documentElement.dataset.theme ?? "auto";
  theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
}

function move(by) {
  const links = [...get("rows").querySelectorAll("td.name a")];
  const at = links.indexOf(document.activeElement);
  links[Math.max(0, Math.min(links.length - 1, at < 0 ? 0 : at + by))]?.focus();
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape") {
    if (page.opened) location.hash = "";
    else if (document.activeElement === get("filter")) { get("filter").value = ""; showRows(); get("filter").blur(); }
    return;
  }
  if (event.target.closest("input")) { if (event.key === "Enter" || event.key === "ArrowDown") { event.preventDefault(); move(1); } return; }
  if (event.key === "t") nextTheme();
  if (page.opened) return;
  if (event.key === "/") { event.preventDefault(); get("filter").focus(); }
  if (event.key === "g") { get("only").checked = !get("only").checked; showRows(); }
  if (event.key === "j" || event.key === "ArrowDown") { event.preventDefault(); move(1); }
  if (event.key === "k" || event.key === "ArrowUp") { event.preventDefault(); move(-1); }
});
get("filter").addEventListener("input", showRows);
get("only").addEventListener("change", showRows);
get("theme").addEventListener("click", nextTheme);
window.addEventListener("hashchange", () => { if (location.hash !== "#main") open(location.hash.slice(1)); });

let kept = null;
try { kept = localStorage.getItem("theme"); } catch { /* a browser that keeps nothing */ }
theme(THEMES.includes(kept) ? kept : "auto");
heads();
open(location.hash === "#main" ? "" : location.hash.slice(1));
