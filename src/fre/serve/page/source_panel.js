// The source that the service follows: what it does, and a form to start another one.

import * as api from "./api.js";
import { h, offer, put, say, show } from "./dom.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { failed, message } from "./messages.js";
import { sourceState } from "./source_state.js";
import { state } from "./state.js";

/** How a source of each kind is written, and an example of what people type. */
const KINDS = {
  folder: { write: (text) => text, example: "incoming" },
  stream: { write: (text) => text, example: "rtsp://camera/1" },
  camera: { write: (text) => `camera:${text}`, example: "0" },
  video: { write: (text) => text, example: "part.mp4" },
  genicam: { write: (text) => `genicam:${text}`, example: "vendor.cti?serial_number=4103" },
};
const COUNTS = ["taken", "scored", "anomalous", "skipped", "dropped", "damaged", "unreadable", "reconnects"];
/** Counts of trouble are shown once there is some. */
const IF_ANY = ["skipped", "dropped", "damaged", "unreadable", "reconnects"];
const OVER = ["ended", "failed"];

export class SourcePanel {
  constructor() {
    this.summary = h("span", {});
    this.dot = h("span", { class: "source-state", "aria-hidden": "true" });
    this.facts = h("dl", { class: "source-facts" });
    this.error = h("p", { class: "caveat small", hidden: true });
    this.message = h("p", { class: "small muted", hidden: true });
    this.stop = h("button", { class: "button for-engineers", type: "button", onclick: () => this.#do(() => this.#stop()) }, t("source.stop"));
    this.form = this.#form();
    this.element = h("details", { class: "panel source-panel" },
      h("summary", {}, h("h2", { class: "panel-title" }, t("source.title")), this.dot, this.summary),
      h("div", { class: "source-body" }, this.error, this.facts, this.message, this.stop, this.form));
    sourceState.addEventListener("source", () => this.#draw());
    state.addEventListener("models", () => this.#models());
  }

  enter() {
    this.unwatch = sourceState.watch();
  }

  leave() {
    this.unwatch?.();
  }

  #form() {
    this.kind = h("select", { id: "source-kind", onchange: () => this.#kind() },
      Object.keys(KINDS).map((name) => h("option", { value: name }, t(`source.kind_${name}`))));
    this.roots = h("datalist", { id: "source-roots" });
    this.address = h("input", { class: "field", id: "source-address", type: "text", autocomplete: "off", spellcheck: "false", required: true, maxlength: "2000", list: "source-roots", "aria-describedby": "source-note" });
    this.addressLabel = h("label", { for: "source-address" });
    this.note = h("p", { class: "small muted", id: "source-note" });
    this.model = h("select", { id: "source-model" });
    this.rate = h("input", { class: "field", id: "source-rate", type: "number", min: "0.01", max: "1000", step: "any", placeholder: t("source.all_frames") });
    this.every = h("input", { class: "field", id: "source-every", type: "number", min: "1", max: "100000", step: "1", value: "1", required: true });
    this.selection = h("div", { class: "source-row" },
      h("div", { class: "labelled" }, h("label", { for: "source-rate" }, t("source.rate")), this.rate),
      h("div", { class: "labelled" }, h("label", { for: "source-every" }, t("source.every")), this.every));
    this.start = h("button", { class: "button primary", type: "submit" }, t("source.start"));
    const form = h("form", { class: "source-form for-engineers", onsubmit: (event) => { event.preventDefault(); this.#do(() => this.#start()); } },
      h("div", { class: "source-row" },
        h("div", { class: "labelled" }, h("label", { for: "source-kind" }, t("source.kind")), this.kind),
        h("div", { class: "labelled" }, h("label", { for: "source-model" }, t("source.model")), this.model)),
      h("div", { class: "labelled" }, this.addressLabel, this.address, this.roots, this.note),
      this.selection, this.start);
    this.#kind();
    return form;
  }

  #kind() {
    const kind = this.kind.value;
    say(this.addressLabel, t(`source.address_${kind}`));
    this.address.placeholder = KINDS[kind].example;
    show(this.selection, kind !== "folder");
    this.#note();
  }

  #note() {
    const kind = this.kind.value;
    const roots = sourceState.answer?.roots ?? [];
    const below = kind === "folder" || kind === "video";
    offer(this.roots, below ? roots : []);
    if (!below) say(this.note, t(`source.note_${kind}`));
    else say(this.note, roots.length ? t("source.note_below", { roots: roots.join(", ") }) : t("source.note_no_root"));
  }

  #models() {
    const names = state.models.map(({ name }) => name);
    offer(this.model, names, names.includes(this.model.value) ? this.model.value : state.model?.name);
  }

  #draw() {
    const { source, n_receivers: receivers } = sourceState.answer;
    const running = source !== null && !OVER.includes(source.state);
    this.element.dataset.state = source?.state ?? "none";
    say(this.summary, source ? t("source.summary", { source: source.source, state: t(`source.${source.state}`), n: source.scored }) : t("source.none"));
    show(this.error, Boolean(source?.error));
    say(this.error, source?.error ? format.sentence(source.error) : "");
    const told = source?.message && source.message !== source.error ? source.message : "";
    show(this.message, told !== "");
    say(this.message, told && t("source.last_message", { message: told }));
    put(this.facts, source ? [
      this.#fact("source.model", source.model ?? "–"), this.#fact("source.since", format.time(source.since)),
      this.#fact("source.receivers", format.count(receivers)),
      ...COUNTS.filter((name) => source[name] > 0 || !IF_ANY.includes(name)).map((name) => this.#fact(`source.count_${name}`, format.count(source[name]))),
    ] : []);
    show(this.stop, running);
    show(this.form, !running);
    this.#note();
  }

  #fact(key, value) {
    return h("div", {}, h("dt", {}, t(key)), h("dd", {}, value));
  }

  async #start() {
    const kind = this.kind.value;
    const frames = kind === "folder" ? {} : { every: Number(this.every.value), rate: this.rate.value ? Number(this.rate.value) : null };
    sourceState.take(await api.startSource({ source: KINDS[kind].write(this.address.value.trim()), model: this.model.value || null, ...frames }));
    this.address.value = "";
    await state.load();
  }

  async #stop() {
    const { source } = await api.stopSource();
    message(t("source.stopped_after", { source: source.source, taken: source.taken, n: source.scored }));
    sourceState.take(await api.source());
    await state.load();
  }

  async #do(run) {
    for (const button of [this.start, this.stop]) button.disabled = true;
    try {
      await run();
    } catch (error) {
      failed(error);
    } finally {
      for (const button of [this.start, this.stop]) button.disabled = false;
    }
  }
}
