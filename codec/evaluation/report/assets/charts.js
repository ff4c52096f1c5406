"use strict";

// Charts as SVG, drawn from the JSON in #charts. A chart is redrawn when its width or the smoothing changes.

const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { left: 46, right: 10, top: 8, bottom: 22 };

function svgElement(name, attributes = {}, text = "") {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.textContent = text;
  return element;
}

// Up to four significant digits, thousands as k and millions as M.
function shortNumber(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(4)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(4)}k`;
  if (size && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("-", "−").replace("e-", "e−");
  return String(+value.toPrecision(4)).replace("-", "−");
}

// Round numbers in [low, high]: about `count` of them.
function linearTicks(low, high, count = 4) {
  const unit = 10 ** Math.floor(Math.log10((high - low) / count)), step = [1, 2, 5, 10].map((m) => m * unit)
    .find((each) => (high - low) / each <= count + 0.5);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high * (1 + 1e-9) + 1e-12; k++) ticks.push(k * step);
  return ticks;
}

function logTicks(low, high) {
  const ticks = [], decades = Math.log10(high / low);
  for (let e = Math.floor(Math.log10(low)); e <= Math.log10(high); e++) {
    for (const m of decades < 2 ? [1, 2, 5] : [1]) ticks.push(m * 10 ** e);
  }
  const inside = ticks.filter((tick) => tick >= low * 0.999 && tick <= high * 1.001);
  const every = Math.ceil(inside.length / 5);
  return inside.filter((_, i) => i % every === 0);
}

// Exponential moving average without bias at the start, as in TensorBoard. Unknown values (null) stay unknown.
function smoothed(values, weight) {
  let sum = 0, total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

class Chart {
  constructor(figure, data) {
    this.figure = figure;
    this.data = data;
    this.plot = figure.querySelector(".plot");
    for (const line of data.series ?? []) {
      if (!Array.isArray(line.x)) line.x = line.y.map((_, i) => line.x.start + i * line.x.every);
    }
    this.plot.setAttribute("role", "img");
    this.plot.setAttribute("aria-label", this.summary());
    this.tip = document.createElement("div");
    this.tip.className = "tip";
    this.tip.hidden = true;
    new ResizeObserver(() => this.draw()).observe(this.plot);
    this.plot.addEventListener("pointermove", (event) => this.hover(event));
    this.plot.addEventListener("pointerdown", (event) => this.hover(event));
    this.plot.addEventListener("pointerleave", () => this.leave());
  }

  summary() {
    const latest = (this.data.series ?? []).map((line) => `${line.name} ${shortNumber(line.y.findLast((y) => y !== null) ?? NaN)}`);
    const title = this.figure.querySelector("figcaption")?.textContent ?? "";
    return `Chart: ${title}${latest.length ? `; latest ${latest.slice(0, 8).join(", ")}` : ""}`;
  }

  // Scales of both axes for the present width.
  scales() {
    const { data } = this, width = this.plot.clientWidth, height = this.plot.clientHeight;
    const xs = this.points().map(([x]) => x), ys = this.points().map(([, y]) => y);
    let [x0, x1] = data.steps ?? [Math.min(...xs), Math.max(...xs)];
    let [y0, y1] = data.limits ?? [Math.min(...ys), Math.max(...ys)];
    if (data.kind === "bar") [x0, x1, y0] = [0.4, data.series[0].y.length + 0.6, 0];
    if (data.kind === "area") [y0, y1] = data.limits ?? [0, y1];
    if (x0 === x1) [x0, x1] = [x0 - 0.5, x1 + 0.5];
    const log = Boolean(data.log) && y0 > 0;
    if (!data.limits) {
      if (log) [y0, y1] = [y0 / (y1 / y0) ** 0.04, y1 * (y1 / y0) ** 0.04];
      const pad = log || data.kind === "area" ? 0 : 0.05 * (y1 - y0);
      [y0, y1] = [data.kind === "bar" ? 0 : y0 - pad, y1 + pad];
    }
    if (y0 === y1) [y0, y1] = [y0 - (Math.abs(y0) || 1) / 2, y1 + (Math.abs(y1) || 1) / 2];
    const along = (value, low, high, from, to) => from + (to - from) * (value - low) / (high - low);
    const f = log ? Math.log : Number;
    const bottom = data.kind === "scatter" ? 38 : MARGIN.bottom;
    return {
      width, height, bottom, log, x0, x1, y0, y1,
      x: (value) => along(value, x0, x1, MARGIN.left, width - MARGIN.right),
      y: (value) => along(f(value), f(y0), f(y1), height - bottom, data.kind === "scatter" ? 22 : MARGIN.top),
      stepAt: (pixel) => along(pixel, MARGIN.left, width - MARGIN.right, x0, x1),
    };
  }

  points() {
    if (this.data.kind === "scatter") {
      return this.data.points.flatMap(({ x, y, dx, dy }) => [[x - (dx || 0), y - (dy || 0)], [x + (dx || 0), y + (dy || 0)]]);
    }
    if (this.data.kind === "area") return this.stack().flatMap(({ line, top }) => line.x.map((x, i) => [x, top[i]]));
    return this.data.series.flatMap((line) => line.x.map((x, i) => [x, line.y[i]])).filter(([, y]) => y !== null);
  }

  stack() {
    let below = this.data.series[0].y.map(() => 0);
    return this.data.series.map((line) => {
      const bottom = below, top = below = bottom.map((base, i) => base + Math.max(0, line.y[i] ?? 0));
      return { line, bottom, top };
    });
  }

  draw() {
    if (!this.plot.clientWidth) return;  // inside a closed <details>
    const s = this.scale = this.scales();
    this.svg = svgElement("svg", { viewBox: `0 0 ${s.width} ${s.height}`, width: s.width, height: s.height, "aria-hidden": "true" });
    this.drawAxes(s);
    this[this.data.kind](s);
    this.cursor = svgElement("line", { class: "cursor", y1: MARGIN.top, y2: s.height - s.bottom, visibility: "hidden" });
    this.svg.append(this.cursor);
    this.plot.replaceChildren(this.svg, this.tip);
  }

  drawAxes(s) {
    const bottom = s.height - s.bottom;
    for (const tick of s.log ? logTicks(s.y0, s.y1) : linearTicks(s.y0, s.y1)) {
      this.svg.append(svgElement("line", { class: "rule", x1: MARGIN.left, x2: s.width - MARGIN.right, y1: s.y(tick), y2: s.y(tick) }));
      this.svg.append(svgElement("text", { x: MARGIN.left - 6, y: s.y(tick) + 3.5, "text-anchor": "end" }, shortNumber(tick)));
    }
    const whole = this.data.kind !== "scatter";
    for (const tick of linearTicks(s.x0, s.x1, Math.max(2, Math.min(6, Math.floor(s.width / 75))))) {
      if (whole && tick % 1) continue;
      this.svg.append(svgElement("text", { x: s.x(tick), y: bottom + 14, "text-anchor": "middle" }, shortNumber(tick)));
    }
  }

  path(xs, ys, s) {
    let path = "", pen = "M";
    ys.forEach((y, i) => {
      if (y === null) { pen = "M"; return; }
      path += `${pen}${s.x(xs[i]).toFixed(1)} ${s.y(y).toFixed(1)}`;
      pen = "L";
    });
    return path;
  }

  line(s) {
    const weight = this.data.smooth ? smoothing() : 0;
    for (const line of this.data.series) {
      if (line.y.length === 1) {
        this.svg.append(svgElement("circle", { cx: s.x(line.x[0]), cy: s.y(line.y[0]), r: 3, fill: line.color }));
        continue;
      }
      const raw = svgElement("path", { d: this.path(line.x, line.y, s), stroke: line.color, class: weight ? "line raw" : "line" });
      this.svg.append(raw);
      if (weight) this.svg.append(svgElement("path", { d: this.path(line.x, smoothed(line.y, weight), s), stroke: line.color, class: "line" }));
    }
  }

  area(s) {
    for (const { line, bottom, top } of this.stack()) {
      const x = line.x.length > 1 ? line.x : [s.x0, s.x1], wide = (values) => (values.length > 1 ? values : [values[0], values[0]]);
      const there = this.path(x, wide(top), s), back = this.path([...x].reverse(), wide(bottom).toReversed(), s);
      this.svg.append(svgElement("path", { d: `${there}L${back.slice(1)}Z`, fill: line.color, opacity: 0.85 }));
    }
  }

  bar(s) {
    const { y, color } = this.data.series[0], width = (s.x(2) - s.x(1)) * 0.72;
    y.forEach((value, i) => {
      if (value === null) return;
      this.svg.append(svgElement("rect", { x: s.x(i + 1) - width / 2, width, y: s.y(value), height: Math.max(0, s.y(0) - s.y(value)), fill: color }));
    });
  }

  scatter(s) {
    const taken = [], bottom = s.height - s.bottom;
    for (const { x, y, dx = 0, dy = 0, color } of this.data.points) {
      const [px, py] = [s.x(x), s.y(y)];
      taken.push([s.x(x - dx), py - 2, s.x(x + dx) - s.x(x - dx), 4], [px - 2, s.y(y + dy), 4, s.y(y - dy) - s.y(y + dy)]);
      if (dx) this.svg.append(svgElement("line", { class: "error", x1: s.x(x - dx), x2: s.x(x + dx), y1: py, y2: py, stroke: color }));
      if (dy) this.svg.append(svgElement("line", { class: "error", x1: px, x2: px, y1: s.y(y - dy), y2: s.y(y + dy), stroke: color }));
      this.svg.append(svgElement("circle", { cx: px, cy: py, r: 4.5, fill: color }));
      taken.push([px - 6, py - 6, 12, 12]);
    }
    for (const { name, x, y } of this.data.points) {
      const [px, py] = [s.x(x), s.y(y)], width = 6.6 * name.length;
      const places = [
        [px + 9, py + 4], [px - 9 - width, py + 4], [px - width / 2, py - 10], [px - width / 2, py + 18],
        [px + 6, py - 8], [px + 6, py + 16], [px - 6 - width, py - 8], [px - 6 - width, py + 16],
      ];
      const free = places.find(([left, base]) => {
        const top = base - 10, inside = left > MARGIN.left && left + width < s.width && top > MARGIN.top && base < bottom;
        return inside && !taken.some(([l, t, w, h]) => left < l + w && l < left + width && top < t + h && t < top + 13);
      });
      if (!free) continue;  // the tooltip has the name
      taken.push([free[0], free[1] - 10, width, 13]);
      this.svg.append(svgElement("text", { x: free[0], y: free[1], class: "name" }, name));
    }
    const { xLabel, yLabel } = this.data;
    this.svg.append(svgElement("text", { x: s.width - MARGIN.right, y: s.height - 4, "text-anchor": "end" }, xLabel));
    this.svg.append(svgElement("text", { x: 0, y: 10 }, yLabel));
  }

  hover(event) {
    if (!this.scale) return;
    const { left, top } = this.plot.getBoundingClientRect(), px = event.clientX - left, py = event.clientY - top;
    const rows = this.data.kind === "scatter" ? this.nearestPoint(px, py) : this.valuesAt(this.scale.stepAt(px));
    if (!rows) return this.leave();
    this.tip.replaceChildren(...rows.lines.map(({ name, text, color }) => {
      const row = document.createElement("div");
      if (color) {
        const swatch = document.createElement("i");
        swatch.style.background = color;
        row.append(swatch);
      }
      row.append(name, " ");
      const value = document.createElement("b");
      value.textContent = text;
      row.append(value);
      return row;
    }));
    this.tip.hidden = false;
    const x = this.scale.x(rows.x), onLeft = x > this.scale.width / 2;
    this.tip.style.left = onLeft ? "" : `${x + 10}px`;
    this.tip.style.right = onLeft ? `${this.scale.width - x + 10}px` : "";
    for (const end of ["x1", "x2"]) this.cursor.setAttribute(end, x);
    this.cursor.setAttribute("visibility", this.data.kind === "scatter" ? "hidden" : "visible");
  }

  leave() {
    this.tip.hidden = true;
    this.cursor?.setAttribute("visibility", "hidden");
  }

  // The values of all series at their point nearest to `x`.
  valuesAt(x) {
    const weight = this.data.smooth ? smoothing() : 0;
    let nearest = null;
    for (const line of this.data.series) {
      for (const each of line.x) if (nearest === null || Math.abs(each - x) < Math.abs(nearest - x)) nearest = each;
    }
    if (nearest === null) return null;
    const lines = this.data.series.map((line) => {
      const at = line.x.reduce((best, each, i) => (Math.abs(each - nearest) < Math.abs(line.x[best] - nearest) ? i : best), 0);
      const values = weight ? smoothed(line.y, weight) : line.y, value = values[at];
      const raw = weight && line.y[at] !== null ? ` (${shortNumber(line.y[at])})` : "";
      return { name: line.name, text: value === null || value === undefined ? "–" : `${shortNumber(value)}${raw}`, color: line.color };
    });
    if (this.data.kind === "area") lines.reverse();  // in the order in which they are seen
    const name = this.data.kind === "bar" ? "codebook" : "step";
    return { x: nearest, lines: [{ name, text: Math.round(nearest).toLocaleString("en") }, ...lines] };
  }

  nearestPoint(px, py) {
    const far = ({ x, y }) => Math.hypot(this.scale.x(x) - px, this.scale.y(y) - py);
    const [best] = [...this.data.points].sort((a, b) => far(a) - far(b));
    if (!best || far(best) > 40) return null;
    const shown = (value, half) => (half ? `${shortNumber(value)} ± ${shortNumber(half)}` : shortNumber(value));
    return { x: best.x, lines: [
      { name: best.name, text: "", color: best.color },
      { name: this.data.yLabel, text: shown(best.y, best.dy) },
      { name: this.data.xLabel, text: shown(best.x, best.dx) },
    ] };
  }
}

const smoothingSlider = document.getElementById("smoothing");
function smoothing() {
  return smoothingSlider ? Number(smoothingSlider.value) : 0;
}

const chartData = JSON.parse(document.getElementById("charts")?.textContent ?? "[]");
const charts = [...document.querySelectorAll("figure[data-chart]")].map((figure) => new Chart(figure, chartData[figure.dataset.chart]));
if (smoothingSlider) {
  const shown = document.getElementById("smoothing-value");
  smoothingSlider.value = remembered("smoothing", smoothingSlider.value);
  shown.textContent = smoothing().toFixed(2);
  smoothingSlider.addEventListener("input", () => {
    shown.textContent = smoothing().toFixed(2);
    remember("smoothing", smoothingSlider.value);
    for (const chart of charts) if (chart.data.smooth) chart.draw();
  });
}
