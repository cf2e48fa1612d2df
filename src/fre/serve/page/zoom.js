// Zoom and pan, shared by several panes that show the same part.

// Image pixels can be magnified this many times; small images further, until they fill a pane.
const MAGNIFIED = 8;
const MOST = 24;
const PIXELS_SHOWN = 4;

export class Zoom {
  /** @param {() => void} onchange after the scale changed */
  constructor(onchange) {
    this.onchange = onchange;
    this.panes = [];
    /** CSS pixels of an image pixel while the image fits its pane. */
    this.fitted = 1;
    this.pointers = new Map();
    this.reset();
  }

  /** Makes a pane follow; its first child is the sheet that moves. */
  attach(pane) {
    this.panes.push(pane);
    pane.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.#zoomAt(pane, event, Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0022)));
    }, { passive: false });
    pane.addEventListener("dblclick", (event) => {
      if (this.scale > 1.01) this.reset();
      else this.#zoomAt(pane, event, 3);
    });
    pane.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      pane.setPointerCapture(event.pointerId);
      this.pointers.set(event.pointerId, event);
    });
    pane.addEventListener("pointermove", (event) => this.#drag(pane, event));
    for (const name of ["pointerup", "pointercancel"]) {
      pane.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
  }

  reset() {
    this.scale = 1;
    this.x = 0;
    this.y = 0;
    this.apply();
  }

  /** Screen pixels of an image pixel: 1 is one to one. */
  get level() {
    return this.scale * this.fitted * window.devicePixelRatio;
  }

  /** Shows one image pixel on one pixel of the screen, about the middle. */
  oneToOne() {
    this.by(1 / this.level);
  }

  /** Zooms about the middle. */
  by(factor) {
    this.#set(this.scale * factor, 0.5, 0.5);
  }

  /** Moves by shares of the pane. */
  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.apply();
  }

  /** Brings a box, in shares of the sheet, to the middle of the pane. */
  to({ x, y, width, height }, sheet, pane) {
    const fits = Math.min(pane.width / (width * sheet.width), pane.height / (height * sheet.height));
    this.scale = Math.max(1, Math.min(this.#most, 0.45 * fits));
    const middle = [
      (pane.width - sheet.width) / 2 + (x + width / 2) * sheet.width,
      (pane.height - sheet.height) / 2 + (y + height / 2) * sheet.height,
    ];
    this.x = 0.5 - this.scale * (middle[0] / pane.width);
    this.y = 0.5 - this.scale * (middle[1] / pane.height);
    this.apply();
  }

  apply() {
    // The part can't leave its pane.
    const least = 1 - this.scale;
    this.x = Math.max(Math.min(0, least), Math.min(Math.max(0, least), this.x));
    this.y = Math.max(Math.min(0, least), Math.min(Math.max(0, least), this.y));
    for (const pane of this.panes) {
      const { left, top, width, height } = pane.getBoundingClientRect();
      const sheet = pane.firstElementChild;
      if (!sheet) continue;
      const x = this.#onPixel(this.x * width, left, parseFloat(sheet.style.left));
      const y = this.#onPixel(this.y * height, top, parseFloat(sheet.style.top));
      sheet.style.transform = `translate(${x}px, ${y}px) scale(${this.scale})`;
      pane.classList.toggle("zoomed", this.scale > 1.01);
      pane.classList.toggle("pixels", this.level > PIXELS_SHOWN);
    }
    this.onchange?.();
  }

  /** A shift that puts the edge of the image, at `edge` in its pane, on the edge of a screen pixel. */
  #onPixel(shift, pane, edge) {
    if (!Number.isFinite(edge)) return shift;
    const ratio = window.devicePixelRatio;
    const before = pane + this.scale * edge;
    return Math.round((before + shift) * ratio) / ratio - before;
  }

  /** The scale at which a pixel of the image is a pixel of the screen. */
  get #whole() {
    return 1 / (this.fitted * window.devicePixelRatio);
  }

  get #most() {
    return Math.max(MOST, MAGNIFIED * this.#whole);
  }

  #set(scale, atX, atY) {
    // A small image fills its pane by being magnified; one to one is then smaller than that.
    const next = Math.max(Math.min(1, this.#whole), Math.min(this.#most, scale));
    this.x = atX - (atX - this.x) * (next / this.scale);
    this.y = atY - (atY - this.y) * (next / this.scale);
    this.scale = next;
    this.apply();
  }

  #zoomAt(pane, event, factor) {
    const box = pane.getBoundingClientRect();
    this.#set(this.scale * factor, (event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
  }

  #drag(pane, event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const box = pane.getBoundingClientRect();
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const distance = (from) => Math.hypot(from.clientX - other.clientX, from.clientY - other.clientY);
      const factor = distance(event) / Math.max(1, distance(before));
      const middle = { clientX: (event.clientX + other.clientX) / 2, clientY: (event.clientY + other.clientY) / 2 };
      this.#zoomAt(pane, middle, factor);
    } else {
      this.pan((event.clientX - before.clientX) / box.width, (event.clientY - before.clientY) / box.height);
    }
    this.pointers.set(event.pointerId, event);
  }
}
