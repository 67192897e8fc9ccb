/* Bruls, Huizing, van Wijk: Squarified Treemaps (2000). */
function squarify(items, x, y, width, height) {
  const found = [], whole = items.reduce((sum, item) => sum + item.v, 0);
  if (!whole || width <= 0 || height <= 0) return found;
  const scale = width * height / whole;
  let rest = items.map((item) => ({ item, area: item.v * scale })).filter((one) => one.area > 0).sort((a, b) => b.area - a.area);
  while (rest.length) {
    const side = Math.min(width, height), worst = (row, sum) => Math.max(side * side * row[0].area / (sum * sum), sum * sum / (side * side * row[row.length - 1].area));
    let row = [rest[0]], sum = rest[0].area, at = 1;
    while (at < rest.length && worst([...row, rest[at]], sum + rest[at].area) <= worst(row, sum)) { sum += rest[at].area; row.push(rest[at++]); }
    const thick = sum / side;
    let along = 0;
    for (const { item, area } of row) {
      const long = area / thick;
      found.push(width >= height ? { item, x, y: y + along, width: thick, height: long } : { item, x: x + along, y, width: long, height: thick });
      along += long;
    }
    if (width >= height) { x += thick; width -= thick; } else { y += thick; height -= thick; }
    rest = rest.slice(at);
  }
  return found;
}

const KIND_COLORS = { heap: 3, "malloc arena": 3, "mmapped malloc chunk": 3, anon: 1, stack: 2, "thread stack": 2, text: 4, rodata: 4, data: 0, bss: 0, file: 8, shmem: 5, memfd: 5, sysv: 5, hugetlb: 5, jit: 6, guard: 9, reserved: 9 };
const kindColor = (kind) => KIND_COLORS[kind] ?? 7;

const treemaps = all("[data-map]").map((panel) => {
  const raw = data.maps[+panel.dataset.map], box = one(".treemap", panel), readout = one(".readout", panel), hint = readout.textContent;
  const body = one(".kinds tbody", panel), head = one("[data-head]", panel);
  let measure = "rss", sought = "", boxes = [];

  function list() {
    body.replaceChildren();
    const rows = raw.kinds.map((kind) => ({ kind: kind.kind, boxes: kind.boxes.reduce((sum, one) => sum + (one.c ?? 1), 0), v: kind.boxes.reduce((sum, one) => sum + one[measure], 0) })).filter((row) => row.v).sort((a, b) => b.v - a.v);
    for (const row of rows) {
      const line = body.insertRow(), name = document.createElement("th"), mark = document.createElement("span");
      name.scope = "row";
      mark.className = `swatch s${kindColor(row.kind)}`;
      mark.setAttribute("aria-hidden", "true");
      name.append(mark, row.kind);
      line.append(name);
      for (const text of [count(row.boxes), amount(row.v)]) {
        const cell = line.insertCell();
        cell.className = "n";
        cell.textContent = text;
      }
    }
  }

  function draw() {
    const width = Math.max(box.clientWidth, 120), height = Math.max(box.clientHeight, 160), rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    box.replaceChildren();
    const picture = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}` }, box);
    const groups = raw.kinds.map((kind) => ({ kind, v: kind.boxes.reduce((sum, one) => sum + one[measure], 0) }));
    boxes = [];
    for (const area of squarify(groups, 0, 0, width, height)) {
      const leaves = area.item.kind.boxes.map((leaf) => ({ leaf, v: leaf[measure] }));
      for (const place of squarify(leaves, area.x + 1, area.y + 1, area.width - 2, area.height - 2)) boxes.push({ ...place, kind: area.item.kind.kind, leaf: place.item.leaf });
    }
    if (!boxes.length) svg("text", { x: rem, y: rem * 1.5, class: "empty" }, picture, "nothing of that kind");
    boxes.forEach((place, number) => {
      const { leaf, kind } = place, color = kindColor(kind);
      const text = `${leaf.n}${leaf.at ? ` (${leaf.at})` : ""}, ${kind}: ${amount(leaf.rss)} resident, ${amount(leaf.uss)} its own, ${amount(leaf.swap)} in swap, ${amount(leaf.size)} of addresses`;
      const hit = !sought || `${leaf.n} ${leaf.at} ${kind}`.toLowerCase().includes(sought);
      const element = svg("g", { role: "img", tabindex: number ? -1 : 0, "aria-label": text, class: `${hit ? "" : "faded"} ${[0, 7, 8].includes(color) ? "white" : ""}` }, picture);
      svg("rect", { class: `s${color}`, x: place.x, y: place.y, width: Math.max(place.width, 0.3), height: Math.max(place.height, 0.3), rx: 2 }, element);
      const room = Math.floor((place.width - 10) / (rem * 0.43)), name = leaf.n.includes("/") ? leaf.n.slice(leaf.n.lastIndexOf("/") + 1) : leaf.n;
      if (room >= 4 && place.height > rem * 1.5) {
        svg("text", { class: "label", x: place.x + 6, y: place.y + rem * 1.1 }, element, name.length <= room ? name : name.slice(0, room - 1) + "…");
        if (place.height > rem * 2.8 && room >= 8) svg("text", { x: place.x + 6, y: place.y + rem * 2.15 }, element, amount(leaf[measure]));
      }
      element.addEventListener("pointerenter", () => { readout.textContent = text; });
      element.addEventListener("focus", () => { readout.textContent = text; });
      place.element = element;
    });
  }

  box.addEventListener("pointerleave", () => { readout.textContent = hint; });
  box.addEventListener("keydown", (event) => {
    const at = boxes.findIndex((place) => place.element === document.activeElement);
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    const next = step && at >= 0 ? boxes[at + step] : null;
    if (!next) return;
    event.preventDefault();
    boxes[at].element.setAttribute("tabindex", "-1");
    next.element.setAttribute("tabindex", "0");
    next.element.focus();
  });
  for (const button of all("[data-measure]", panel)) {
    button.addEventListener("click", () => {
      measure = button.dataset.measure;
      head.textContent = button.textContent;
      all("[data-measure]", panel).forEach((other) => other.setAttribute("aria-pressed", other === button));
      list();
      draw();
    });
  }
  list();
  whenSeen(box, draw);
  return { search(text) { sought = text; if (box.firstChild) draw(); } };
});
