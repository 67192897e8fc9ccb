/* A tree of calls; inverted it begins at the allocations. */
function flameTree(stacks, inverted) {
  const root = { name: "all of it", place: "", v: 0, b: 0, kids: new Map(), base: true, depth: 0 };
  const kinds = new Set(stacks.map((stack) => stack.k));
  for (const stack of stacks) {
    const calls = stack.s.map((frame, at) => ({ key: "f" + frame, name: data.flame.frames[frame][0], place: data.flame.frames[frame][1], answer: at === stack.a }));
    const heads = [{ key: "p" + stack.p, name: stack.p, place: "", base: true }];
    if (kinds.size > 1) heads.push({ key: "k" + stack.k, name: stack.k, place: "", base: true });
    const path = inverted ? [...calls.reverse(), ...heads] : [...heads, ...calls];
    let node = root;
    node.v += stack.v; node.b += stack.b;
    for (const step of path) {
      if (!node.kids.has(step.key)) node.kids.set(step.key, { ...step, v: 0, b: 0, kids: new Map(), parent: node, depth: node.depth + 1 });
      node = node.kids.get(step.key);
      node.v += stack.v; node.b += stack.b;
      node.answer = node.answer || step.answer;
    }
  }
  return root;
}

const flame = data.flame && one("#flame") ? (() => {
  const panel = one("#flame"), box = one(".flame", panel), readout = one("#flame-readout"), hint = readout.textContent;
  let group = Object.keys(data.flame.groups)[0], inverted = false, flipped = false, sought = "";
  let root = null, focus = null, shown = new Map(), current = null;

  const shade = (name) => { let sum = 0; for (const letter of name) sum = (sum + letter.codePointAt(0)) % 3; return sum; };
  const label = (node) => `${node.name}${node.place ? ` at ${node.place}` : ""}: ${amount(node.v)}${node.b ? ` in ${count(node.b)} block${node.b === 1 ? "" : "s"}` : ""}, ${(100 * node.v / root.v).toFixed(1)} %`;
  const matches = (node) => !sought || `${node.name} ${node.place}`.toLowerCase().includes(sought);

  function rebuild() { root = flameTree(data.flame.groups[group], inverted); focus = root; draw(); }

  function draw() {
    const width = Math.max(box.clientWidth, 120), rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const row = Math.round(rem * 1.45), boxes = [], rests = [];
    /* Level by level; what is too narrow to see is one grey box, sooner where there are many already. */
    const walk = (first, level) => {
      const waiting = [{ node: first, left: 0, wide: width, level }];
      for (let at = 0; at < waiting.length; at++) {
        const parent = waiting[at], least = waiting.length < 3000 ? 1.5 : 6;
        boxes.push(parent);
        let from = parent.left, small = 0;
        for (const kid of [...parent.node.kids.values()].sort((a, b) => b.v - a.v || (a.name < b.name ? -1 : 1))) {
          const share = parent.wide * kid.v / parent.node.v;
          if (share >= least) { waiting.push({ node: kid, left: from, wide: share, level: parent.level + 1 }); from += share; }
          else small += share;
        }
        if (small >= 1) rests.push({ left: from, wide: small, level: parent.level + 1 });
      }
    };
    const line = [];
    for (let node = focus.parent; node; node = node.parent) line.unshift(node);
    line.forEach((node, level) => boxes.push({ node, left: 0, wide: width, level, faded: true }));
    walk(focus, line.length);
    const rows = boxes.concat(rests).reduce((most, b) => Math.max(most, b.level), 0) + 1;
    box.replaceChildren();
    shown = new Map();
    const picture = svg("svg", { width, height: rows * row, viewBox: `0 0 ${width} ${rows * row}` }, box);
    for (const { left, wide, level } of rests) {
      svg("rect", { class: "rest", x: left, y: (flipped ? rows - 1 - level : level) * row, width: Math.max(wide - 0.5, 0.5), height: row - 1, rx: 2 }, picture);
    }
    for (const { node, left, wide, level, faded } of boxes) {
      const y = (flipped ? rows - 1 - level : level) * row;
      const look = node.base ? "base" : "";
      const element = svg("g", { class: `${look}${node.answer ? " answer" : ""}${faded ? " above" : ""}${matches(node) ? "" : " faded"}`, role: "button", tabindex: node === (current || focus) ? 0 : -1, "aria-label": label(node) }, picture);
      const inset = node.answer ? 1 : 0;
      svg("rect", { class: node.base ? "" : group + shade(node.name), x: left + inset, y: y + inset, width: Math.max(wide - 0.5 - 2 * inset, 0.4), height: row - 1 - 2 * inset, rx: 2 }, element);
      const room = Math.floor((wide - 10) / (rem * 0.43));
      if (room >= 3) {
        const full = node.place && room >= node.name.length + node.place.length + 2 ? `${node.name}  ${node.place}` : node.name;
        svg("text", { x: left + 6, y: y + row * 0.66 }, element, full.length <= room ? full : full.slice(0, room - 1) + "…");
      }
      element.addEventListener("pointerenter", () => { readout.textContent = label(node); });
      element.addEventListener("focus", () => { readout.textContent = label(node); current = node; });
      element.addEventListener("click", () => zoom(node));
      shown.set(node, element);
    }
    if (![...shown.values()].some((element) => element.getAttribute("tabindex") === "0")) shown.get(focus).setAttribute("tabindex", "0");
    one("#unzoom").disabled = focus === root;
  }

  function zoom(node) {
    const kept = document.activeElement && box.contains(document.activeElement);
    focus = node; current = node;
    draw();
    if (kept) shown.get(node).focus();
    readout.textContent = label(node);
  }

  function back() {
    if (focus === root) return false;
    zoom(focus.parent);
    return true;
  }

  box.addEventListener("keydown", (event) => {
    const node = [...shown].find(([, element]) => element === document.activeElement)?.[0];
    if (!node) return;
    const peers = node.parent ? [...node.parent.kids.values()].sort((a, b) => b.v - a.v).filter((n) => shown.has(n)) : [node];
    const child = [...node.kids.values()].sort((a, b) => b.v - a.v).find((n) => shown.has(n));
    const steps = { ArrowLeft: peers[peers.indexOf(node) - 1], ArrowRight: peers[peers.indexOf(node) + 1] };
    steps[flipped ? "ArrowUp" : "ArrowDown"] = child;
    steps[flipped ? "ArrowDown" : "ArrowUp"] = node.parent;
    if (event.key === "Enter" || event.key === " ") zoom(node);
    else if (event.key in steps) {
      const next = steps[event.key];
      if (next && shown.has(next)) {
        shown.get(node).setAttribute("tabindex", "-1");
        shown.get(next).setAttribute("tabindex", "0");
        shown.get(next).focus();
      }
    } else return;
    event.preventDefault();
  });
  box.addEventListener("pointerleave", () => { readout.textContent = focus === root ? hint : label(focus); });
  for (const button of all("[data-group]", panel)) {
    button.addEventListener("click", () => {
      group = button.dataset.group; current = null;
      all("[data-group]", panel).forEach((other) => other.setAttribute("aria-pressed", other === button));
      rebuild();
    });
  }
  const toggle = (id, change) => one(id).addEventListener("click", (event) => {
    event.currentTarget.setAttribute("aria-pressed", event.currentTarget.getAttribute("aria-pressed") !== "true");
    change();
  });
  toggle("#invert", () => { inverted = !inverted; current = null; rebuild(); });
  toggle("#flip", () => { flipped = !flipped; draw(); });
  one("#unzoom").addEventListener("click", () => { current = null; zoom(root); });
  root = flameTree(data.flame.groups[group], inverted);
  focus = root;
  whenSeen(box, draw);
  return {
    back,
    holds: () => box.contains(document.activeElement),
    search(text) {
      sought = text;
      for (const [node, element] of shown) element.classList.toggle("faded", !matches(node));
      if (!text) return null;
      const total = (node) => matches(node) ? node.v : [...node.kids.values()].reduce((sum, kid) => sum + total(kid), 0);
      return root.v ? total(root) / root.v : 0;
    },
  };
})() : null;
