// What the source of the service is doing, asked for while somebody looks.

import * as api from "./api.js";

const SECONDS = 3;
const PATIENCE = 6;

/** Asks `/v1/source` every few seconds. Events: `source`, `lost` if there is no answer. */
class SourceState extends EventTarget {
  /** The answer of the service, or null. */
  answer = null;
  #watchers = 0;

  /** Somebody looks from now on; call the returned function when not any more. */
  watch() {
    this.#watchers += 1;
    if (this.#watchers === 1) this.#ask();
    let stopped = false;
    return () => {
      if (!stopped) this.#watchers -= 1;
      stopped = true;
    };
  }

  /** Takes an answer that came another way. */
  take(answer) {
    this.answer = answer;
    this.dispatchEvent(new CustomEvent("source"));
  }

  async #ask() {
    clearTimeout(this.timer);
    try {
      // A cable that was pulled gives no error for minutes.
      this.take(await api.source({ signal: AbortSignal.timeout(1000 * PATIENCE) }));
    } catch (error) {
      this.dispatchEvent(new CustomEvent("lost", { detail: error }));
    }
    clearTimeout(this.timer);
    if (this.#watchers > 0) this.timer = setTimeout(() => this.#ask(), 1000 * SECONDS);
  }
}

export const sourceState = new SourceState();
