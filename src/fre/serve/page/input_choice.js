// What the network of a new model looks at: input size, defect size and region, and how it looks.

import * as api from "./api.js";
import { h, put, show } from "./dom.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { RegionEditor } from "./region_editor.js";

const WAIT = 500;
/** The service checks it, too; a preview is asked for only if it can be. */
const SIDES = { min: "32", max: "1024", step: "32" };

export class InputChoice {
  /** @param {() => string} preset the chosen preset */
  constructor(preset, onchange) {
    this.preset = preset;
    this.onchange = onchange;
    this.files = [];
    this.region = new RegionEditor(() => this.#changed());
    this.#build();
  }

  /** The images of the training, `{file, name}`. */
  images(files) {
    if (files.length === this.files.length && files.every((item, i) => item === this.files[i])) return;
    this.files = [...files];
    const chosen = this.picker.value;
    put(this.picker, files.map(({ name }, i) => h("option", { value: i }, name)));
    if (files[chosen]) this.picker.value = chosen;
    show(this.pickerLabel, files.length > 0);
    this.#load();
  }

  /** The choice as query parameters of a training. */
  parameters() {
    const kind = this.kind.value;
    return {
      size: kind === "size" ? `${this.height.value}x${this.width.value}` : null,
      defect_size: kind === "defect" ? this.defect.value : null,
      roi: this.files.length && this.region.roi ? [this.region.roi] : null,
    };
  }

  /** Why there can be no training by this choice, or null. */
  get wrong() {
    const fields = { size: [this.height, this.width], defect: [this.defect], auto: [] }[this.kind.value];
    if (fields.some((field) => !field.checkValidity())) return t("input.wrong_number");
    return this.files.length && this.region.unfinished ? t("input.wrong_region") : null;
  }

  /** Begins anew after a training was started. */
  reset() {
    this.kind.value = "auto";
    this.region.kinds.value = "none";
    this.region.kinds.dispatchEvent(new Event("change"));
  }

  #build() {
    const number = (id, label, properties) => {
      const input = h("input", { class: "field", id, type: "number", required: true, oninput: () => this.#changed(), ...properties });
      return [input, h("div", { class: "labelled" }, h("label", { for: id }, label), input)];
    };
    this.kind = h("select", { id: "input-kind", onchange: () => this.#changed() },
      ["auto", "defect", "size"].map((name) => h("option", { value: name }, t(`input.by_${name}`))));
    let width, height, defect;
    [this.width, width] = number("input-width", t("input.width"), { ...SIDES, value: "320" });
    [this.height, height] = number("input-height", t("input.height"), { ...SIDES, value: "320" });
    [this.defect, defect] = number("input-defect", t("input.defect"), { min: "1", max: "8192", step: "any", value: "20" });
    this.sides = h("div", { class: "source-row" }, width, height);
    this.defectRow = defect;
    this.picker = h("select", { id: "input-image", onchange: () => this.#load() });
    this.pickerLabel = h("div", { class: "labelled", hidden: true }, h("label", { for: "input-image" }, t("input.image")), this.picker);
    this.none = h("p", { class: "small muted" }, t("input.no_image"));
    this.words = h("div", { class: "input-words", role: "status" });
    this.seen = h("div", { class: "input-seen", role: "group", tabindex: "0", "aria-label": t("input.seen_label") });
    this.element = h("details", { class: "input-choice" },
      h("summary", {}, t("input.title")),
      h("div", { class: "input-body" },
        h("div", { class: "labelled" }, h("label", { for: "input-kind" }, t("input.kind")), this.kind),
        this.sides, this.defectRow, this.none, this.pickerLabel, this.region.element, this.words, this.seen));
    this.element.addEventListener("toggle", () => this.look());
    this.#changed();
  }

  #load() {
    const chosen = this.files[this.picker.value] ?? null;
    show(this.none, chosen === null);
    this.region.load(chosen?.file ?? null).then(() => this.#changed());
  }

  #changed() {
    if (!this.words) return; // the editor is built first
    show(this.sides, this.kind.value === "size");
    show(this.defectRow, this.kind.value === "defect");
    this.onchange();
    this.look();
  }

  /** Shows what the network sees of the chosen image, soon, and only while somebody looks. */
  look() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#ask(), WAIT);
  }

  async #ask() {
    this.asking?.abort();
    const chosen = this.files[this.picker.value];
    if (!this.element.open || !chosen || this.wrong) {
      put(this.seen);
      put(this.words, chosen && this.wrong ? h("p", { class: "small muted" }, this.wrong) : null);
      return;
    }
    const asking = new AbortController();
    this.asking = asking;
    try {
      const found = await api.inputView({ preset: this.preset(), ...this.parameters() }, chosen.file, { signal: asking.signal });
      if (this.asking === asking) this.#show(found);
    } catch (error) {
      if (error.name === "AbortError") return;
      put(this.seen);
      put(this.words, h("p", { class: "caveat small" }, format.sentence(error.message)));
    }
  }

  #show({ size: [height, width], n_inputs: n, inputs, notes }) {
    put(this.words,
      h("p", {}, t("input.seen", { n, width, height })),
      notes.map((note) => h("p", { class: "small muted" }, format.sentence(note))),
      n > inputs.length ? h("p", { class: "small muted" }, t("input.some_tiles", { n: inputs.length })) : null);
    put(this.seen, inputs.map((data, i) => h("img", { src: `data:image/png;base64,${data}`, width, height, alt: t("input.seen_part", { n: i + 1 }) })));
  }
}
