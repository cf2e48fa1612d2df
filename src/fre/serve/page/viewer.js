// One result, large: the original beside its heat map, and what the reviewer says of it.

import { picture } from "./api.js";
import { boxes, correction, decision, verdictMark } from "./card.js";
import { h, icon, put, say } from "./dom.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { Zoom } from "./zoom.js";

const OPACITY_KEY = "fre.heat-opacity";

export class Viewer {
  /** @param {(result: object, verdict: string | null) => void} onverdict */
  constructor(dialog, onverdict) {
    this.dialog = dialog;
    dialog.tabIndex = -1;
    this.onverdict = onverdict;
    this.zoom = new Zoom(() => this.zoomLevel && say(this.zoomLevel, percent(this.zoom.level)));
    this.opacity = Number(localStorage.getItem(OPACITY_KEY) ?? 0.8);
    this.#build();
    dialog.addEventListener("keydown", (event) => this.#key(event));
    // Escape, by ourselves: "close" is told later, and a key pressed meanwhile would go to the
    // card that was opened first, not to the one that was looked at last.
    dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      this.#close();
    });
    dialog.addEventListener("close", () => {
      if (!dialog.open) this.#ended();
    });
    new ResizeObserver(() => this.#fit()).observe(this.left);
  }

  /**
   * @param {object} result
   * @param {object} list
   * @param {() => object[]} list.items what "previous" and "next" walk through
   * @param {() => number | null} list.threshold by which it is decided
   * @param {() => number | null} list.review where the review band begins
   * @param {(result: object) => void} list.onclose gets the result that was looked at last
   */
  show(result, { items, threshold, review, onclose }) {
    Object.assign(this, { items, threshold, review, onclose });
    if (!this.dialog.open) this.dialog.showModal();
    this.#load(result);
    if (this.next.disabled) this.dialog.focus();
    else this.next.focus();
  }

  /** The result changed elsewhere, or the threshold did. */
  refresh(result) {
    if (this.result && (!result || result.id === this.result.id)) {
      if (result) this.result = result;
      this.#facts();
    }
  }

