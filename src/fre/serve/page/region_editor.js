// A region of an image, drawn with mouse, finger or keyboard: a rectangle, or a polygon.

import { h, put, say, show, svg } from "./dom.js";
import { t } from "./language.js";

/** CSS pixels of a handle, and of the area around it that takes a finger. */
const HANDLE = 6;
const FINGER = 16;
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const MOST_POINTS = 100;

export class RegionEditor {
  /** @param {() => void} onchange after the region changed */
  constructor(onchange) {
    this.onchange = onchange;
    this.shape = "none";
    /** Corners in pixels of the image: `[x, y]`. */
    this.points = [];
    this.size = null;
    this.handles = [];
    this.#build();
  }

  /** Shows an image to draw on; of `null`, nothing. */
  async load(file) {
    if (this.address) URL.revokeObjectURL(this.address);
    const address = file && URL.createObjectURL(file);
    this.address = address;
    show(this.element, file !== null);
    if (!file) return;
    this.image.src = address;
    const shown = await this.image.decode().then(() => true, () => false);
    // Another image may have been chosen meanwhile, which ends the decoding of this one.
    if (this.address !== address) return;
    if (!shown) {
      // Browsers show no TIFF, for instance. The service reads it.
      say(this.hint, t("input.not_shown"));
      show(this.stage, false);
      return;
    }
    const size = [this.image.naturalWidth, this.image.naturalHeight];
    if (this.size && size.join() !== this.size.join()) this.points = [];
    this.size = size;
    show(this.stage, true);
    this.canvas.setAttribute("viewBox", `0 0 ${size[0]} ${size[1]}`);
    for (const [field, most] of [[this.fields.x, size[0]], [this.fields.width, size[0]], [this.fields.y, size[1]], [this.fields.height, size[1]]]) field.max = most;
    this.#changed();
  }

  /** The region as the service takes it, or null for the whole image. */
  get roi() {
    if (this.shape === "none" || this.points.length < 3 || !this.size) return null;
    return `${this.size.join("x")}:${this.points.map((point) => point.join(",")).join(" ")}`;
  }

  /** Whether a region is asked for and not drawn yet. */
  get unfinished() {
    return this.shape !== "none" && this.roi === null;
  }

