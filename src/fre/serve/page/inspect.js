// Drop images, see them worst first, move the threshold.

import * as api from "./api.js";
import { decision, isWrong, makeCard } from "./card.js";
import { h, icon, put, say, show } from "./dom.js";
import { events } from "./events.js";
import { fromInput } from "./files.js";
import * as format from "./format.js";
import { Grid } from "./grid.js";
import { Histogram } from "./histogram.js";
import { onVerdictKey } from "./judging.js";
import { locale, t } from "./language.js";
import { announce, failed, message } from "./messages.js";
import { OddImages } from "./odd.js";
import { pickSamples } from "./samples.js";
import { state } from "./state.js";
import { expectedRates } from "./statistics.js";
import { ThresholdPanel } from "./threshold.js";
import { Upload } from "./upload.js";
import { VersionsPanel } from "./versions.js";

const MOST = 2000;
const CLEARED_KEY = "fre.batch-since";

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

export class Inspect {
  constructor(viewer, judge) {
    this.viewer = viewer;
    this.results = new Map();
    this.panel = new ThresholdPanel(() => this.#moved());
    this.odd = new OddImages(() => { location.hash = "#/train"; });
    this.versions = new VersionsPanel();
    this.filter = "all";
    this.order = "worst";
    this.heat = true;
    this.boxes = true;
    this.localErrors = 0;
    this.loading = null;
    this.stage = document.getElementById("inspect-stage");
    this.grid = new Grid({
      label: t("inspect.results"),
      card: (item) => makeCard(item, () => ({ threshold: this.panel.threshold, review: this.panel.review, heat: this.heat, boxes: this.boxes, time: false })),
      onopen: (item) => this.#open(item),
      onkey: onVerdictKey(judge),
    });
    this.#buildDecision();
    this.#buildToolbar();
    this.#buildStage();
    state.addEventListener("model", () => this.load());
    state.addEventListener("calibration", () => this.#calibrated());
    events.addEventListener("result", ({ detail }) => {
      if (detail.source === "page" && this.#current(detail)) this.#add([detail]);
    });
    events.addEventListener("verdict", ({ detail }) => this.changed(detail));
  }

  /** Results of the chosen model, from the service. */
  async load() {
    this.loading?.abort();
    this.upload?.stop();
    this.results.clear();
    this.localErrors = 0;
    this.held = 0;
    this.failure = null;
    this.#calibrated();
    if (!state.model) {
      this.#update();
      return;
    }
    const loading = new AbortController();
    this.loading = loading;
    this.#update();
    try {
      await api.allResults({ model: state.model.name, source: "page", since: this.since }, {
        most: MOST,
        signal: loading.signal,
        onpage: (results) => {
          if (this.loading !== loading) return;
          for (const result of results) this.results.set(result.id, result);
          this.#update();
        },
      });
    } catch (error) {
      if (error.name === "AbortError") return;
      this.failure = error.message;
    }
    if (this.loading === loading) this.loading = null;
    this.#update();
  }

  /** The service did not answer at the start; it is asked again. */
  unreachable(reason) {
    this.failure = reason;
    this.#update();
  }

  /** Scores of images by this model, but not those by another of the same name. */
  get since() {
    const cleared = localStorage.getItem(`${CLEARED_KEY}.${state.model.name}`);
    const fitted = state.model.created;
    return cleared && (!fitted || new Date(cleared) > new Date(fitted)) ? cleared : fitted;
  }

  /** A result has another verdict now. */
  changed(result) {
    if (!this.results.has(result.id)) return;
    this.results.set(result.id, result);
    this.viewer.refresh(result);
    this.#update();
  }

  /** Images to inspect: `{file, name}`. */
  async inspect(files) {
    if (files.length === 0) return;
    try {
      // Images may be dropped before the service has said what models it has.
      if (!state.model) await state.load();
    } catch (error) {
      failed(error);
      return;
    }
    if (!state.model) {
      message(t("inspect.no_model"), { kind: "error", action: { label: t("view.train"), run: () => { location.hash = "#/train"; } } });
      return;
    }
    if (this.upload) {
      message(t("inspect.wait"), { kind: "error" });
      return;
    }
    if (this.filter !== "all") this.#setFilter("all");
    const upload = new Upload(state.model.name, files, state.service.limits);
    this.upload = upload;
    this.started = performance.now();
    this.offer.hidden = true;
    const target = state.model;
    upload.addEventListener("items", ({ detail }) => {
      if (state.model?.name !== target.name) return;
      this.#add(detail.map((item) => (item.error
        ? { ...item, id: `error-${(this.localErrors += 1)}` }
        : { verdict: null, kept: true, source: "page", model: target.name, ...item })));
    });
    upload.addEventListener("progress", () => this.#progress());
    this.#update();
    await upload.run();
    this.upload = null;
    this.#release();
    const errors = [...this.results.values()].filter((result) => result.error).length;
    const inspected = t("inspect.announce", { n: upload.done, anomalous: this.counts.anomalous });
    announce(errors ? t("inspect.announce_errors", { inspected, errors }) : inspected);
    this.#progress(upload);
  }

  #current(result) {
    return result.model === state.model?.name && (!this.since || new Date(result.created) >= new Date(this.since));
  }