  #close() {
    this.dialog.close();
    this.#ended();
  }

  #ended() {
    const last = this.result;
    this.result = null;
    if (last) this.onclose(last);
  }

  #build() {
    this.title = h("h2", { id: "viewer-name" });
    this.place = h("p", { class: "place muted small" });
    this.previous = h("button", { class: "button icon-only", type: "button", "aria-label": t("viewer.previous"), onclick: () => this.#step(-1) }, icon("left"));
    this.next = h("button", { class: "button icon-only", type: "button", "aria-label": t("viewer.next"), onclick: () => this.#step(1) }, icon("right"));
    const close = h("button", { class: "button icon-only", type: "button", "aria-label": t("app.close"), onclick: () => this.#close() }, icon("close"));
    this.left = h("div", { class: "pane", role: "img", tabindex: "0" }, h("div", { class: "sheet" }));
    this.right = h("div", { class: "pane", role: "img", tabindex: "0" }, h("div", { class: "sheet" }));
    this.zoom.attach(this.left);
    this.zoom.attach(this.right);
    this.zoomLevel = h("output", { class: "zoom-level", "aria-label": t("viewer.zoom"), title: t("viewer.zoom_note") });
    this.slider = h("input", {
      type: "range", id: "heat-opacity", min: "0", max: "1", step: "0.05", value: String(this.opacity),
      oninput: () => this.#setOpacity(Number(this.slider.value)),
    });
    this.withBoxes = h("input", { type: "checkbox", checked: true, onchange: () => this.#boxes() });
    this.facts = h("div", { class: "facts-panel" });
    put(this.dialog,
      h("div", { class: "viewer-bar" },
        h("div", { class: "viewer-title" }, this.title, this.place),
        h("div", { class: "viewer-steps" }, this.previous, this.next, close)),
      h("div", { class: "viewer-body" },
        h("div", { class: "panes" },
          h("figure", {}, this.left, h("figcaption", {}, t("viewer.original"))),
          h("figure", {}, this.right, h("figcaption", {}, t("viewer.heat")))),
        h("div", { class: "viewer-side", role: "group", "aria-label": t("viewer.result") },
          this.facts,
          h("div", { class: "viewer-tools" },
            h("div", { class: "labelled" }, h("label", { for: "heat-opacity" }, t("viewer.opacity")), this.slider),
            h("label", { class: "check" }, this.withBoxes, t("viewer.boxes")),
            h("div", { class: "zoom-tools" },
              h("button", { class: "button icon-only", type: "button", "aria-label": t("viewer.zoom_out"), onclick: () => this.zoom.by(1 / 1.5) }, icon("minus")),
              this.zoomLevel,
              h("button", { class: "button icon-only", type: "button", "aria-label": t("viewer.zoom_in"), onclick: () => this.zoom.by(1.5) }, icon("plus")),
              h("button", { class: "button one-to-one", type: "button", "aria-label": t("viewer.one_to_one"), onclick: () => this.zoom.oneToOne() }, "1:1"),
              h("button", { class: "button", type: "button", onclick: () => this.zoom.reset() }, icon("fit"), t("viewer.fit")))),
          h("details", { class: "keys small" }, h("summary", {}, t("viewer.keys")),
            h("dl", {},
              ...[["← →", t("viewer.key_step")], ["+ − 0 1", t("viewer.key_zoom")], [t("viewer.key_arrows"), t("viewer.key_move")], ["H", t("viewer.key_heat")],
                ["B", t("viewer.key_boxes")], ["G, D, U", t("viewer.key_mark")], ["Esc", t("viewer.key_close")]]
                .flatMap(([keys, what]) => [h("dt", {}, keys), h("dd", {}, what)]))))));
  }

  #load(result) {
    this.result = result;
    this.zoom.reset();
    const { name } = result;
    for (const [pane, label] of [[this.left, t("viewer.original_of", { name })], [this.right, t("viewer.heat_of", { name })]]) {
      pane.setAttribute("aria-label", label);
      pane.classList.remove("failed");
      pane.dataset.reason = t(result.kept === false ? "viewer.not_kept" : "viewer.not_shown");
    }
    if (result.kept === false) {
      for (const pane of [this.left, this.right]) {
        put(pane.firstElementChild);
        pane.classList.add("failed");
      }
    } else {
      const small = picture.image(result.id, 320, result.image_sha256);
      const sheet = () => [
        h("img", { class: "preview", alt: "", src: small, draggable: "false" }),
        h("img", { class: "full", alt: "", src: picture.image(result.id, null, result.image_sha256), draggable: "false", decoding: "async" }),
      ];
      this.heat = h("img", { class: "heat", alt: "", src: picture.heat(result.id, null, result.image_sha256), draggable: "false" });
      put(this.left.firstElementChild, sheet());
      put(this.right.firstElementChild, sheet(), this.heat);
      for (const pane of [this.left, this.right]) {
        pane.querySelector(".full").addEventListener("error", () => pane.classList.add("failed"));
      }
      this.#setOpacity(this.opacity);
      this.#boxes();
    }
    this.#fit();
    this.#facts();
    this.#preload();
  }

  /** Sheets as large as their panes allow, in the proportions of the image. */
  #fit() {
    if (!this.result?.image_size) return;
    const [height, width] = this.result.image_size;
    for (const pane of [this.left, this.right]) {
      const box = pane.getBoundingClientRect();
      const scale = Math.min(box.width / width, box.height / height);
      if (scale > 0) this.zoom.fitted = scale;
      const sheet = pane.firstElementChild;
      // Whole pixels: the browser would move the sheet to them, and one to one would be blurred.
      const left = Math.round((box.width - width * scale) / 2);
      const top = Math.round((box.height - height * scale) / 2);
      sheet.style.width = `${width * scale}px`;
      sheet.style.height = `${height * scale}px`;
      sheet.style.left = `${left}px`;
      sheet.style.top = `${top}px`;
      // Positions count from the corner of the pane, so that zooming does.
      sheet.style.transformOrigin = `${-left}px ${-top}px`;
      // At its own size, then scaled: the browser rounds sizes before it scales.
      const full = sheet.querySelector(".full");
      if (full) Object.assign(full.style, { width: `${width}px`, height: `${height}px`, transformOrigin: "0 0", transform: `scale(${scale})` });
    }
    this.zoom.apply();
  }

  #facts() {
    const { result } = this;
    const items = this.items();
    const place = items.findIndex(({ id }) => id === result.id);
    const kind = this.#kind();
    if (kind !== this.shownKind) this.#boxes();
    this.shownKind = kind;
    say(this.title, result.name);
    say(this.place, place >= 0 ? t("viewer.place", { place: place + 1, n: items.length }) : "");
    this.previous.disabled = place <= 0;
    this.next.disabled = place < 0 || place >= items.length - 1;
    // A disabled button would swallow the keys: they go to the whole view at either end.
    if (document.activeElement?.disabled) this.dialog.focus();
    const corrected = correction(result, kind);
    // Buttons that had the focus keep it when they are made anew.
    const focused = document.activeElement?.dataset?.verdict;
    const verdictButton = (verdict, text) => h("button", {
      class: "button", type: "button", "aria-pressed": String(result.verdict === verdict), data: { verdict },
      onclick: () => this.#judge(verdict),
    }, text);
    put(this.facts,
      h("p", { class: "viewer-verdict" }, verdictMark(kind), h("strong", { class: "score" }, format.score(result.score))),
      [result.reason, result.note].filter(Boolean).map((text) => h("p", { class: "caveat small" }, format.sentence(text))),
      h("dl", { class: "facts" },
        fact(t("viewer.p_value"), format.pValue(result.p_value), result.p_value === null ? null : t("viewer.p_value_note", { share: format.share(result.p_value) })),
        fact(t("viewer.threshold"), format.score(this.threshold() ?? result.threshold), judgedBy(result, this.threshold())),
        fact(t("viewer.size"), result.image_size ? `${result.image_size[1]} × ${result.image_size[0]} px` : "–"),
        fact(t("viewer.seen"), format.time(result.created), result.source && result.source !== "page" ? result.source : null)),
      kind === "anomalous" && result.regions?.length ? h("div", { class: "regions" },
        h("h3", {}, t("unit.regions", { n: result.regions.length })),
        h("ul", {}, result.regions.slice(0, 6).map((region, i) => h("li", {},
          h("button", { class: "button quiet", type: "button", onclick: () => this.#goTo(region) },
            h("span", {}, t("viewer.region", { n: i + 1 })), h("span", { class: "muted" }, t("viewer.region_facts", { area: region.area, peak: format.score(region.peak) })))))))
        : kind === "anomalous" && !result.anomalous ? h("p", { class: "small muted" }, t("viewer.no_regions")) : null,
      h("fieldset", { class: "judge" },
        h("legend", {}, t("viewer.really")),
        h("div", { class: "judge-buttons" }, verdictButton("good", t("viewer.good")), verdictButton("defect", t("viewer.defect"))),
        h("p", { class: "small muted", role: "status" }, corrected ? t("viewer.take_back", { verdict: corrected }) : t("viewer.unreviewed"))));
    if (focused) this.facts.querySelector(`[data-verdict="${focused}"]`)?.focus();
  }

  #judge(verdict) {
    this.onverdict(this.result, this.result.verdict === verdict ? null : verdict);
  }

  #kind() {
    return decision(this.result, this.threshold(), this.review());
  }

  #boxes() {
    for (const pane of [this.left, this.right]) {
      const sheet = pane.firstElementChild;
      sheet.querySelector(".boxes")?.remove();
      if (this.withBoxes.checked && this.result && this.#kind() === "anomalous") sheet.append(boxes(this.result));
    }
  }

  #setOpacity(value) {
    this.opacity = value;
    this.slider.value = String(value);
    this.slider.setAttribute("aria-valuetext", t("viewer.opacity_value", { n: Math.round(100 * value) }));
    localStorage.setItem(OPACITY_KEY, String(value));
    if (this.heat) this.heat.style.opacity = String(value);
  }

  #goTo({ bbox: [x, y, width, height] }) {
    const [rows, columns] = this.result.image_size;
    const sheet = { width: this.left.firstElementChild.offsetWidth, height: this.left.firstElementChild.offsetHeight };
    this.zoom.to({ x: x / columns, y: y / rows, width: width / columns, height: height / rows }, sheet, this.left.getBoundingClientRect());
  }

  #step(by) {
    const items = this.items();
    const next = items[items.findIndex(({ id }) => id === this.result.id) + by];
    if (!next) return;
    this.#load(next);
  }

  #preload() {
    const items = this.items();
    const place = items.findIndex(({ id }) => id === this.result.id);
    for (const item of [items[place + 1], items[place - 1]]) {
      if (item && item.kept !== false) new Image().src = picture.image(item.id, null, item.image_sha256);
    }
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const onSlider = event.target === this.slider;
    const arrows = { ArrowLeft: [0.1, 0], ArrowRight: [-0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1] };
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key in arrows && event.shiftKey) this.zoom.pan(...arrows[key]);
    else if (key === "ArrowLeft" && !onSlider) this.#step(-1);
    else if (key === "ArrowRight" && !onSlider) this.#step(1);
    else if (key === "+" || key === "=") this.zoom.by(1.5);
    else if (key === "-") this.zoom.by(1 / 1.5);
    else if (key === "0") this.zoom.reset();
    else if (key === "1") this.zoom.oneToOne();
    else if (key === "h") this.#setOpacity(this.opacity > 0 ? 0 : 0.8);
    else if (key === "b") {
      this.withBoxes.checked = !this.withBoxes.checked;
      this.#boxes();
    } else if (key === "g") this.onverdict(this.result, "good");
    else if (key === "d") this.onverdict(this.result, "defect");
    else if (key === "u") this.onverdict(this.result, null);
    else return;
    event.preventDefault();
  }
}

function percent(level) {
  return `${format.decimals(100 * level, level < 0.1 ? 1 : 0)} %`;
}

/** By what a result was judged, if it is shown by another threshold now. */
function judgedBy(result, threshold) {
  if (threshold === null || result.threshold === null || Math.abs(threshold - result.threshold) <= 1e-9 * Math.abs(threshold)) return null;
  return t("viewer.judged_by", { threshold: format.score(result.threshold), decision: t(`viewer.was.${decision(result, null)}`) });
}

function fact(name, value, note) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, value, note ? h("span", { class: "muted small" }, ` ${note}`) : null));
}
