// Scores of images in front of the calibrated good images, and a threshold to drag.

import { h, svg, put, show } from "./dom.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { scoreScale, ticks } from "./statistics.js";

const HEIGHT = 168;
const BASE = HEIGHT - 24;
const TOP = 12;
let serial = 0;

export class Histogram {
  /**
   * @param {object} options
   * @param {(threshold: number) => void} [options.onmove] while it is dragged, and at each key;
   *   without it the threshold can't be moved
   * @param {(threshold: number) => string} [options.inWords] what a threshold means
   * @param {string} options.label what the chart is, for screen readers
   */
  constructor({ onmove, inWords = format.score, label }) {
    this.onmove = onmove;
    this.inWords = inWords;
    this.label = label;
    this.calibration = [];
    this.calibrated = 0;
    this.scores = [];
    this.threshold = NaN;
    this.chart = svg("svg", { class: "chart", role: "img", "aria-label": label, height: HEIGHT });
    this.line = h("div", { class: "handle-line" });
    this.begin = h("div", { class: "handle-line begin", hidden: true });
    this.grip = onmove ? h("div", {
      class: "handle", role: "slider", tabindex: "0", "aria-label": t("histogram.threshold"),
      "aria-orientation": "horizontal", onkeydown: (event) => this.#key(event),
    }, h("span", { class: "handle-grip" })) : null;
    this.plot = h("div", { class: "plot" }, this.chart, this.begin, this.line, this.grip);
    this.legend = h("ul", { class: "legend" },
      h("li", {}, h("span", { class: "key calibration" }), t("histogram.calibration")),
      onmove ? h("li", {}, h("span", { class: "key good" }), t("histogram.good")) : null,
      this.reviewed = h("li", { hidden: true }, h("span", { class: "key review" }), t("histogram.review")),
      onmove ? h("li", {}, h("span", { class: "key anomalous" }), t("histogram.anomalous")) : null,
      this.compressed = h("li", { class: "unseen" }, t("histogram.compressed")));
    this.element = h("figure", { class: "histogram" }, this.plot, this.legend);
    if (onmove) {
      this.plot.classList.add("movable");
      this.plot.addEventListener("pointerdown", (event) => this.#grab(event));
    }
    this.width = 0;
    this.hatch = `hatch-${(serial += 1)}`;
    new ResizeObserver(([entry]) => {
      const width = Math.round(entry.contentRect.width);
      if (width && width !== this.width) {
        this.width = width;
        this.#draw();
      }
    }).observe(this.plot);
  }

  /** New data, with the threshold and the one in the model; the scale stays while the threshold is being dragged. */
  update({ calibration, scores, threshold, review = null, saved = NaN, n = calibration.length }) {
    this.review = review;
    this.saved = saved;
    this.calibration = calibration;
    // How many scores the calibration has; of many it may hold quantiles only.
    this.calibrated = n;
    this.scores = scores;
    this.threshold = threshold;
    this.#draw();
  }

  /** Only the threshold moved. */
  move(threshold, review) {
    this.threshold = threshold;
    this.review = review;
    if (!this.scale) return;
    this.#colour();
    this.#place();
  }

  #draw() {
    const drawable = Number.isFinite(this.threshold);
    show(this.line, drawable);
    if (this.grip) show(this.grip, drawable);
    if (!drawable) put(this.chart);
    if (!this.width || !drawable) return;
    const { width } = this;
    if (!this.dragging || !this.scale) {
      this.scale = scoreScale(this.calibration, this.scores, this.threshold);
    }
    // It keeps its place, so that nothing below moves.
    this.compressed.classList.toggle("unseen", !this.scale.compressed);
    const n = Math.max(16, Math.min(72, Math.floor(width / 7)));
    const normal = this.#shares(this.calibration, n);
    this.shares = this.#shares(this.scores, n);
    const highest = Math.max(...normal, ...this.shares, 1e-9);
    const y = (share) => BASE - (BASE - TOP) * (share / highest);
    const step = width / n;
    const outline = normal.map((share, i) => `H${(i * step).toFixed(1)}V${y(share).toFixed(1)}H${((i + 1) * step).toFixed(1)}`).join("");
    this.bars = this.shares.map((share, i) => {
      if (share === 0) return null;
      const height = Math.max(2, BASE - y(share));
      return svg("rect", {
        x: (i * step + 1).toFixed(1), width: Math.max(1, step - 2).toFixed(1),
        y: (BASE - height).toFixed(1), height: height.toFixed(1),
      });
    });
    this.chart.setAttribute("aria-label", this.#summary());
    put(this.chart,
      svg("defs", {},
        svg("pattern", { id: this.hatch, width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
          svg("rect", { class: "hatch-ground", width: 5, height: 5 }),
          svg("rect", { class: "hatch-stripe", width: 1.6, height: 5 }))),
      this.calibration.length ? svg("path", { class: "calibration", d: `M0 ${BASE}${outline}V${BASE}Z` }) : null,
      svg("g", {}, this.bars.filter(Boolean)),
      svg("path", { class: "axis", d: `M0 ${BASE + 0.5}H${width}` }),
      ticks(this.scale, 44 / width).map(([value, place]) => svg("g", { transform: `translate(${(place * width).toFixed(1)} 0)` },
        svg("path", { class: "axis", d: `M0 ${BASE}v5` }),
        svg("text", { class: "tick", y: HEIGHT - 4, "text-anchor": "middle" }, tickText(value)))));
    this.chart.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.chart.setAttribute("width", width);
    this.#colour();
    this.#place();
  }

  /** What the chart shows, in a sentence for those who don't see it. */
  #summary() {
    const above = this.scores.filter((score) => score > this.threshold).length;
    return t("histogram.summary", { label: this.label, n: this.scores.length, above, threshold: format.score(this.threshold), calibrated: this.calibrated });
  }

  #shares(values, n) {
    const shares = new Array(n).fill(0);
    for (const value of values) {
      const bin = Math.floor(this.scale.place(value) * n);
      shares[Math.max(0, Math.min(n - 1, bin))] += 1 / values.length;
    }
    return shares;
  }

