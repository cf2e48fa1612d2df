// The decision over the shown results: counts, histogram, threshold, and what the model was made of.

import { h, icon, put, say, show } from "./dom.js";
import * as format from "./format.js";
import { Histogram } from "./histogram.js";
import { t } from "./language.js";
import { OddImages } from "./odd.js";
import { state } from "./state.js";
import { expectedRates } from "./statistics.js";
import { ThresholdPanel } from "./threshold.js";
import { VersionsPanel } from "./versions.js";

const KINDS = ["anomalous", "review", "good"];

export class DecisionSide {
  /**
   * @param {() => object} counts the number of results of each kind
   * @param {() => void} onmove after the threshold was moved, once in a frame; nothing is saved yet
   */
  constructor(counts, onmove) {
    this.counts = counts;
    this.onmove = onmove;
    this.panel = new ThresholdPanel(() => this.#moved());
    this.odd = new OddImages(() => { location.hash = "#/train"; });
    this.versions = new VersionsPanel();
    this.#build();
  }

  get threshold() {
    return this.panel.threshold;
  }

  get review() {
    return this.panel.review;
  }

  get ready() {
    return state.calibration !== null && Number.isFinite(this.threshold);
  }

  /** Whether there is a band of parts to review, or a result in one. */
  hasBand(counts) {
    return this.review !== null || counts.review > 0;
  }

  /** The decision of the chosen model as it is saved. */
  load() {
    this.panel.reset();
    this.odd.load(state.model?.n_odd || state.calibration?.keep_odd ? state.model.name : null);
    this.versions.load(state.model?.name ?? null);
  }

  /** After results came, changed or went. */
  update(scores) {
    const { threshold, review } = this;
    this.histogram.update({ calibration: state.calibration?.scores ?? [], scores, threshold, review, saved: state.calibration?.threshold });
    this.#tell();
  }

  #build() {
    const counted = (kind, word) => {
      const value = h("strong", {}, "0");
      const share = h("span", { class: "muted small" });
      return { kind, value, share, element: h("div", { class: `count ${kind}` }, h("p", { class: "count-name" }, icon(kind), word), h("p", { class: "count-value" }, value, share)) };
    };
    this.counters = KINDS.map((kind) => counted(kind, t(`decision.${kind}`)));
    put(document.getElementById("inspect-counts"), this.counters.map(({ element }) => element));
    const summary = document.getElementById("inspect-summary");
    this.brief = KINDS.map((kind) => {
      const words = h("span", {});
      return { kind, words, element: h("span", { class: `verdict ${kind}` }, icon(kind), words) };
    });
    this.briefThreshold = h("span", { class: "small" });
    put(summary, this.brief.map(({ element }) => element), this.briefThreshold, icon("right", "icon turn"));
    summary.addEventListener("click", () => summary.setAttribute("aria-expanded", String(summary.getAttribute("aria-expanded") === "false")));
    this.histogram = new Histogram({
      label: t("inspect.histogram"),
      onmove: (threshold) => this.panel.move(threshold),
      inWords: (threshold) => this.#inWords(threshold),
    });
    put(document.getElementById("inspect-histogram"), h("h2", { class: "panel-title" }, t("inspect.scores")), this.histogram.element);
    put(document.getElementById("inspect-threshold"), this.panel.element);
    put(document.getElementById("inspect-odd"), this.odd.element);
    put(document.getElementById("inspect-versions"), this.versions.element);
  }

  #moved() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.histogram.move(this.threshold, this.review);
      this.#tell();
      this.onmove();
    });
  }

  #tell() {
    const counts = this.counts();
    const total = counts.anomalous + counts.review + counts.good;
    const band = this.hasBand(counts);
    for (const { kind, value, share, element } of this.counters) {
      say(value, format.count(counts[kind]));
      say(share, total ? format.percent(counts[kind] / total) : "");
      if (kind === "review") show(element, band);
    }
    for (const { kind, words, element } of this.brief) {
      say(words, t(`inspect.n_${kind}`, { n: counts[kind] }));
      if (kind === "review") show(element, band);
    }
    say(this.briefThreshold, this.ready
      ? t(this.panel.dirty ? "inspect.above_unsaved" : "inspect.above", { threshold: format.score(this.threshold) }) : t("inspect.without_model"));
    this.panel.update();
  }

  #inWords(threshold) {
    const expected = state.calibration && expectedRates(state.calibration, threshold);
    const { anomalous, good } = this.counts();
    const words = t("inspect.in_words", { threshold: format.score(threshold), anomalous, good });
    return expected ? t("inspect.in_words_expected", { words, rate: format.share(expected.rate) }) : words;
  }
}
