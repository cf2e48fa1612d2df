// Odd training images: what they look like, and what to do about them.

import * as api from "./api.js";
import { h, put, show } from "./dom.js";
import * as format from "./format.js";
import { failed, message } from "./messages.js";
import { state } from "./state.js";

const SHOWN = 12;

export class OddImages {
  /** @param {(job: object) => void} onjob gets the training that somebody began */
  constructor(onjob) {
    this.onjob = onjob;
    this.element = h("section", { class: "odd", "aria-label": "Odd training images", hidden: true });
  }

  /** Shows those of a model; of none, nothing. */
  async load(name) {
    this.name = name;
    if (name === null) {
      show(this.element, false);
      return;
    }
    try {
      const found = await api.odd(name);
      if (this.name === name) this.#draw(found);
    } catch (error) {
      show(this.element, false);
      // The model may just have been removed.
      if (error.code !== "not_found") failed(error);
    }
  }

  #draw(odd) {
    const { images } = odd;
    show(this.element, images.length > 0);
    if (images.length === 0) return;
    const several = images.length > 1;
    const next = odd.next_score === null ? "" : ` The next score is ${format.score(odd.next_score)}.`;
    const words = odd.keep_odd
      ? `${several ? "They count" : "It counts"} for the threshold like all others.${next}`
      : `Set aside for the threshold: often a wrong part or a bad photo.${next}`;
    const button = (text, run, properties = {}) => h("button", { class: "button", type: "button", onclick: (event) => this.#do(event.currentTarget, run), ...properties }, text);
    put(this.element,
      h("h3", {}, odd.keep_odd ? `${format.many(images.length, "odd training image")}, kept` : format.many(images.length, "odd training image")),
      h("p", { class: "small muted" }, words),
      h("ul", { class: "odd-images" }, images.slice(0, SHOWN).map((image) => h("li", {},
        image.picture ? h("img", { src: image.picture, alt: image.name, decoding: "async" }) : h("span", { class: "absent" }, "No picture kept"),
        h("span", { class: "odd-name small", title: image.name }, image.name), h("strong", { class: "small" }, format.score(image.score))))),
      images.length > SHOWN ? h("p", { class: "small muted" }, `and ${format.count(images.length - SHOWN)} more`) : null,
      h("div", { class: "buttons" },
        odd.can_train_again ? button("Leave out and train again", () => this.#again(odd)) : null,
        odd.keep_odd ? button("Set aside again", () => this.#keep(odd, false)) : button("Keep", () => this.#keep(odd, true))),
      odd.note ? h("p", { class: "small muted" }, `${odd.note[0].toUpperCase()}${odd.note.slice(1)}.`) : null);
  }

  async #do(button, run) {
    button.disabled = true;
    try {
      await run();
    } catch (error) {
      failed(error);
      this.load(this.name);
    } finally {
      button.disabled = false;
    }
  }

  async #again(odd) {
    const job = await api.trainAgain(odd.model);
    message(`Training ${odd.model} again, without ${format.many(odd.images.length, "image")}.`);
    this.onjob(job);
  }

  async #keep(odd, keep) {
    const calibration = await api.keepOdd(odd.model, keep, odd.sha256);
    message(keep ? "Kept: they count for the threshold now." : "Set aside: they do not count for the threshold.");
    if (state.model?.name === odd.model) state.saved(calibration);
    else await state.load();
    await this.load(odd.model);
  }
}
