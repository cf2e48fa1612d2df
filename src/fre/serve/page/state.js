// What all views share: the service, its models, and the one that is chosen.

import * as api from "./api.js";
import { lastAsked } from "./latest.js";

const MODEL_KEY = "fre.model";

class State extends EventTarget {
  service = null;
  models = [];
  /** Model files that can't be loaded: `{name, error}`. */
  failures = [];
  /** The summary of the chosen model, or null. */
  model = null;
  calibration = null;
  #asking = lastAsked();

  /** Asks the service anew; events: `models`, and `model` if another one or another file is meant. */
  async load() {
    const [service, { models, errors }] = await Promise.all([api.service(), api.models()]);
    this.service = service;
    this.models = models;
    // A model whose file was damaged since goes on serving what was loaded before.
    this.failures = [...errors, ...models.filter(({ error }) => error)];
    const name = this.model?.name ?? this.#remembered();
    const chosen = models.find((model) => model.name === name) ?? models[0] ?? null;
    if (chosen?.sha256 !== this.model?.sha256 || chosen?.name !== this.model?.name) {
      await this.#take(chosen);
    } else {
      this.model = chosen;
      this.#tell("models");
    }
  }

  async select(name) {
    const chosen = this.models.find((model) => model.name === name);
    if (!chosen || chosen.name === this.model?.name) return;
    localStorage.setItem(MODEL_KEY, name);
    await this.#take(chosen);
  }

  /** After the threshold was saved: only the calibration is new. */
  saved(calibration) {
    this.calibration = calibration;
    this.model = { ...this.model, sha256: calibration.sha256, threshold: calibration.threshold,
      review_threshold: calibration.review_threshold, n_odd: calibration.n_odd,
      false_alarm_rate: calibration.false_alarm_rate, expected_false_alarm_rate: calibration.expected_false_alarm_rate };
    this.models = this.models.map((model) => (model.name === this.model.name ? this.model : model));
    this.#tell("models");
    this.#tell("calibration");
  }

  async #take(model) {
    const isLast = this.#asking();
    const calibration = model && await api.calibration(model.name);
    // Another model was chosen meanwhile.
    if (!isLast()) return;
    const refitted = model?.name !== this.model?.name || model?.created !== this.model?.created;
    this.model = model;
    this.calibration = calibration;
    this.#tell("models");
    this.#tell(refitted ? "model" : "calibration");
  }

  #remembered() {
    return localStorage.getItem(MODEL_KEY);
  }

  #tell(name) {
    this.dispatchEvent(new CustomEvent(name));
  }
}

export const state = new State();
