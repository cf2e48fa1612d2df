// A panel of what the service knows of one model.

import { show } from "./dom.js";
import { lastAsked } from "./latest.js";
import { failed } from "./messages.js";

/** Subclasses have `draw(found)`, which shows or hides the element. */
export class ModelPanel {
  #asking = lastAsked();

  /**
   * @param {(name: string) => Promise<object>} ask the service for what `draw` gets
   * @param {HTMLElement} element
   */
  constructor(ask, element) {
    this.ask = ask;
    this.element = element;
  }

  /** Shows that of a model; of none, nothing. */
  async load(name) {
    const isLast = this.#asking();
    this.name = name;
    if (name === null) {
      show(this.element, false);
      return;
    }
    try {
      const found = await this.ask(name);
      if (isLast()) this.draw(found);
    } catch (error) {
      if (!isLast()) return;
      show(this.element, false);
      // The model may just have been removed.
      if (error.code !== "not_found") failed(error);
    }
  }
}
