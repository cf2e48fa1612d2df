// The threshold: by its value, by a false-alarm rate, and with a band of parts to review.

import * as api from "./api.js";
import { caveat } from "./caveat.js";
import { h, put, say, show } from "./dom.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { failed, message } from "./messages.js";
import { state } from "./state.js";
import { expectedRates } from "./statistics.js";

export class ThresholdPanel {
  /** @param {() => void} onmove after a choice; nothing is saved yet */
  constructor(onmove) {
    this.onmove = onmove;
    this.threshold = NaN;
    /** The false-alarm rate that gives the threshold, or null. */
    this.asked = null;
    /** Where the review band begins, or null. */
    this.review = null;
    this.element = h("div", { class: "threshold" });
    this.#build();
  }

  get dirty() {
    const { calibration } = state;
    return calibration !== null && (this.threshold !== calibration.threshold
      || this.asked !== calibration.false_alarm_rate || this.review !== calibration.review_threshold);
  }

  /** The decision of the model as it is saved. */
  reset() {
    const { calibration } = state;
    this.threshold = calibration?.threshold ?? NaN;
    this.asked = calibration?.false_alarm_rate ?? null;
    this.review = calibration?.review_threshold ?? null;
    this.#rows();
  }

  move(threshold, asked = null) {
    const { calibration } = state;
    this.threshold = threshold;
    // Back where it was saved, it is of the saved rate again.
    this.asked = asked ?? (threshold === calibration?.threshold ? calibration.false_alarm_rate : null);
    this.onmove();
  }

