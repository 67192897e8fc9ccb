all("figure[data-series]").forEach(seriesFigure);
all("figure[data-stack]").forEach(stackFigure);
all("[data-show]").forEach((button) => button.addEventListener("click", () => openSeries(button)));

const search = one("#search"), found = one("#found");
function seek() {
  const text = search.value.trim().toLowerCase();
  let hits = 0;
  for (const row of all("[data-search]")) {
    const hit = !text || row.textContent.toLowerCase().includes(text);
    row.hidden = !hit;
    const below = row.nextElementSibling;
    if (below && below.classList.contains("open")) below.hidden = !hit;
    if (hit && text) hits++;
  }
  const share = flame ? flame.search(text) : null;
  treemaps.forEach((map) => map.search(text));
  found.textContent = text ? `${count(hits)} ${hits === 1 ? "finding or row" : "findings and rows"}${share === null ? "" : `, ${(100 * share).toFixed(1)} % of the stacks’ bytes`}` : "";
}
let sought = false;
search.addEventListener("input", () => {
  if (!sought) requestAnimationFrame(() => { sought = false; seek(); });
  sought = true;
});

const dark = matchMedia("(prefers-color-scheme:dark)"), html = document.documentElement;
function toggleTheme() {
  const now = html.dataset.theme || (dark.matches ? "dark" : "light");
  html.dataset.theme = now === "dark" ? "light" : "dark";
}
one("#theme").addEventListener("click", toggleTheme);

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input,textarea,select");
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/" && !typing) { event.preventDefault(); search.focus(); search.select(); }
  else if (event.key === "t" && !typing) toggleTheme();
  else if (event.key === "Escape") {
    if (event.target === search) { search.value = ""; seek(); search.blur(); }
    else if (!(flame && flame.back()) && search.value) { search.value = ""; seek(); }
  }
});

const links = all("nav a"), sections = links.map((link) => one(link.getAttribute("href")));
let waiting = false;
function mark() {
  waiting = false;
  let at = 0;
  sections.forEach((section, number) => { if (section.getBoundingClientRect().top < innerHeight * 0.3) at = number; });
  if (innerHeight + scrollY >= document.body.scrollHeight - 4) at = sections.length - 1;
  links.forEach((link, number) => number === at ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current"));
}
addEventListener("scroll", () => { if (!waiting) { waiting = true; requestAnimationFrame(mark); } }, { passive: true });
mark();

let before = null;
addEventListener("beforeprint", () => { before = html.dataset.theme ?? ""; html.dataset.theme = "light"; all("details").forEach((one) => { one.open = true; }); drawAll(); });
addEventListener("afterprint", () => { if (before) html.dataset.theme = before; else delete html.dataset.theme; });
html.dataset.ready = "";
