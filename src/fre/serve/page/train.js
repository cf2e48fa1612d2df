// A new model from good images, watched until it can be used.

import * as api from "./api.js";
import { caveat } from "./caveat.js";
import { h, icon, put, say, show } from "./dom.js";
import { events } from "./events.js";
import { fromInput, some } from "./files.js";
import * as format from "./format.js";
import { Histogram } from "./histogram.js";
import { InputChoice } from "./input_choice.js";
import { hasEnded, isOlder, showProgress, skippedFiles } from "./job.js";
import { t } from "./language.js";
import { announce, failed } from "./messages.js";
import { Models } from "./models.js";
import { OddImages } from "./odd.js";
import { state } from "./state.js";

const SHOWN = 24;
const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const WORDS = {
  train: { running: "job.training", done: "job.trained", failed: "job.training_failed" },
  update: { running: "job.updating", done: "job.updated", failed: "job.updating_failed" },
  preview: { running: "job.preparing", done: "job.preview_done", failed: "job.preview_failed" },
};

export class Train {
  constructor(teach) {
    this.teach = teach;
    this.files = [];
    this.jobs = new Map();
    this.cards = new Map();
    this.#build();
    events.addEventListener("job", ({ detail }) => this.#job(detail));
    events.addEventListener("open", () => this.load());
    state.addEventListener("models", () => this.#check());
  }

  enter() {
    this.visible = true;
    this.load();
    this.#check();
  }

  leave() {
    this.visible = false;
  }

  async load() {
    try {
      for (const job of await api.jobs()) this.#job(job);
    } catch (error) {
      if (this.visible) failed(error);
    }
  }

  /** Good images from a drop: `{file, name}`. */
  add(files) {
    const known = new Set(this.files.map(key));
    const fresh = files.filter((item) => !known.has(key(item)));
    this.files.push(...fresh);
    if (files.length) this.samples.checked = false;
    this.#check();
  }

  #build() {
    this.name = h("input", { class: "field", id: "train-name", type: "text", autocomplete: "off", spellcheck: "false", maxlength: "64", placeholder: t("train.name_example"), "aria-describedby": "train-name-note", oninput: () => { this.replacing.checked = false; this.#check(); } });
    this.nameNote = h("p", { class: "small muted note", id: "train-name-note" });
    this.replacing = h("input", { type: "checkbox", onchange: () => this.#check() });
    this.replaceLabel = h("label", { class: "check", hidden: true }, this.replacing, t("train.replace"));
    this.images = h("input", { type: "file", multiple: true, accept: "image/*", hidden: true, onchange: () => this.add(fromInput(this.images)) });
    this.folder = h("input", { type: "file", webkitdirectory: true, hidden: true, onchange: () => this.add(fromInput(this.folder)) });
    this.total = h("p", { class: "train-total" });
    this.clear = h("button", { class: "button quiet", type: "button", onclick: () => { this.#empty(); this.#check(); } }, t("train.remove_all"));
    this.thumbs = h("div", { class: "thumbs" });
    this.samples = h("input", { type: "checkbox", onchange: () => { if (this.samples.checked) this.#empty(); this.#check(); } });
    this.dropText = h("p", {}, t("train.drop"));
    const drop = h("div", { class: "drop-box" }, icon("drop", "big"), this.dropText, this.images, this.folder,
      h("div", { class: "buttons" },
        h("button", { class: "button", type: "button", onclick: () => this.images.click() }, t("train.choose")),
        h("button", { class: "button", type: "button", onclick: () => this.folder.click() }, t("train.choose_folder"))),
      h("label", { class: "check small" }, this.samples, t("train.samples")));
    const preset = (value, label, note, checked) => h("label", { class: "choice" },
      h("input", { type: "radio", name: "preset", value, checked }), h("span", {}, h("strong", {}, label), h("span", { class: "small muted" }, note)));
    this.presets = h("fieldset", { class: "choices" }, h("legend", {}, t("train.how")),
      preset("default", t("train.accurate"), t("train.accurate_note"), true),
      preset("reference", t("train.faster"), t("train.faster_note"), false));
    this.presets.addEventListener("change", () => this.input.look());
    this.input = new InputChoice(() => this.presets.querySelector("input:checked").value, () => this.#check());
    this.rate = h("select", { id: "train-rate", onchange: () => this.#check() },
      [20, 50, 100, 500, 1000].map((n, i) => h("option", { value: String(1 / n), selected: n === 100 }, t(i ? "train.rate_option" : "train.rate_first", { n }))));
    this.start = h("button", { class: "button primary", type: "submit" }, t("train.start"));
    this.checkImages = h("button", { class: "button", type: "button", onclick: () => this.#checkImages() }, t("train.check"));
    this.checked = h("div", { class: "checked", role: "status" });
    this.startNote = h("p", { class: "small muted note", role: "status" });
    const form = h("form", { class: "panel train-form", novalidate: true, onsubmit: (event) => { event.preventDefault(); this.#start(); } },
      h("h2", {}, t("train.new")),
      h("div", { class: "labelled" }, h("label", { for: "train-name" }, t("train.name")), this.name, this.nameNote, this.replaceLabel),
      h("div", { class: "labelled" }, h("p", { class: "label" }, t("train.good")), drop,
        h("div", { class: "train-chosen" }, this.total, this.clear), this.thumbs),
      this.presets,
      this.input.element,
      h("div", { class: "labelled" }, h("label", { for: "train-rate" }, t("train.rate")), this.rate),
      h("div", { class: "train-start" }, this.checkImages, this.start, this.startNote),
      this.checked);
    this.list = h("div", { class: "jobs" });
    this.noJobs = h("div", { class: "empty small-empty" }, h("h3", {}, t("train.no_runs")),
      h("p", { class: "muted" }, t("train.no_runs_words")));
    this.unable = h("p", { class: "notice", hidden: true }, t("train.unable"));
    this.form = form;
    put(document.getElementById("view-train"),
      h("header", { class: "view-head" }, h("div", {}, h("h1", { id: "title-train" }, t("view.train")),
        h("p", { class: "muted" }, t("train.words")))),
      this.unable,
      h("div", { class: "train-columns" }, h("div", { class: "train-left" }, form, this.#updater(), new Models().element),
        h("section", { "aria-label": t("train.runs_label") }, h("h2", {}, t("train.runs")), this.noJobs, this.list)));
  }

  /** Good images for a model that exists; shown if its file holds what that needs. */
  #updater() {
    this.moreImages = h("input", { type: "file", multiple: true, accept: "image/*", hidden: true, onchange: () => this.#add(fromInput(this.moreImages)) });
    this.moreFolder = h("input", { type: "file", webkitdirectory: true, hidden: true, onchange: () => this.#add(fromInput(this.moreFolder)) });
    this.accept = h("input", { type: "checkbox" });
    this.moreTitle = h("h2", {});
    this.more = h("section", { class: "panel", hidden: true, "aria-label": t("train.add") }, this.moreTitle,
      h("p", { class: "muted" }, t("train.add_words")),
      this.moreImages, this.moreFolder,
      h("label", { class: "check small" }, this.accept, t("train.add_anomalous")),
      h("div", { class: "buttons" },
        h("button", { class: "button", type: "button", onclick: () => this.moreImages.click() }, icon("plus"), t("train.add_images")),
        h("button", { class: "button", type: "button", onclick: () => this.moreFolder.click() }, t("train.add_folder"))));
    return this.more;
  }

  async #add(files) {
    if (files.length === 0) return;
    try {
      const job = await this.teach.ask(state.model.name, { files, acceptAnomalous: this.accept.checked });
      this.accept.checked = false;
      this.#job(job);
      this.cards.get(job.id)?.element.scrollIntoView({ block: "nearest" });
    } catch (error) {
      failed(error);
    }
  }

  #empty() {
    this.files = [];
  }

  #check() {
    if (!this.list) return; // it is being built
    const able = state.service?.can_train !== false;
    show(this.unable, !able);
    show(this.form, able);
    show(this.more, Boolean(state.model?.can_update));
    say(this.moreTitle, t("train.add_to", { model: state.model?.name ?? "" }));
    const name = this.name.value.trim();
    const taken = state.models.some((model) => model.name === name);
    const badName = name !== "" && !NAME.test(name);
    show(this.replaceLabel, taken);
    this.name.setAttribute("aria-invalid", String(badName || (taken && !this.replacing.checked)));
    say(this.nameNote, badName ? t("train.name_rule")
      : t(taken ? "train.name_taken" : "train.name_note"));
    const n = this.files.length;
    const size = this.files.reduce((sum, { file }) => sum + file.size, 0);
    const limit = state.service?.limits.max_train_bytes ?? Infinity;
    say(this.total, this.samples.checked ? t("train.samples_chosen") : n ? t("train.chosen", { n, size: format.bytes(size) }) : t("train.no_images"));
    show(this.clear, n > 0);
    this.#thumbnails();
    this.input.images(this.files);
    const wrong = name === "" ? t("train.wrong_no_name")
      : badName ? t("train.wrong_name")
      : taken && !this.replacing.checked ? t("train.wrong_taken")
      : this.samples.checked ? null
      : n === 0 ? t("train.wrong_no_images")
      : n < 3 ? t("train.wrong_few")
      : size > limit ? t("train.wrong_size", { size: format.bytes(size), limit: format.bytes(limit) }) : this.input.wrong;
    this.start.disabled = wrong !== null || this.sending;
    this.checkImages.disabled = n < 3 || size > limit || this.sending || this.checking === true;
    if (this.checkedFor !== this.#chosen()) put(this.checked);
    say(this.startNote, this.sending ? t("train.sending") : wrong ?? (n && n < 20 ? t("train.few") : ""));
  }

  #thumbnails() {
    const wanted = this.files.slice(0, SHOWN);
    const shown = wanted.map(key).join("\n") + this.files.length;
    if (shown === this.shown) return;
    this.shown = shown;
    for (const image of this.thumbs.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    put(this.thumbs, wanted.map(({ file, name }) => h("img", { src: URL.createObjectURL(file), alt: "", title: name, decoding: "async" })),
      this.files.length > SHOWN ? h("span", { class: "muted small" }, t("app.others", { n: this.files.length - SHOWN })) : null);
  }

  /** The chosen images and the rate, which a check is of. */
  #chosen() {
    return `${this.rate.value} ${this.files.map(key).join("\n")}`;
  }

  async #checkImages() {
    const chosen = this.#chosen();
    this.checking = true;
    this.checkedFor = chosen;
    put(this.checked, h("p", { class: "small muted" }, t("train.checking")));
    this.#check();
    try {
      const found = await api.check({ false_alarm_rate: this.rate.value }, this.files);
      // An answer about other images than those chosen by now is not shown.
      if (chosen === this.#chosen()) {
        put(this.checked, h("h3", {}, t("train.checked")),
          found.lines.map((line) => h("p", { class: line.startsWith("  ") ? "small muted detail" : "small" }, line.trim())));
      }
    } catch (error) {
      put(this.checked);
      failed(error);
    } finally {
      this.checking = false;
      this.#check();
    }
  }

  async #start() {
    if (this.start.disabled) return;
    const name = this.name.value.trim();
    this.sending = true;
    this.#check();
    try {
      const job = await api.train({
        name,
        preset: this.presets.querySelector("input:checked").value,
        false_alarm_rate: this.rate.value,
        overwrite: this.replacing.checked || null,
        samples: this.samples.checked ? 60 : null,
        ...this.input.parameters(),
      }, this.files);
      this.name.value = "";
      this.replacing.checked = false;
      this.samples.checked = false;
      this.input.reset();
      this.#empty();
      this.#job(job);
      this.cards.get(job.id)?.element.scrollIntoView({ block: "nearest" });
    } catch (error) {
      failed(error);
    } finally {
      this.sending = false;
      this.#check();
    }
  }

  // Runs --------------------------------------------------------------------------------------

  #job(job) {
    const before = this.jobs.get(job.id);
    if (before && isOlder(job, before)) return;
    this.jobs.set(job.id, job);
    let card = this.cards.get(job.id);
    if (!card) {
      card = this.#card();
      this.cards.set(job.id, card);
      card.element.dataset.job = job.id;
      const after = [...this.list.children].find((element) => Number(element.dataset.job) < job.id);
      this.list.insertBefore(card.element, after ?? null);
    }
    this.#fill(card, job);
    show(this.noJobs, this.jobs.size === 0);
    if (before && before.state !== job.state && job.state === "done") announce(t(WORDS[job.kind].done, { model: job.model }));
    if (before && before.state !== job.state && job.state === "failed") announce(t(WORDS[job.kind].failed, { model: job.model }));
    this.#poll();
  }

  /** A lost event must not leave a bar standing for ever. */
  #poll() {
    clearTimeout(this.polling);
    if ([...this.jobs.values()].every(hasEnded)) return;
    this.polling = setTimeout(() => this.load().then(() => this.#poll()), 2000);
  }

  #card() {
    const card = {
      title: h("h3", {}), state: h("p", { class: "job-state small" }), bar: h("progress", { max: "1", "aria-label": t("job.progress") }),
      task: h("p", { class: "small muted" }), body: h("div", { class: "job-body" }), buttons: h("div", { class: "buttons" }),
    };
    card.element = h("article", { class: "panel job" }, h("header", { class: "job-head" }, card.title, card.state), card.bar, card.task, card.body, card.buttons);
    return card;
  }

  #fill(card, job) {
    const words = { queued: t("job.queued"), running: t(WORDS[job.kind].running), done: t(job.kind === "preview" ? "job.prepared" : "job.done"), failed: t("job.failed"), cancelled: t("job.cancelled") };
    say(card.title, job.model);
    say(card.state, words[job.state]);
    card.element.dataset.state = job.state;
    const running = !hasEnded(job);
    show(card.bar, running);
    show(card.task, running);
    if (running) showProgress(card.bar, card.task, job);
    if (card.drawn === job.state) return;
    card.drawn = job.state;
    if (running) {
      put(card.body);
      put(card.buttons, h("button", { class: "button quiet", type: "button", onclick: () => this.#cancel(job) }, t("job.cancel")));
    } else if (job.state === "done") {
      if (job.kind === "preview") this.#prepared(card, job);
      else this.#done(card, job);
    } else {
      put(card.body, job.error ? h("p", {}, job.error.message) : null);
      put(card.buttons);
    }
  }

  /** An update that is not in place yet, or was applied or discarded. */
  #prepared(card, job) {
    const { result } = job;
    put(card.body, h("p", {}, t("job.preview", { n: result.n_added, images: result.n_images, threshold: format.score(result.threshold), before: format.score(result.previous_threshold) })));
    put(card.buttons, h("button", { class: "button", type: "button", onclick: () => this.teach.show(job).catch(failed) }, t("job.look")));
  }

  #done(card, job) {
    const { result } = job;
    // The calibration that this run ended with: the model may have another one by now.
    const { calibration } = result;
    const leftOut = result.left_out ?? [];
    const chart = new Histogram({ label: t("job.calibration_of", { model: job.model }) });
    const facts = h("p", {}, job.kind === "update"
      ? t("job.added", { n: result.n_added, images: result.n_images, threshold: format.score(result.threshold), before: format.score(result.previous_threshold) })
      : t("job.made", { n: result.n_images, time: format.duration(result.seconds), threshold: format.score(result.threshold) }));
    const expected = calibration?.expected_false_alarm_rate;
    put(card.body, facts,
      expected ? h("p", { class: "small" }, calibration.odd_share
        ? t("job.expected_odd", { rate: format.share(expected), others: format.share(calibration.rate_of_others), odd: format.share(calibration.odd_share) })
        : t("job.expected", { rate: format.share(expected) })) : null,
      leftOut.length ? h("p", { class: "small" }, t("job.left_out", { names: some(leftOut) })) : null,
      result.note ? h("p", { class: "caveat small" }, format.sentence(result.note)) : null,
      calibration ? chart.element : h("p", { class: "small muted" }, t("job.no_calibration")),
      result.caveat ? h("p", { class: "caveat small" }, caveat(calibration, result.caveat)) : null,
      result.near_duplicates ? h("p", { class: "caveat small" }, t("job.near_duplicates", { n: result.near_duplicates })) : null,
      skippedFiles(result),
      this.#odd(card, job));
    put(card.buttons, h("button", { class: "button primary", type: "button", onclick: () => this.#use(job.model) }, t("job.use")));
    if (calibration) {
      chart.update({ calibration: calibration.scores, n: calibration.n_scores, scores: [], threshold: calibration.threshold });
    }
  }

  /** The odd images of the last training of a model, with what to do; of earlier ones, their names. */
  #odd(card, job) {
    const names = job.result.odd ?? [];
    card.odd = null;
    const same = [...this.jobs.values()].filter((other) => other.model === job.model && other.state === "done" && other.kind !== "preview");
    if (same.some((other) => other.id > job.id)) {
      return names.length ? h("p", { class: "small muted" }, t("job.odd", { n: names.length, names: some(names.map(({ name }) => name)) })) : null;
    }
    for (const earlier of same) {
      const other = this.cards.get(earlier.id);
      if (earlier.id < job.id && other?.odd) this.#done(other, earlier);
    }
    card.odd = new OddImages((again) => { this.#job(again); this.cards.get(again.id)?.element.scrollIntoView({ block: "nearest" }); });
    card.odd.load(job.model);
    return card.odd.element;
  }

  async #use(name) {
    try {
      await state.load();
      await state.select(name);
      location.hash = "#/inspect";
    } catch (error) {
      failed(error);
    }
  }

  async #cancel(job) {
    try {
      this.#job(await api.cancelJob(job.id));
    } catch (error) {
      failed(error);
    }
  }
}

function key({ file, name }) {
  return `${name} ${file.size} ${file.lastModified}`;
}