  #build() {
    const number = (id, take) => {
      const field = h("input", {
        class: "field", id, type: "number", step: "any",
        oninput: () => { field.typing = true; },
        onblur: () => { field.typing = false; this.update(); },
        onchange: () => {
          field.typing = false;
          const value = field.valueAsNumber;
          if (Number.isFinite(value)) take(value);
          else this.update();
        },
      });
      return field;
    };
    this.field = number("threshold-value", (value) => this.move(value));
    this.rate = h("strong", { class: "rate" });
    this.rateWords = h("span", { class: "small muted" });
    this.parts = h("p", { class: "small muted rate-parts" });
    this.body = h("tbody");
    this.table = h("table", { class: "rates small" },
      h("caption", { class: "label" }, t("threshold.by_rate")),
      this.body);
    this.band = h("input", { type: "checkbox", onchange: () => { this.review = this.band.checked ? this.#begin() : null; this.onmove(); } });
    this.begin = number("review-value", (value) => { this.review = value; this.onmove(); });
    this.bandRow = h("div", { class: "band-row" }, h("label", { for: "review-value", class: "small muted" }, t("threshold.band_begin")), this.begin);
    this.bandNote = h("p", { class: "small muted" });
    this.save = h("button", { class: "button primary", type: "button", onclick: () => this.#save() }, t("threshold.save"));
    this.undo = h("button", { class: "button", type: "button", onclick: () => { this.reset(); this.onmove(); } }, t("threshold.undo"));
    this.saveNote = h("p", { class: "small muted note", role: "status" });
    put(this.element,
      h("div", { class: "threshold-row" },
        h("div", {}, h("label", { for: "threshold-value", class: "small muted" }, t("threshold.label")), this.field),
        h("div", {}, h("p", { class: "small muted" }, t("threshold.expected")), h("p", { class: "rate-line" }, this.rate, " ", this.rateWords))),
      this.parts, this.table,
      h("div", { class: "band" }, h("label", { class: "check small" }, this.band, t("threshold.band")), this.bandRow, this.bandNote),
      h("div", { class: "buttons" }, this.save, this.undo),
      this.saveNote);
  }

  /** Where a new band begins: at the largest shown rate, if that is below the threshold. */
  #begin() {
    const { thresholds, scores } = state.calibration;
    const begin = thresholds.at(-1).threshold;
    return begin < this.threshold ? begin : Math.min(scores[Math.floor(scores.length / 2)], this.threshold - 1e-3 * Math.max(1, Math.abs(this.threshold)));
  }

  #rows() {
    const rows = state.calibration?.thresholds ?? [];
    show(this.table, rows.length > 0);
    this.rates = rows.map((row) => ({ row, button: h("button", {
      class: "button quiet", type: "button", onclick: () => this.move(row.threshold, row.false_alarm_rate),
      "aria-label": t("threshold.rate", { rate: format.share(row.false_alarm_rate), threshold: format.score(row.threshold) }),
      title: row.attainable ? null : t("threshold.it_takes", { n: Math.round(1 / row.false_alarm_rate) - 1 }),
    }, `${format.share(row.false_alarm_rate)}${row.attainable ? "" : "*"}`) }));
    const line = (head, cell) => h("tr", {}, h("th", { scope: "row" }, head), this.rates.map((rate) => h("td", {}, cell(rate))));
    put(this.body,
      line(t("threshold.asked_row"), ({ button }) => button),
      line(t("threshold.threshold_row"), ({ row }) => format.score(row.threshold)),
      line(t("threshold.expected_row"), ({ row }) => format.share(row.expected_false_alarm_rate)));
    if (rows.some((row) => !row.attainable)) {
      this.body.append(h("tr", {}, h("td", { colspan: String(rows.length + 1), class: "muted remark" }, t("threshold.too_few"))));
    }
  }

  update() {
    const { calibration } = state;
    const ready = calibration !== null && Number.isFinite(this.threshold);
    for (const control of [this.field, this.save, this.undo, this.band, this.begin]) control.disabled = !ready;
    show(this.bandRow, ready && this.review !== null);
    if (!ready) {
      say(this.rate, "–");
      for (const text of [this.rateWords, this.parts, this.bandNote, this.saveNote]) say(text, "");
      return;
    }
    this.#write(this.field, this.threshold);
    this.band.checked = this.review !== null;
    if (this.review !== null) this.#write(this.begin, this.review);
    const expected = expectedRates(calibration, this.threshold);
    say(this.rate, expected === null ? t("threshold.unknown") : `${expected.floor ? "≤ " : ""}${format.share(expected.rate)}`);
    say(this.rateWords, expected === null ? t("threshold.no_calibration") : t(expected.floor ? "threshold.at_most" : "threshold.about", { n: Math.round(1 / expected.rate) }));
    say(this.parts, expected?.odd
      ? t("threshold.parts", { others: format.share(expected.others), odd: format.share(expected.odd) }) : "");
    for (const { row, button } of this.rates) button.setAttribute("aria-pressed", String(row.false_alarm_rate === this.asked));
    const wrong = this.review !== null && !(this.review < this.threshold);
    this.begin.setAttribute("aria-invalid", String(wrong));
    say(this.bandNote, this.review === null ? t("threshold.band_off")
      : wrong ? t("threshold.band_wrong")
      : t("threshold.band_on"));
    this.save.disabled = !this.dirty || this.saving || wrong;
    this.undo.disabled = !this.dirty || this.saving;
    say(this.saveNote, this.dirty
      ? t("threshold.not_saved", { model: state.model.name, threshold: format.score(calibration.threshold) })
      : caveat(calibration, calibration.caveat) ?? t("threshold.decides", { model: state.model.name }));
  }

  /** Nothing that happens meanwhile writes over what somebody is typing. */
  #write(field, value) {
    if (field.typing || (document.activeElement === field && field.valueAsNumber === value)) return;
    field.value = String(Number(value.toPrecision(6)));
  }

  async #save() {
    const { calibration } = state;
    this.saving = true;
    this.update();
    try {
      const decided = this.threshold === calibration.threshold && this.asked === calibration.false_alarm_rate ? {}
        : this.asked === null ? { threshold: this.threshold } : { false_alarm_rate: this.asked };
      const band = this.review === null ? { no_review: true } : { review_threshold: this.review };
      state.saved(await api.setThreshold(state.model.name, { ...decided, ...band, sha256: calibration.sha256 }));
      message(t("threshold.saved", { model: state.model.name }));
    } catch (error) {
      failed(error);
      if (error.code === "conflict") await state.load().catch(failed);
    } finally {
      this.saving = false;
      this.onmove();
    }
  }
}
