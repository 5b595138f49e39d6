"use strict";
// One page of tables and charts. All text enters the page through textContent: nothing in the data is ever markup.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 100; // rows added at a time
  const say = (text) => { document.getElementById("said").textContent = text; };

  // --- numbers as the other formats print them ---
  function fixed(value, digits) { // Python's rounding: a number exactly half way goes to the even digit
    const size = Math.abs(value), scaled = size * 2 ** (digits + 1);
    let text = size.toFixed(digits);
    const tie = Number.isInteger(scaled) && scaled % 2 === 1;
    if (tie && Number(text[text.length - 1]) % 2) text = (size * (1 - 2 ** -50)).toFixed(digits);
    const [whole, part] = text.split(".");
    const grouped = whole.replace(/\B(?=(\d{3})+$)/g, ",");
    return (value < 0 ? "-" : "") + grouped + (part === undefined ? "" : "." + part);
  }
  function shown(column, row) {
    const value = column.v[row];
    if (value === null) return data.unknown;
    return column.k === "s" ? data.strings[value] : fixed(value, column.k === "f" ? column.d : 0);
  }
  function sortable(column, row) {
    const value = column.v[row];
    if (value === null || column.k !== "s") return value;
    const text = data.strings[value], number = Number(text.replace(/,/g, ""));
    return text.trim() !== "" && !Number.isNaN(number) ? number : text;
  }
  const command = (cell) => data.templates[data.cells[cell][1]].replaceAll("CELL", data.cells[cell][0]);
  const words = (text) => text.toLowerCase().split(/\s+/).filter(Boolean);
  const has = (text, wanted) => wanted.every((word) => text.includes(word));

  // --- tables ---
  const everywhere = document.getElementById("filter-all");
  class View {
    constructor(section) {
      this.section = section;
      this.table = data.tables[Number(section.dataset.table)];
      this.body = section.querySelector("tbody");
      this.rest = section.querySelector(".rest");
      this.count = section.querySelector(".count");
      this.own = section.querySelector("input");
      this.sorted = null; // [column, direction]
      this.limit = Math.max(this.body.rows.length, 1);
      this.first = this.limit;
      this.texts = null; // made when somebody filters
      this.order = Array.from({ length: this.table.n }, (_, i) => i);
      section.querySelectorAll("thead button").forEach((button, i) => button.addEventListener("click", () => this.sort(i)));
      this.rest.querySelector("button").addEventListener("click", () => { this.limit += PAGE; this.draw(); });
      if (this.own) this.own.addEventListener("input", () => { this.limit = this.first; this.update(); });
      this.body.addEventListener("click", (event) => this.copy(event));
    }
    text(row) {
      this.texts ??= this.order.length && Array.from({ length: this.table.n }, (_, i) =>
        this.table.columns.map((column) => shown(column, i)).join(" ").concat(" ", this.table.all).toLowerCase());
      return this.texts[row];
    }
    sort(index) {
      const up = !(this.sorted && this.sorted[0] === index && this.sorted[1] === 1);
      this.sorted = [index, up ? 1 : -1];
      this.section.querySelectorAll("thead th").forEach((th, i) => {
        if (th.hasAttribute("aria-sort")) th.setAttribute("aria-sort", i !== index ? "none" : up ? "ascending" : "descending");
      });
      this.update();
      say(`sorted by ${this.table.columns[index].name}, ${up ? "ascending" : "descending"}`);
    }
    update() {
      const wanted = words((this.own ? this.own.value : "") + " " + (this.section.hasAttribute("data-cells") ? everywhere.value : ""));
      let rows = Array.from({ length: this.table.n }, (_, i) => i);
      if (wanted.length) rows = rows.filter((row) => has(this.text(row), wanted));
      if (this.sorted) {
        const [index, way] = this.sorted, column = this.table.columns[index];
        const keys = new Map(rows.map((row) => [row, sortable(column, row)]));
        rows.sort((a, b) => {
          const x = keys.get(a), y = keys.get(b);
          if (x === null || y === null) return (x === null) - (y === null); // what is not known comes last
          if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
          return (x < y ? -1 : x > y ? 1 : a - b) * way;
        });
      }
      this.order = rows;
      if (this.count) this.count.textContent = wanted.length ? `${rows.length} of ${this.table.n} rows` : `${this.table.n} rows`;
      this.draw();
    }
    draw() {
      const fragment = document.createDocumentFragment();
      for (const row of this.order.slice(0, this.limit)) {
        const tr = document.createElement("tr");
        for (const column of this.table.columns) {
          const td = document.createElement("td");
          td.textContent = shown(column, row);
          if (column.r) td.className = column.r;
          tr.append(td);
        }
        if (this.table.cells) tr.append(this.again(this.table.cells[row]));
        fragment.append(tr);
      }
      this.body.replaceChildren(fragment);
      const left = this.order.length - this.limit;
      this.rest.hidden = left <= 0;
      this.rest.querySelector("button").textContent = `Show ${Math.min(PAGE, left)} more of ${left}`;
    }
    again(cell) {
      const td = document.createElement("td");
      if (cell === null || !data.cells[cell]) return td;
      const button = document.createElement("button");
      button.type = "button"; button.className = "again"; button.textContent = data.cells[cell][0]; button.title = command(cell);
      button.setAttribute("aria-label", `copy the command that measures ${data.cells[cell][0]} again`);
      td.append(button);
      return td;
    }
    copy(event) {
      const button = event.target.closest("button.again");
      if (!button) return;
      const id = button.textContent;
      const done = (text) => { say(text); button.textContent = text; setTimeout(() => { button.textContent = id; }, 1500); };
      const show = () => { window.prompt("Command", button.title); };
      if (navigator.clipboard) navigator.clipboard.writeText(button.title).then(() => done("copied"), show); else show();
    }
  }
  const views = Array.from(document.querySelectorAll("section[data-table]"), (section) => new View(section));

  const more = document.getElementById("more-findings");
  if (more) more.addEventListener("click", () => {
    document.querySelectorAll("[data-more]").forEach((item) => { item.hidden = false; });
    more.parentElement.hidden = true;
  });

  // --- charts ---
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const colour = (i) => style(`--c${i % 7}`);
  const SHAPES = ["circle", "triangle", "rect", "rectRot", "star", "cross"];
  const drawn = new Map(); // id -> Chart
  const matching = () => { const wanted = words(everywhere.value); return data.points.filter((p) => has(p.label.toLowerCase(), wanted)); };
  const significant = (value) => Number(value.toPrecision(3)).toLocaleString("en-US", { maximumSignificantDigits: 3 });
  const axis = (text, type = "linear", extra = {}) => ({
    type, title: { display: true, text, color: style("--ink") }, grid: { color: style("--line") }, ...extra,
    ticks: { color: style("--soft"), maxRotation: 0, ...(type === "logarithmic" ? { callback: (v) => /^[125]0*$/.test(String(Math.round(v * 1e6)).replace(/^0+/, "")) ? significant(v) : "" } : {}), ...(extra.ticks || {}) },
  });
  const options = (x, y, extra = {}) => ({
    responsive: true, maintainAspectRatio: false, animation: false, scales: { x, y },
    plugins: { legend: { labels: { color: style("--ink"), usePointStyle: true, boxHeight: 7, filter: (item) => !item.text.startsWith("roof: ") } }, ...extra }, ...(extra.top || {}),
  });
  function groups(points, x, y) { // one data set per model and stage: colour and shape
    const models = [...new Set(data.points.map((p) => p.model))], stages = [...new Set(data.points.map((p) => p.stage))];
    const found = new Map();
    for (const p of points) {
      if (x(p) === null || y(p) === null) continue;
      const key = `${p.model} ${p.stage}`;
      if (!found.has(key)) found.set(key, {
        label: key, data: [], pointRadius: 5, pointHoverRadius: 8, pointStyle: SHAPES[stages.indexOf(p.stage) % SHAPES.length],
        backgroundColor: colour(models.indexOf(p.model)) + "cc", borderColor: colour(models.indexOf(p.model)),
      });
      found.get(key).data.push({ x: x(p), y: y(p), label: p.label });
    }
    return [...found.values()];
  }
  const line = (label, points, at, dash = []) => ({
    type: "line", label, data: points, borderColor: at, backgroundColor: at, borderWidth: 1.5, borderDash: dash, pointRadius: 0, pointStyle: "line", order: 9,
  });
  const tip = (format) => ({ tooltip: { callbacks: { label: (item) => (item.raw.label ? `${item.raw.label}: ${format(item.raw)}` : item.dataset.label) } } });

  const CHARTS = {
    phases() {
      const points = matching().filter((p) => p.shares).slice(0, data.bars);
      const sets = data.phases.map((phase, i) => ({
        label: phase, data: points.map((p) => 100 * (p.shares[i] || 0)), backgroundColor: colour(i), borderColor: style("--paper"), borderWidth: 0.5, pointStyle: "rect",
      })).filter((set) => set.data.some((value) => value > 0));
      const box = document.querySelector('[data-chart="phases"]').parentElement;
      box.style.height = `${Math.max(10, 5 + 1.3 * points.length)}rem`;
      const names = axis("", "category", { ticks: { autoSkip: false, font: { size: 11 } } });
      return {
        type: "bar", data: { labels: points.map((p) => p.short), datasets: sets },
        options: options(axis("% of a step", "linear", { stacked: true, max: 100 }), { ...names, stacked: true, title: { display: false } },
          { top: { indexAxis: "y" }, tooltip: { callbacks: { label: (item) => `${item.dataset.label}: ${item.raw.toFixed(1)} %` } } }),
      };
    },
    roofline() {
      const roofs = data.roofs.map((roof, i) => line(`roof: ${roof.label}`, roof.points, style(roof.kind === "memory" ? "--soft" : "--ink"), roof.kind === "memory" ? [5, 4] : []));
      const sets = groups(matching(), (p) => p.intensity, (p) => p.gflops);
      return { type: "scatter", data: { datasets: [...sets, ...roofs] },
        options: options(axis("FLOP per byte", "logarithmic"), axis("GFLOP/s", "logarithmic"), tip((r) => `${significant(r.x)} FLOP/byte, ${significant(r.y)} GFLOP/s`)) };
    },
    headroom() {
      const sets = groups(matching().flatMap((p) => p.causes.map((c) => ({ ...p, label: `${p.label}, ${c[0]}`, cause: c }))), (p) => p.cause[1], (p) => p.cause[2]);
      const ends = [1, Math.max(1.2, ...sets.flatMap((set) => set.data.flatMap((d) => [d.x, d.y])))];
      return { type: "scatter", data: { datasets: [...sets, line("as predicted", ends.map((v) => ({ x: v, y: v })), style("--soft"), [5, 4])] },
        options: options(axis("predicted headroom (x)", "logarithmic"), axis("measured headroom (x)", "logarithmic"), tip((r) => `predicted ${significant(r.x)}x, measured ${significant(r.y)}x`)) };
    },
    scaling() {
      const wanted = words(everywhere.value);
      const sets = data.curves.filter((curve) => has(curve.label.toLowerCase(), wanted)).flatMap((curve, i) => {
        const at = colour(i), named = (p) => ({ ...p, label: curve.label });
        const measured = { ...line(curve.label, curve.points.map(named), at), pointRadius: 4, pointStyle: SHAPES[i % SHAPES.length] };
        const ahead = { ...line("roof: predicted", curve.predicted ? [named(curve.predicted)] : [], at), pointRadius: 7, pointStyle: "circle", backgroundColor: "transparent" };
        return [measured, ahead];
      });
      return { type: "scatter", data: { datasets: sets },
        options: options(axis("times the smallest", "logarithmic"), axis("step (ms)", "logarithmic"), tip((r) => `${significant(r.y)} ms at ${significant(r.x)} times the smallest`)) };
    },
    quality() {
      const sets = groups(matching(), (p) => p.seconds, (p) => p.quality);
      return { type: "scatter", data: { datasets: sets },
        options: options(axis("seconds of training", "logarithmic"), axis("% of the oracle"), tip((r) => `${significant(r.y)} % after ${significant(r.x)} s`)) };
    },
    series() {
      const one = data.series[Number(document.getElementById("series-cell").value)];
      const sets = one.p.map((steps, i) => ({ ...line(`process ${i}`, steps.map((us, x) => ({ x, y: us / 1000 })), colour(i)), pointRadius: 1.5 }));
      const all = one.p.flat().sort((a, b) => a - b);
      document.getElementById("series-text").textContent =
        `${one.p.length} processes, ${all.length} steps; ${(all[0] / 1000).toFixed(2)} ms at least, ${(all[all.length >> 1] / 1000).toFixed(2)} in the middle, ${(all[all.length - 1] / 1000).toFixed(2)} at most.`;
      return { type: "line", data: { datasets: sets }, options: options(axis("step", "linear"), axis("ms", "linear", { beginAtZero: true }), { tooltip: { mode: "index", intersect: false } }) };
    },
  };
  function draw(id) {
    const canvas = document.querySelector(`[data-chart="${id}"]`);
    if (!canvas) return;
    if (drawn.has(id)) drawn.get(id).destroy();
    drawn.set(id, new Chart(canvas, CHARTS[id]()));
  }
  const redraw = () => [...drawn.keys()].forEach(draw);
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { seen.unobserve(entry.target); draw(entry.target.dataset.chart); }
  }, { rootMargin: "400px" });
  const first = [...document.querySelectorAll("canvas[data-chart]")].filter((canvas) => canvas.dataset.chart !== "series");
  first.forEach((canvas) => seen.observe(canvas));
  const select = document.getElementById("series-cell");
  if (select) {
    data.series.forEach((one, i) => select.append(new Option(one.label, String(i))));
    select.addEventListener("change", () => draw("series"));
    document.getElementById("series").addEventListener("toggle", (event) => { if (event.target.open) draw("series"); });
  }
  let waiting;
  everywhere.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => { views.forEach((view) => { if (view.section.hasAttribute("data-cells")) { view.limit = view.first; view.update(); } }); redraw(); }, 150);
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", () => { first.forEach((canvas) => draw(canvas.dataset.chart)); drawn.forEach((chart) => chart.resize()); });
  addEventListener("afterprint", redraw);
  document.documentElement.dataset.ready = "yes";
})();
