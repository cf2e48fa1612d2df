// Drop images, see them worst first, move the threshold.

import * as api from "./api.js";
import { decision, isWrong, makeCard } from "./card.js";
import { DecisionSide } from "./decision_side.js";
import { h, put, show } from "./dom.js";
import { EmptyStage } from "./empty_stage.js";
import { events } from "./events.js";
import { Grid } from "./grid.js";
import { onVerdictKey } from "./judging.js";
import { t } from "./language.js";
import { announce, failed, message } from "./messages.js";
import { ResultsBar } from "./results_bar.js";
import { state } from "./state.js";
import { Upload } from "./upload.js";

const MOST = 2000;
const clearedKey = () => `fre.batch-since.${state.model.name}`;

export class Inspect {
  constructor(viewer, judge) {
    this.viewer = viewer;
    this.results = new Map();
    this.localErrors = 0;
    this.loading = null;
    this.upload = null;
    this.decision = new DecisionSide(() => this.counts, () => this.#moved());
    this.bar = new ResultsBar({
      onarrange: () => this.#arrange(),
      onlook: () => this.grid.refresh(),
      onfiles: (files) => this.inspect(files),
      onbatch: () => this.#newBatch(),
      onstop: () => this.upload?.stop(),
    });
    this.empty = new EmptyStage({
      load: () => this.load(),
      images: () => this.bar.chooseImages(),
      folder: () => this.bar.chooseFolder(),
      samples: () => this.bar.chooseSamples(),
      earlier: () => this.#earlier(),
    });
    this.grid = new Grid({
      label: t("inspect.results"),
      card: (item) => makeCard(item, () => ({ threshold: this.decision.threshold, review: this.decision.review, heat: this.bar.heat, boxes: this.bar.boxes, time: false })),
      onopen: (item) => this.#open(item),
      onkey: onVerdictKey(judge),
    });
    this.waiting = h("div", { class: "skeleton", "aria-label": t("inspect.loading_results"), role: "status" },
      Array.from({ length: 12 }, () => h("div", { class: "ghost" })));
    this.nothing = h("p", { class: "nothing muted", hidden: true }, t("inspect.none"));
    put(document.getElementById("inspect-stage"), this.waiting, this.empty.element, this.grid.element, this.nothing);
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
    const cleared = localStorage.getItem(clearedKey());
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
    this.bar.setFilter("all");
    const upload = new Upload(state.model.name, files, state.service.limits);
    this.upload = upload;
    this.bar.offerNew(0);
    const target = state.model;
    upload.addEventListener("items", ({ detail }) => {
      if (state.model?.name !== target.name) return;
      this.#add(detail.map((item) => (item.error
        ? { ...item, id: `error-${(this.localErrors += 1)}` }
        : { verdict: null, kept: true, source: "page", model: target.name, ...item })));
    });
    upload.addEventListener("progress", () => this.bar.progress(upload));
    this.#update();
    await upload.run();
    this.upload = null;
    this.#release();
    const errors = [...this.results.values()].filter((result) => result.error).length;
    const inspected = t("inspect.announce", { n: upload.done, anomalous: this.counts.anomalous });
    announce(errors ? t("inspect.announce_errors", { inspected, errors }) : inspected);
    this.bar.progress(null, upload);
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

  #calibrated() {
    this.decision.load();
    this.#update();
  }

  #moved() {
    this.#count();
    if (this.bar.filter === "all") this.grid.refresh();
    else this.#arrange();
  }

  #kind(result) {
    return decision(result, this.decision.threshold, this.decision.review);
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

  #count() {
    const { counts } = this;
    this.bar.count(counts, this.decision.hasBand(counts));
    if (this.decision.ready) this.viewer.refresh();
  }

  /** After results came, changed or went. */
  #update() {
    this.decision.update([...this.results.values()].filter((result) => !result.error && result.score !== null).map(({ score }) => score));
    this.#count();
    this.#stages();
    // Nobody's card moves away from under the pointer or the focus while results stream in.
    if (this.upload && this.grid.items.length > 0 && this.grid.busy) {
      this.bar.offerNew(this.held);
      // Where they are, but as they are now: somebody may have marked one.
      this.grid.update(this.grid.items.map(({ id }) => this.results.get(id)));
    } else {
      this.#arrange();
    }
  }

  #arrange() {
    this.held = 0;
    const items = this.bar.arrange([...this.results.values()].map((result) => [result, this.#kind(result)]));
    this.grid.update(items);
    this.grid.refresh();
    show(this.nothing, items.length === 0 && this.results.size > 0);
    this.bar.offerNew(0);
  }

  #stages() {
    const bare = this.results.size === 0;
    const busy = this.loading !== null || this.upload !== null;
    const empty = bare && !busy;
    show(this.waiting, bare && busy);
    show(this.empty.element, empty);
    show(this.grid.element, !bare);
    this.bar.stage({ bare, empty, model: state.model !== null });
    if (empty) this.empty.draw(this.failure, state.model !== null && localStorage.getItem(clearedKey()) !== null);
  }

  #open(item) {
    if (item.error) {
      message(`${item.name}: ${item.error}`, { kind: "error" });
      return;
    }
    this.viewer.show(item, {
      items: () => this.grid.items.filter((result) => !result.error).map(({ id }) => this.results.get(id)),
      threshold: () => this.decision.threshold,
      review: () => this.decision.review,
      onclose: (last) => this.grid.focus(last.id),
    });
  }

  #newBatch() {
    localStorage.setItem(clearedKey(), new Date().toISOString());
    this.load();
    message(t("inspect.new_batch_begun"), { action: { label: t("inspect.bring_back"), run: () => this.#earlier() } });
  }

  #earlier() {
    localStorage.removeItem(clearedKey());
    this.load();
  }
}
