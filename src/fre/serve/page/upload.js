// Many images to the service, a few at a time, waiting when it is busy.

import * as api from "./api.js";
import { t } from "./language.js";

const BATCH = 8;
const AT_ONCE = 3;
const PATIENCE = 20;

export class Upload extends EventTarget {
  /** Events: `items` (detail: predictions), `progress`, `end`. */
  constructor(model, files, limits) {
    super();
    this.model = model;
    this.total = files.length;
    this.done = 0;
    this.started = performance.now();
    this.waiting = false;
    this.controller = new AbortController();
    this.batches = [];
    this.refused = [];
    const mostImages = Math.min(BATCH, limits.max_batch);
    let batch = [];
    let size = 0;
    for (const item of files) {
      if (item.file.size > limits.max_upload_bytes) {
        this.refused.push({
          name: item.name,
          error: t("files.too_large", { size: item.file.size, limit: limits.max_upload_bytes }),
        });
        continue;
      }
      // Some bytes are for the form around the files.
      if (batch.length && (batch.length >= mostImages || size + item.file.size > 0.9 * limits.max_upload_bytes)) {
        this.batches.push(batch);
        [batch, size] = [[], 0];
      }
      batch.push(item);
      size += item.file.size;
    }
    if (batch.length) this.batches.push(batch);
  }

  get stopped() {
    return this.controller.signal.aborted;
  }

  stop() {
    this.controller.abort();
  }

  async run() {
    this.#give(this.refused);
    await Promise.all(Array.from({ length: AT_ONCE }, () => this.#work()));
    this.dispatchEvent(new CustomEvent("end"));
  }

  async #work() {
    while (this.batches.length && !this.stopped) {
      const batch = this.batches.shift();
      try {
        this.#give(await this.#send(batch));
      } catch (error) {
        if (error.name === "AbortError") return;
        this.#give(batch.map(({ name }) => ({ name, error: error.message })));
        if (error.status === 0) this.stop();
      }
    }
  }

  async #send(batch) {
    for (let attempt = 0; ; attempt += 1) {
      try {
        const answer = await api.predict(this.model, batch, { signal: this.controller.signal });
        this.waiting = false;
        return answer.predictions;
      } catch (error) {
        // One bad image makes a 422 only if all of the batch are bad.
        if (!error.passing || attempt >= PATIENCE) throw error;
        this.waiting = true;
        this.dispatchEvent(new CustomEvent("progress"));
        await pause(1000 * (error.retryAfter ?? 1), this.controller.signal);
      }
    }
  }

  #give(items) {
    if (items.length === 0) return;
    this.done += items.length;
    this.dispatchEvent(new CustomEvent("items", { detail: items }));
    this.dispatchEvent(new CustomEvent("progress"));
  }
}

function pause(milliseconds, signal) {
  return new Promise((done, failed) => {
    const timer = setTimeout(done, milliseconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      failed(new DOMException("stopped", "AbortError"));
    }, { once: true });
  });
}