  #colour() {
    const place = this.scale.place(this.threshold);
    const begin = this.review === null ? place : this.scale.place(this.review);
    const n = this.bars.length;
    this.bars.forEach((bar, i) => {
      if (!bar) return;
      const above = (i + 0.5) / n > place;
      bar.setAttribute("class", `column ${above ? "anomalous" : (i + 0.5) / n > begin ? "review" : "good"}`);
      if (above) bar.setAttribute("fill", `url(#${this.hatch})`);
      else bar.removeAttribute("fill");
    });
  }

  #place() {
    const place = Math.max(0, Math.min(1, this.scale.place(this.threshold)));
    const x = `translateX(${(place * this.width).toFixed(2)}px)`;
    this.line.style.transform = x;
    show(this.reviewed, this.review !== null);
    show(this.begin, this.review !== null);
    if (this.review !== null) {
      const begin = Math.max(0, Math.min(1, this.scale.place(this.review)));
      this.begin.style.transform = `translateX(${(begin * this.width).toFixed(2)}px)`;
    }
    if (!this.grip) return;
    this.grip.style.transform = x;
    this.grip.setAttribute("aria-valuemin", String(this.scale.low));
    this.grip.setAttribute("aria-valuemax", String(this.scale.high));
    this.grip.setAttribute("aria-valuenow", String(this.threshold));
    this.grip.setAttribute("aria-valuetext", this.inWords(this.threshold));
  }

  #grab(event) {
    if (event.button !== 0 || !this.scale) return;
    event.preventDefault();
    this.grip.focus({ preventScroll: true });
    this.plot.setPointerCapture(event.pointerId);
    this.dragging = true;
    this.plot.classList.add("dragging");
    const follow = (moved) => {
      const box = this.plot.getBoundingClientRect();
      this.#moveTo((moved.clientX - box.left) / box.width);
    };
    const release = () => {
      this.dragging = false;
      this.plot.classList.remove("dragging");
      this.plot.removeEventListener("pointermove", follow);
      this.plot.removeEventListener("pointerup", release);
      this.plot.removeEventListener("pointercancel", release);
    };
    this.plot.addEventListener("pointermove", follow);
    this.plot.addEventListener("pointerup", release);
    this.plot.addEventListener("pointercancel", release);
    follow(event);
  }

  #key(event) {
    const place = this.scale.place(this.threshold);
    const steps = { ArrowLeft: -0.005, ArrowDown: -0.005, ArrowRight: 0.005, ArrowUp: 0.005, PageDown: -0.05, PageUp: 0.05 };
    if (event.key in steps) this.#moveTo(place + steps[event.key] * (event.shiftKey ? 4 : 1));
    else if (event.key === "Home") this.#moveTo(0);
    else if (event.key === "End") this.#moveTo(1);
    else return;
    event.preventDefault();
  }

  #moveTo(place) {
    const inside = Math.max(0, Math.min(1, place));
    // Back where it was saved means exactly there, not nearly.
    const back = Math.abs(inside - this.scale.place(this.saved)) < 0.002;
    // At once: the next key may come before the page has been drawn, and goes on from here.
    this.threshold = back ? this.saved : this.scale.value(inside);
    this.onmove(this.threshold);
  }
}

function tickText(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${format.significant(value / 1e6, 3)} M`;
  if (size >= 1e4) return `${format.significant(value / 1e3, 3)} k`;
  return format.significant(value, 4);
}
