// The way from photos of good parts to the line, in four steps, and which of them are done.

import { h, icon, put } from "./dom.js";
import { some } from "./files.js";
import { t } from "./language.js";
import { failed } from "./messages.js";
import { state } from "./state.js";

/** Where each step is taken. */
const STEPS = [
  { name: "photograph", words: t("start.photograph_words"), title: t("start.photograph"), go: t("start.photograph_go"), view: "train", note: t("start.photograph_samples") },
  { name: "train", words: t("start.train_words"), title: t("start.train"), go: t("start.train_go"), view: "train" },
  { name: "check", words: t("start.check_words"), title: t("start.check"), go: t("start.check_go"), view: "inspect" },
  { name: "use", words: t("start.use_words"), title: t("start.use"), go: t("start.use_go"), view: "live" },
];

export class Start {
  constructor() {
    this.list = h("ol", { class: "steps", "aria-label": t("start.steps") });
    put(document.getElementById("view-start"),
      h("header", { class: "view-head" }, h("div", {}, h("h1", { id: "title-start" }, t("start.title")), h("p", { class: "muted" }, t("start.words")))),
      this.list);
    state.addEventListener("models", () => this.#draw());
    this.#draw();
  }

  /** How far it is may have changed since. */
  enter() {
    if (state.service) state.load().catch(failed);
  }

  #draw() {
    const { models } = state;
    const results = state.service?.n_results ?? 0;
    const trained = models.length ? t("start.trained", { n: models.length, names: some(models.map(({ name }) => name)) }) : null;
    const done = { photograph: trained && "", train: trained, check: trained && results ? t("start.checked", { n: results }) : null };
    const next = STEPS.find(({ name }) => (done[name] ?? null) === null);
    put(this.list, STEPS.map((step) => this.#step(step, done[step.name] ?? null, step === next)));
  }

  /** @param {string | null} done what there is of a step that was taken */
  #step({ title, words, go, view, note }, done, next) {
    const mark = done !== null ? t("start.done") : next ? t("start.next") : "";
    return h("li", { class: "panel step", "aria-current": next ? "step" : null, data: { done: String(done !== null) } },
      h("p", { class: "step-mark small" }, done !== null ? icon("good") : null, mark),
      h("h2", {}, title), h("p", {}, words),
      note ? h("p", { class: "small muted" }, note) : null,
      done ? h("p", { class: "small muted" }, done) : null,
      h("a", { class: `button ${next ? "primary" : ""}`, href: `#/${view}` }, go));
  }
}
