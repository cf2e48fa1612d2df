// The bar over the results: which are shown and in what order, and images to add with their progress.

import { isWrong } from "./card.js";
import { h, icon, put, say, show } from "./dom.js";
import { fromInput } from "./files.js";
import * as format from "./format.js";
import { locale, t } from "./language.js";
import { failed } from "./messages.js";
import { pickSamples } from "./samples.js";

const FILTERS = {
  all: { label: t("inspect.all"), keep: () => true },
  anomalous: { label: t("decision.anomalous"), keep: (kind) => kind === "anomalous" },
  review: { label: t("decision.review"), keep: (kind) => kind === "review" },
  good: { label: t("decision.good"), keep: (kind) => kind === "good" },
  wrong: { label: t("inspect.wrong"), keep: (kind, result) => isWrong(result, kind) },
  error: { label: t("decision.error"), keep: (kind) => kind === "error" },
};
// An image that shows nothing of a part is worse than any score.
const badness = ({ reason, score }) => (reason ? Infinity : score ?? -Infinity);
const worstFirst = (a, b) => badness(b) - badness(a) || compareIds(a, b);
const ORDERS = {
  worst: { label: t("inspect.worst"), compare: worstFirst },
  newest: { label: t("inspect.newest"), compare: (a, b) => compareIds(b, a) },
  name: { label: t("inspect.by_name"), compare: (a, b) => a.name.localeCompare(b.name, locale, { numeric: true }) || compareIds(a, b) },
};

export class ResultsBar {
  /**
   * @param {object} options
   * @param {() => void} options.onarrange after another choice or order
   * @param {() => void} options.onlook after the heat map or the boxes were shown or hidden
   * @param {(files: object[]) => void} options.onfiles gets images to inspect: `{file, name}`
   * @param {() => void} options.onbatch to begin a new batch
   * @param {() => void} options.onstop to stop the upload
   */
  constructor(options) {
    Object.assign(this, options);
    this.filter = "all";
    this.order = "worst";
    this.heat = true;
    this.boxes = true;
    this.#build();
    this.progress(null);
  }

  /** The results to show, `[result, kind]`, in order. */
  arrange(results) {
    const { keep } = FILTERS[this.filter];
    return results.filter(([result, kind]) => keep(kind, result)).map(([result]) => result).sort(ORDERS[this.order].compare);
  }

  setFilter(name) {
    if (this.filter === name) return;
    this.filter = name;
    for (const filter of this.filters) filter.button.setAttribute("aria-pressed", String(filter.name === name));
    this.onarrange();
  }

  /** @param {boolean} band whether parts to review are a kind of their own */
  count(counts, band) {
    for (const { name, number, button } of this.filters) {
      say(number, format.count(counts[name]));
      if (name === "error") show(button, counts.error > 0);
      if (name === "review") show(button, band);
    }
  }

  /** Offers results that wait, or nothing. */
  offerNew(n) {
    show(this.offer, n > 0);
    if (n > 0) say(this.offer, t("inspect.show_new", { n }));
  }

  /** Ways to add images stand here once there are results, and else on the empty stage. */
  stage({ bare, empty, model }) {
    show(this.element, model);
    show(this.again, !bare);
    show(this.adders, !empty);
  }

  progress(upload, ended = null) {
    show(this.bar, upload !== null);
    show(this.stopper, upload !== null);
    if (upload) {
      const seconds = (performance.now() - upload.started) / 1000;
      const progress = t(upload.waiting ? "inspect.busy" : "inspect.progress", { done: upload.done, n: upload.total });
      const timed = upload.done > 8 && seconds > 1 && !upload.waiting;
      say(this.words, timed ? t("inspect.speed", { progress, speed: Math.max(1, Math.round(upload.done / seconds)) }) : progress);
      this.bar.max = upload.total;
      this.bar.value = upload.done;
    } else if (ended) {
      say(this.words, ended.stopped ? t("inspect.stopped", { done: ended.done, n: ended.total }) : t("inspect.done", { n: ended.done }));
    } else {
      say(this.words, "");
    }
  }

  chooseImages() {
    this.images.click();
  }

  chooseFolder() {
    this.folder.click();
  }

  async chooseSamples() {
    try {
      const files = await pickSamples();
      if (files.length) await this.onfiles(files);
    } catch (error) {
      failed(error);
    }
  }

  #build() {
    this.filters = Object.entries(FILTERS).map(([name, { label }]) => {
      const number = h("span", { class: "number" }, "0");
      const button = h("button", {
        type: "button", "aria-pressed": String(name === this.filter), onclick: () => this.setFilter(name),
      }, label, " ", number);
      return { name, number, button };
    });
    const order = h("select", { "aria-label": t("inspect.order"), onchange: () => { this.order = order.value; this.onarrange(); } },
      Object.entries(ORDERS).map(([name, { label }]) => h("option", { value: name }, label)));
    const toggle = (what, label) => {
      const button = h("button", { class: "button quiet", type: "button", "aria-pressed": "true", onclick: () => {
        this[what] = !this[what];
        button.setAttribute("aria-pressed", String(this[what]));
        this.onlook();
      } }, label);
      return button;
    };
    this.images = h("input", { type: "file", multiple: true, accept: "image/*", hidden: true, onchange: () => this.onfiles(fromInput(this.images)) });
    this.folder = h("input", { type: "file", webkitdirectory: true, hidden: true, onchange: () => this.onfiles(fromInput(this.folder)) });
    this.again = h("button", { class: "button quiet", type: "button", onclick: () => this.onbatch() }, t("inspect.new_batch"));
    this.adders = h("div", { class: "adders" },
      this.images, this.folder, this.again,
      h("button", { class: "button", type: "button", onclick: () => this.chooseFolder() }, t("inspect.folder")),
      h("button", { class: "button", type: "button", onclick: () => this.chooseSamples() }, t("inspect.samples")),
      h("button", { class: "button primary", type: "button", onclick: () => this.chooseImages() }, icon("plus"), t("inspect.images")));
    const row = h("div", { class: "toolbar-row" },
      h("div", { class: "segments", role: "group", "aria-label": t("inspect.filter") }, this.filters.map(({ button }) => button)),
      h("div", { class: "looks" }, order, toggle("heat", t("inspect.heat")), toggle("boxes", t("inspect.boxes"))));
    this.bar = h("progress", { "aria-label": t("inspect.inspected"), max: "1", value: "0" });
    this.words = h("p", { class: "small", role: "status" });
    this.stopper = h("button", { class: "button quiet", type: "button", onclick: () => this.onstop() }, t("inspect.stop"));
    this.offer = h("button", { class: "button quiet offer", type: "button", hidden: true, onclick: () => { this.onarrange(); window.scrollTo({ top: 0 }); } });
    this.element = put(document.getElementById("inspect-toolbar"), row,
      h("div", { class: "strip" }, this.words, this.stopper, this.offer, this.adders, this.bar));
  }
}

function compareIds(a, b) {
  if (typeof a.id === "number" && typeof b.id === "number") return a.id - b.id;
  return String(a.id).localeCompare(String(b.id), locale, { numeric: true });
}