  #build() {
    this.kinds = h("select", { id: "region-shape", onchange: () => { this.shape = this.kinds.value; this.points = []; this.#changed(); } },
      ["none", "rectangle", "polygon"].map((name) => h("option", { value: name }, t(`input.region_${name}`))));
    this.image = h("img", { alt: "", draggable: "false" });
    this.shade = svg("path", { class: "region-shade", "fill-rule": "evenodd" });
    this.outline = svg("polygon", { class: "region-outline" });
    this.corners = svg("g", {});
    this.canvas = svg("svg", { class: "region-canvas", role: "group", "aria-label": t("input.region_canvas") }, this.shade, this.outline, this.corners);
    this.canvas.addEventListener("pointerdown", (event) => this.#press(event));
    this.canvas.addEventListener("pointermove", (event) => this.#drag(event));
    for (const name of ["pointerup", "pointercancel"]) this.canvas.addEventListener(name, () => { this.dragging = null; });
    this.stage = h("div", { class: "region-stage" }, this.image, this.canvas);
    new ResizeObserver(() => this.#draw()).observe(this.stage);
    const field = (name) => h("input", { class: "field", id: `region-${name}`, type: "number", min: "0", step: "1", oninput: () => this.#typed() });
    this.fields = { x: field("x"), y: field("y"), width: field("width"), height: field("height") };
    this.numbers = h("div", { class: "region-numbers", role: "group", "aria-label": t("input.region_rectangle") }, Object.entries(this.fields).map(([name, input]) =>
      h("div", { class: "labelled" }, h("label", { for: `region-${name}` }, t(`input.${name}`)), input)));
    this.more = h("button", { class: "button", type: "button", onclick: () => this.#addPoint() }, t("input.add_corner"));
    this.clear = h("button", { class: "button quiet", type: "button", onclick: () => { this.points = []; this.#changed(); } }, t("input.clear"));
    this.hint = h("p", { class: "small muted", role: "status" });
    this.element = h("div", { class: "region", hidden: true },
      h("div", { class: "labelled" }, h("label", { for: "region-shape" }, t("input.region")), this.kinds),
      this.hint, this.stage, this.numbers, h("div", { class: "buttons" }, this.more, this.clear));
  }

  #place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return this.#within([(clientX - box.left) / box.width * this.size[0], (clientY - box.top) / box.height * this.size[1]]);
  }

  #within([x, y]) {
    const [width, height] = this.size;
    return [Math.round(Math.min(width, Math.max(0, x))), Math.round(Math.min(height, Math.max(0, y)))];
  }

  #press(event) {
    if (event.button !== 0 || this.shape === "none") return;
    const place = this.#place(event);
    const handle = this.handles.findIndex((element) => element.contains(event.target));
    this.canvas.setPointerCapture(event.pointerId);
    if (this.shape === "rectangle") {
      // A new rectangle, or a corner of the present one whose opposite stays.
      this.dragging = { anchor: handle >= 0 ? this.points[(handle + 2) % 4] : place };
      return;
    }
    if (handle < 0 && !this.#append(place)) return;
    this.dragging = { point: handle < 0 ? this.points.length - 1 : handle };
  }

  #drag(event) {
    if (!this.dragging) return;
    const place = this.#place(event);
    if (this.dragging.anchor) this.points = rectangle(this.dragging.anchor, place) ?? this.points;
    else this.points[this.dragging.point] = place;
    this.#changed();
  }

  get #full() {
    return this.points.length >= MOST_POINTS;
  }

  /** Whether there was room for one more corner. */
  #append(place) {
    if (this.#full) return false;
    this.points.push(place);
    this.#changed();
    return true;
  }

  /** By keyboard: the first corners around the middle, further ones on the last edge. */
  #addPoint() {
    const [width, height] = this.size;
    const n = this.points.length;
    const start = [[0.25, 0.25], [0.75, 0.25], [0.75, 0.75]].map(([x, y]) => [x * width, y * height]);
    const [first, last] = [this.points[0], this.points[n - 1]];
    this.#append(this.#within(n < 3 ? start[n] : [(first[0] + last[0]) / 2, (first[1] + last[1]) / 2]));
    this.handles.at(-1)?.focus();
  }

  #key(event, index) {
    if (event.key in STEPS) {
      const [dx, dy] = STEPS[event.key].map((step) => step * (event.shiftKey ? 10 : 1));
      const place = this.#within([this.points[index][0] + dx, this.points[index][1] + dy]);
      if (this.shape === "rectangle") this.#slide(index, place);
      else this.points[index] = place;
    } else if (event.key === "Delete" && this.shape === "polygon") {
      this.points.splice(index, 1);
    } else {
      return;
    }
    event.preventDefault();
    this.#changed();
    // After a deletion the handles are others, and the focus would be lost.
    (this.handles[Math.min(index, this.handles.length - 1)] ?? this.more).focus();
  }

  /** Moves a corner without turning the rectangle inside out. */
  #slide(index, [x, y]) {
    const [[left, top], , [right, bottom]] = this.points;
    const columns = index === 0 || index === 3 ? [Math.min(x, right - 1), right] : [left, Math.max(x, left + 1)];
    const rows = index < 2 ? [Math.min(y, bottom - 1), bottom] : [top, Math.max(y, top + 1)];
    this.points = rectangle([columns[0], rows[0]], [columns[1], rows[1]]);
  }

  #typed() {
    const [x, y, width, height] = ["x", "y", "width", "height"].map((name) => Number(this.fields[name].value));
    const drawn = rectangle(this.#within([x, y]), this.#within([x + width, y + height]));
    if (!drawn) return;
    this.points = drawn;
    this.#changed(true);
  }

  /** @param {boolean} typed whether the fields say it already */
  #changed(typed = false) {
    show(this.numbers, this.shape === "rectangle" && this.size !== null);
    show(this.more, this.shape === "polygon" && this.size !== null);
    show(this.clear, this.points.length > 0);
    this.more.disabled = this.#full;
    say(this.hint, this.#full ? t("input.full", { n: MOST_POINTS }) : t(`input.hint_${this.shape}`));
    if (!typed && this.shape === "rectangle") {
      const [[x, y], , [right, bottom]] = this.points.length ? this.points : [["", ""], null, ["", ""]];
      const values = this.points.length ? { x, y, width: right - x, height: bottom - y } : { x: "", y: "", width: "", height: "" };
      for (const [name, value] of Object.entries(values)) this.fields[name].value = value;
    }
    this.#draw();
    this.onchange();
  }

  #draw() {
    if (!this.size) return;
    const [width, height] = this.size;
    const corners = this.points.map((point) => point.join(" "));
    this.outline.setAttribute("points", corners.join(" "));
    this.shade.setAttribute("d", this.roi ? `M0 0H${width}V${height}H0ZM${corners.join("L")}Z` : "");
    if (this.handles.length !== this.points.length) {
      this.handles = this.points.map((_, i) => svg("g", { class: "region-handle", tabindex: "0", role: "button", "aria-label": t("input.corner", { n: i + 1 }) },
        svg("circle", { class: "region-finger" }), svg("circle", { class: "region-dot" })));
      this.handles.forEach((handle, i) => handle.addEventListener("keydown", (event) => this.#key(event, i)));
      put(this.corners, this.handles);
    }
    const scale = width / (this.canvas.getBoundingClientRect().width || width);
    this.handles.forEach((handle, i) => {
      const [x, y] = this.points[i];
      [...handle.children].forEach((circle, part) => {
        for (const [name, value] of [["cx", x], ["cy", y], ["r", scale * (part ? HANDLE : FINGER)]]) circle.setAttribute(name, value);
      });
    });
  }
}

/** The corners of the rectangle between two points, or null if it has no area. */
function rectangle([x0, y0], [x1, y1]) {
  const [left, right, top, bottom] = [Math.min(x0, x1), Math.max(x0, x1), Math.min(y0, y1), Math.max(y0, y1)];
  if (left === right || top === bottom) return null;
  return [[left, top], [right, top], [right, bottom], [left, bottom]];
}
