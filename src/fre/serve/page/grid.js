// A grid of cards of which only those near the window exist: a thousand images stay smooth.

import { h } from "./dom.js";

const AHEAD = 600;

export class Grid {
  /**
   * @param {object} options
   * @param {(item: object) => {element: HTMLElement, focusable: HTMLElement, update: Function}} options.card
   *   makes a card: the element to place, what in it takes the focus, and how it follows its item
   * @param {(item: object) => void} options.onopen click (of a button: Enter and space, too)
   * @param {(item: object, key: string) => boolean} [options.onkey] other keys; true if it was used
   * @param {string} options.label
   */
  constructor({ card, onopen, onkey, label, width = 210 }) {
    Object.assign(this, { card, onopen, onkey, minimum: width });
    this.items = [];
    this.cards = new Map();
    this.active = null;
    this.element = h("div", { class: "grid", role: "list", "aria-label": label });
    this.element.addEventListener("click", (event) => this.#click(event));
    this.element.addEventListener("keydown", (event) => this.#key(event));
    this.element.addEventListener("focusin", (event) => {
      const id = event.target.closest("[data-id]")?.dataset.id;
      if (id) this.#activate(id);
    });
    this.columns = 1;
    // The height of a caption, until a card has told it.
    this.below = 60;
    new ResizeObserver(() => this.#measure()).observe(this.element);
    const schedule = () => this.#schedule();
    window.addEventListener("scroll", schedule, { passive: true });
    window.addEventListener("resize", schedule, { passive: true });
  }

  /** The items to show, in order; each has an `id`. Cards that stay are moved, not made anew. */
  update(items) {
    this.items = items;
    this.places = new Map(items.map((item, place) => [String(item.id), place]));
    if (!this.places.has(this.active)) this.active = items.length ? String(items[0].id) : null;
    this.#layout();
  }

  /** Calls `update` of the cards on screen; the order stays. */
  refresh() {
    for (const [id, card] of this.cards) {
      const place = this.places.get(id);
      if (place !== undefined) card.update(this.items[place]);
    }
  }

  /** Whether somebody is at work in it, so that its order should hold still. */
  get busy() {
    return this.element.contains(document.activeElement) || this.element.getBoundingClientRect().top < 0;
  }

  /** Scrolls to the item of an id and gives it the focus. */
  focus(item) {
    const id = String(item);
    const place = this.places.get(id);
    if (place === undefined || !this.rowHeight) return;
    this.#activate(id);
    const top = this.element.getBoundingClientRect().top + window.scrollY + Math.floor(place / this.columns) * this.rowHeight;
    const bar = 140;
    if (top < window.scrollY + bar) window.scrollTo({ top: top - bar });
    else if (top + this.rowHeight > window.scrollY + window.innerHeight) {
      window.scrollTo({ top: top + this.rowHeight - window.innerHeight + 16 });
    }
    this.#render();
    this.cards.get(id)?.focusable.focus({ preventScroll: true });
  }

  #measure() {
    const width = this.element.clientWidth;
    if (!width) return;
    if (width === this.width) {
      // It may have been out of sight, where nothing is drawn.
      this.#schedule();
      return;
    }
    this.width = width;
    this.#layout();
  }

  #layout() {
    if (!this.width) return;
    const gap = this.width < 520 ? 10 : 14;
    const minimum = this.width < 520 ? 150 : this.width > 2200 ? 1.25 * this.minimum : this.minimum;
    this.columns = Math.max(1, Math.floor((this.width + gap) / (minimum + gap)));
    this.cardWidth = Math.floor((this.width - gap * (this.columns - 1)) / this.columns);
    this.gap = gap;
    this.rowHeight = this.cardWidth + this.below + gap;
    const rows = Math.ceil(this.items.length / this.columns);
    this.element.style.height = `${Math.max(0, rows * this.rowHeight - gap)}px`;
    this.element.style.setProperty("--card-width", `${this.cardWidth}px`);
    this.#render();
  }

  #schedule() {
    if (this.scheduled) return;
    this.scheduled = requestAnimationFrame(() => {
      this.scheduled = 0;
      this.#render();
    });
  }

  #render() {
    if (!this.rowHeight || !this.element.offsetParent) return;
    const top = this.element.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor((-top - AHEAD) / this.rowHeight)) * this.columns;
    const last = Math.min(this.items.length, Math.ceil((window.innerHeight - top + AHEAD) / this.rowHeight) * this.columns);
    const wanted = new Set();
    for (let place = first; place < last; place += 1) wanted.add(String(this.items[place].id));
    // The focus must not be lost because its card was scrolled out of sight.
    const focused = document.activeElement?.closest?.("[data-id]")?.dataset.id;
    if (focused && this.places.has(focused)) wanted.add(focused);
    for (const [id, card] of this.cards) {
      if (wanted.has(id)) continue;
      card.element.remove();
      this.cards.delete(id);
    }
    for (const id of wanted) {
      const place = this.places.get(id);
      const item = this.items[place];
      let card = this.cards.get(id);
      if (!card) {
        card = this.card(item);
        card.element.dataset.id = id;
        card.element.classList.add("entering");
        this.cards.set(id, card);
        this.element.append(card.element);
        requestAnimationFrame(() => card.element.classList.remove("entering"));
      }
      card.update(item);
      const x = (place % this.columns) * (this.cardWidth + this.gap);
      const y = Math.floor(place / this.columns) * this.rowHeight;
      card.element.style.transform = `translate(${x}px, ${y}px)`;
      card.element.setAttribute("aria-posinset", String(place + 1));
      card.element.setAttribute("aria-setsize", String(this.items.length));
      card.focusable.tabIndex = id === this.active ? 0 : -1;
      card.place = place;
    }
    // Screen readers follow the order in the document, not the one on screen.
    const ordered = [...this.cards.values()].sort((a, b) => a.place - b.place);
    this.#fit(ordered[0]);
    let before = null;
    for (let i = ordered.length - 1; i >= 0; i -= 1) {
      const { element } = ordered[i];
      if (element.nextElementSibling !== before && !element.contains(document.activeElement)) {
        this.element.insertBefore(element, before);
      }
      before = element;
    }
  }

  #fit(card) {
    if (!card) return;
    const below = card.element.offsetHeight - this.cardWidth;
    if (below < 20 || Math.abs(below - this.below) < 1) return;
    this.below = below;
    this.#layout();
  }

  #activate(id) {
    if (this.active !== id) {
      const old = this.cards.get(this.active);
      if (old) old.focusable.tabIndex = -1;
      this.active = id;
    }
    const card = this.cards.get(id);
    if (card) card.focusable.tabIndex = 0;
  }

  #click(event) {
    const id = event.target.closest("[data-id]")?.dataset.id;
    if (id) this.onopen(this.items[this.places.get(id)]);
  }

  #key(event) {
    const id = event.target.closest("[data-id]")?.dataset.id;
    if (!id || event.ctrlKey || event.metaKey || event.altKey) return;
    const place = this.places.get(id);
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns,
      Home: -place, End: this.items.length - 1 - place,
      PageUp: -3 * this.columns, PageDown: 3 * this.columns,
    };
    if (event.key in steps) {
      const next = Math.max(0, Math.min(this.items.length - 1, place + steps[event.key]));
      this.focus(this.items[next].id);
    } else if (!this.onkey?.(this.items[place], event.key)) {
      return;
    }
    event.preventDefault();
  }
}
