function drawStack(box, raw, figure) {
  const times = raw.t, parts = raw.parts, bytes = raw.unit === "bytes";
  const tops = [new Array(times.length).fill(0)];
  for (const part of parts) tops.push(part.v.map((value, at) => value + tops[tops.length - 1][at]));
  const whole = tops[tops.length - 1], high = Math.max(...whole, 1) * 1.04;
  const first = raw.bars ? 0 : times[0];
  const chart = plane(box, first, times[times.length - 1], 0, high, bytes);
  const { x, y, clip } = chart;
  parts.forEach((part, number) => {
    const below = tops[number], above = tops[number + 1];
    let d;
    if (raw.bars) {
      d = times.map((time, at) => {
        const from = x(at ? times[at - 1] : first), to = Math.max(x(time) - 0.6, from + 0.5);
        return part.v[at] ? `M${from.toFixed(1)} ${y(below[at]).toFixed(1)}V${y(above[at]).toFixed(1)}H${to.toFixed(1)}V${y(below[at]).toFixed(1)}Z` : "";
      }).join("");
    } else {
      const up = times.map((time, at) => `${x(time).toFixed(1)} ${y(above[at]).toFixed(1)}`);
      const down = times.map((time, at) => `${x(time).toFixed(1)} ${y(below[at]).toFixed(1)}`).reverse();
      d = `M${up.concat(down).join("L")}Z`;
    }
    const thick = Math.max(...part.v) / high * (chart.bottom - chart.top);
    svg("path", { class: `${raw.bars || thick < 6 ? "" : "band "}s${part.c}`, d }, clip);
  });
  const cells = all("[data-part]", figure), head = one("[data-head]", figure), text = bytes ? amount : count;
  cells.forEach((cell) => { cell.dataset.last ??= cell.textContent; });
  cursor(box, chart, times, (at, where) => {
    cells.forEach((cell) => { cell.textContent = at === null ? cell.dataset.last : text(parts[+cell.dataset.part].v[at]); });
    head.textContent = at === null ? head.dataset.head : `At ${elapsed(times[at] - first)}`;
    tip(chart, at === null ? null : where, at === null ? [] : [elapsed(times[at] - first), `${text(whole[at])} in all`]);
  });
}

function stackFigure(figure) {
  const raw = data.stacks[+figure.dataset.stack], box = one(".plot", figure);
  whenSeen(box, () => drawStack(box, raw, figure));
}