  #add(items) {
    for (const item of items) {
      const known = this.results.get(item.id);
      this.results.set(item.id, known ? { ...item, verdict: known.verdict } : item);
      if (!known) this.held = (this.held ?? 0) + 1;
    }
    this.#later();
  }

  /** New results come into the grid at most three times a second. */
  #later() {
    if (this.timer) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.#update();
    }, 330);
  }

  #release() {
    clearTimeout(this.timer);
    this.timer = null;
    this.#update();
  }

  // The decision ------------------------------------------------------------------------------

  #buildDecision() {
    const counted = (kind, word) => {
      const value = h("strong", {}, "0");
      const share = h("span", { class: "muted small" });
      return { kind, value, share, element: h("div", { class: `count ${kind}` }, h("p", { class: "count-name" }, icon(kind), word), h("p", { class: "count-value" }, value, share)) };
    };
    this.counters = ["anomalous", "review", "good"].map((kind) => counted(kind, t(`decision.${kind}`)));
    put(document.getElementById("inspect-counts"), this.counters.map(({ element }) => element));
    const summary = document.getElementById("inspect-summary");
    this.brief = ["anomalous", "review", "good"].map((kind) => {
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

  #calibrated() {
    this.panel.reset();
    this.odd.load(state.model?.n_odd || state.calibration?.keep_odd ? state.model.name : null);
    this.versions.load(state.model?.name ?? null);
    this.#update();
  }

  #moved() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      this.histogram.move(this.panel.threshold, this.panel.review);
      this.#decided();
      this.#toolbarCounts();
      if (this.filter === "all") this.grid.refresh();
      else this.#arrange();
    });
  }

  #decided() {
    const { counts } = this;
    const total = counts.anomalous + counts.review + counts.good;
    const band = this.#hasBand(counts);
    for (const { kind, value, share, element } of this.counters) {
      say(value, format.count(counts[kind]));
      say(share, total ? format.percent(counts[kind] / total) : "");
      if (kind === "review") show(element, band);
    }
    for (const { kind, words, element } of this.brief) {
      say(words, t(`inspect.n_${kind}`, { n: counts[kind] }));
      if (kind === "review") show(element, band);
    }
    const ready = state.calibration !== null && Number.isFinite(this.panel.threshold);
    say(this.briefThreshold, ready
      ? t(this.panel.dirty ? "inspect.above_unsaved" : "inspect.above", { threshold: format.score(this.panel.threshold) }) : t("inspect.without_model"));
    this.panel.update();
    if (ready) this.viewer.refresh();
  }

  #hasBand(counts) {
    return this.panel.review !== null || counts.review > 0;
  }

  #inWords(threshold) {
    const expected = state.calibration && expectedRates(state.calibration, threshold);
    const { anomalous, good } = this.counts;
    const words = t("inspect.in_words", { threshold: format.score(threshold), anomalous, good });
    return expected ? t("inspect.in_words_expected", { words, rate: format.share(expected.rate) }) : words;
  }

  // The results -------------------------------------------------------------------------------

  #buildToolbar() {
    this.filters = Object.entries(FILTERS).map(([name, { label }]) => {
      const number = h("span", { class: "number" }, "0");
      const button = h("button", {
        type: "button", "aria-pressed": String(name === this.filter), onclick: () => this.#setFilter(name),
      }, label, " ", number);
      return { name, number, button };
    });
    const order = h("select", { "aria-label": t("inspect.order"), onchange: () => { this.order = order.value; this.#arrange(); } },
      Object.entries(ORDERS).map(([name, { label }]) => h("option", { value: name }, label)));
    const toggle = (what, label) => {
      const button = h("button", { class: "button quiet", type: "button", "aria-pressed": "true", onclick: () => {
        this[what] = !this[what];
        button.setAttribute("aria-pressed", String(this[what]));
        this.grid.refresh();
      } }, label);
      return button;
    };
    this.images = h("input", { type: "file", multiple: true, accept: "image/*", hidden: true, onchange: () => this.inspect(fromInput(this.images)) });
    this.folder = h("input", { type: "file", webkitdirectory: true, hidden: true, onchange: () => this.inspect(fromInput(this.folder)) });
    this.again = h("button", { class: "button quiet", type: "button", onclick: () => this.#newBatch() }, t("inspect.new_batch"));
    this.adders = h("div", { class: "adders" },
      this.images, this.folder, this.again,
      h("button", { class: "button", type: "button", onclick: () => this.folder.click() }, t("inspect.folder")),
      h("button", { class: "button", type: "button", onclick: () => this.#samples() }, t("inspect.samples")),
      h("button", { class: "button primary", type: "button", onclick: () => this.images.click() }, icon("plus"), t("inspect.images")));
    this.toolbar = h("div", { class: "toolbar-row" },
      h("div", { class: "segments", role: "group", "aria-label": t("inspect.filter") }, this.filters.map(({ button }) => button)),
      h("div", { class: "looks" }, order, toggle("heat", t("inspect.heat")), toggle("boxes", t("inspect.boxes"))));
    this.bar = h("progress", { "aria-label": t("inspect.inspected"), max: "1", value: "0" });
    this.words = h("p", { class: "small", role: "status" });
    this.stopper = h("button", { class: "button quiet", type: "button", onclick: () => this.upload?.stop() }, t("inspect.stop"));
    this.offer = h("button", { class: "button quiet offer", type: "button", hidden: true, onclick: () => { this.held = 0; this.#arrange(); window.scrollTo({ top: 0 }); } });
    put(document.getElementById("inspect-toolbar"), this.toolbar,
      h("div", { class: "strip" }, this.words, this.stopper, this.offer, this.adders, this.bar));
    this.#progress();
  }

  #buildStage() {
    this.empty = h("div", { class: "empty" });
    this.waiting = h("div", { class: "skeleton", "aria-label": t("inspect.loading_results"), role: "status" },
      Array.from({ length: 12 }, () => h("div", { class: "ghost" })));
    put(this.stage, this.waiting, this.empty, this.grid.element);
  }

  #setFilter(name) {
    this.filter = name;
    for (const filter of this.filters) filter.button.setAttribute("aria-pressed", String(filter.name === name));
    this.#arrange();
  }

  #kind(result) {
    return decision(result, this.panel.threshold, this.panel.review);
  }

  get counts() {
    const counts = { all: 0, anomalous: 0, review: 0, good: 0, wrong: 0, error: 0 };
    for (const result of this.results.values()) {
      const kind = this.#kind(result);
      counts.all += 1;
      counts[kind] += 1;
      if (isWrong(result, kind)) counts.wrong += 1;
    }
    return counts;
  }

  #toolbarCounts() {
    const { counts } = this;
    for (const { name, number, button } of this.filters) {
      say(number, format.count(counts[name]));
      if (name === "error") show(button, counts.error > 0);
      if (name === "review") show(button, this.#hasBand(counts));
    }
  }

  /** After results came, changed or went. */
  #update() {
    const calibration = state.calibration?.scores ?? [];
    const scores = [...this.results.values()].filter((result) => !result.error && result.score !== null).map(({ score }) => score);
    this.histogram.update({ calibration, scores, threshold: this.panel.threshold, review: this.panel.review, saved: state.calibration?.threshold });
    this.#decided();
    this.#toolbarCounts();
    this.#stages();
    // Nobody's card moves away from under the pointer or the focus while results stream in.
    const hold = this.upload && this.grid.items.length > 0 && this.grid.busy;
    show(this.offer, Boolean(hold && this.held));
    if (hold) {
      say(this.offer, t("inspect.show_new", { n: this.held }));
      // Where they are, but as they are now: somebody may have marked one.
      this.grid.update(this.grid.items.map(({ id }) => this.results.get(id)));
    } else {
      this.held = 0;
      this.#arrange();
    }
  }

  #arrange() {
    const { keep } = FILTERS[this.filter];
    const items = [...this.results.values()]
      .filter((result) => keep(this.#kind(result), result))
      .sort(ORDERS[this.order].compare);
    this.grid.update(items);
    this.grid.refresh();
    show(this.nothing, items.length === 0 && this.results.size > 0);
    show(this.offer, false);
  }

  #stages() {
    const bare = this.results.size === 0;
    show(this.waiting, bare && (this.loading !== null || (this.upload ?? null) !== null));
    show(this.empty, bare && this.loading === null && !this.upload);
    show(this.grid.element, !bare);
    show(this.toolbar.parentElement, state.model !== null);
    show(this.again, !bare);
    show(this.adders, this.empty.hidden);
    if (!this.nothing) {
      this.nothing = h("p", { class: "nothing muted", hidden: true }, t("inspect.none"));
      this.stage.append(this.nothing);
    }
    if (!this.empty.hidden) this.#emptiness();
  }

  #emptiness() {
    const kind = this.failure ? "failure" : !state.service ? "loading" : state.model ? "drop" : "model";
    const key = `${kind} ${state.model?.name} ${this.failure}`;
    if (this.empty.dataset.key === key) return;
    this.empty.dataset.key = key;
    if (kind === "loading") {
      put(this.empty, h("p", { class: "muted" }, t("app.loading")));
    } else if (kind === "failure") {
      put(this.empty, h("h2", {}, t("inspect.failed")), h("p", { class: "muted" }, this.failure),
        state.service ? h("button", { class: "button primary", type: "button", onclick: () => this.load() }, t("inspect.try_again")) : h("p", { class: "muted" }, t("inspect.trying")));
    } else if (kind === "model") {
      put(this.empty, icon("drop", "big"), h("h2", {}, t("inspect.bare")),
        h("p", { class: "muted" }, t("inspect.bare_words")),
        h("div", { class: "buttons for-engineers" }, h("a", { class: "button primary", href: "#/train" }, t("inspect.train")),
          h("a", { class: "button", href: "#/start" }, t("inspect.start"))));
    } else {
      put(this.empty, icon("drop", "big"), h("h2", {}, t("inspect.drop")),
        h("p", { class: "muted" }, t("inspect.drop_words", { model: state.model.name })),
        h("div", { class: "buttons" },
          h("button", { class: "button primary", type: "button", onclick: () => this.images.click() }, t("inspect.choose")),
          h("button", { class: "button", type: "button", onclick: () => this.folder.click() }, t("inspect.choose_folder")),
          h("button", { class: "button", type: "button", onclick: () => this.#samples() }, t("inspect.try_sample"))),
        localStorage.getItem(`${CLEARED_KEY}.${state.model.name}`)
          ? h("button", { class: "button quiet small", type: "button", onclick: () => this.#earlier() }, t("inspect.earlier")) : null);
    }
  }

  #progress(ended = null) {
    const { upload } = this;
    show(this.bar, upload !== null && upload !== undefined);
    show(this.stopper, Boolean(upload));
    if (upload) {
      const seconds = (performance.now() - this.started) / 1000;
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

  #open(item) {
    if (item.error) {
      message(`${item.name}: ${item.error}`, { kind: "error" });
      return;
    }
    this.viewer.show(item, {
      items: () => this.grid.items.filter((result) => !result.error).map(({ id }) => this.results.get(id)),
      threshold: () => this.panel.threshold,
      review: () => this.panel.review,
      onclose: (last) => this.grid.focus(last.id),
    });
  }

  #newBatch() {
    localStorage.setItem(`${CLEARED_KEY}.${state.model.name}`, new Date().toISOString());
    this.load();
    message(t("inspect.new_batch_begun"), { action: { label: t("inspect.bring_back"), run: () => this.#earlier() } });
  }

  #earlier() {
    localStorage.removeItem(`${CLEARED_KEY}.${state.model.name}`);
    this.load();
  }

  async #samples() {
    try {
      const files = await pickSamples();
      if (files.length) await this.inspect(files);
    } catch (error) {
      failed(error);
    }
  }
}

function compareIds(a, b) {
  if (typeof a.id === "number" && typeof b.id === "number") return a.id - b.id;
  return String(a.id).localeCompare(String(b.id), locale, { numeric: true });
}
