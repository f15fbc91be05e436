// The numbers under the pointer; the page says everything without it too.
for (const plot of document.querySelectorAll(".plot")) {
  const chart = JSON.parse(plot.dataset.chart);
  const cursor = Object.assign(document.createElement("div"), { className: "cursor", hidden: true });
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  plot.append(cursor, tip);
  const nearest = (points, x) => points.reduce((a, b) => (Math.abs(b[0] - x) < Math.abs(a[0] - x) ? b : a));
  const hide = () => { cursor.hidden = tip.hidden = true; };
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    const share = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
    const wanted = chart.left + share * (chart.right - chart.left);
    const found = chart.series.map((series) => [series.label, ...nearest(series.points, wanted)]);
    const step = found.reduce((a, b) => (Math.abs(b[1] - wanted) < Math.abs(a[1] - wanted) ? b : a))[1];
    cursor.style.left = `${(100 * (step - chart.left)) / (chart.right - chart.left)}%`;
    tip.replaceChildren(...[`step ${Math.round(step)}`, ...found.map(([label, x, y]) =>
      `${label} ${y.toPrecision(4)}${Math.round(x) === Math.round(step) ? "" : ` (step ${Math.round(x)})`}`)]
      .map((text) => Object.assign(document.createElement("div"), { textContent: text })));
    cursor.hidden = tip.hidden = false;
    tip.style.left = share < 0.5 ? `${100 * share + 3}%` : "auto";
    tip.style.right = share < 0.5 ? "auto" : `${100 * (1 - share) + 3}%`;
  });
  plot.addEventListener("pointerleave", hide);
}
