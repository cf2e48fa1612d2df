// What the stage says while there is no result to show.

import { h, icon, put } from "./dom.js";
import { t } from "./language.js";
import { state } from "./state.js";

export class EmptyStage {
  /** @param {object} actions `load`, `images`, `folder`, `samples` and `earlier`, what its buttons do */
  constructor(actions) {
    this.actions = actions;
    this.element = h("div", { class: "empty" });
  }

  /**
   * @param {string | null} failure why the results are not known
   * @param {boolean} earlier whether there are results of an earlier batch
   */
  draw(failure, earlier) {
    const kind = failure ? "failure" : !state.service ? "loading" : state.model ? "drop" : "model";
    const key = `${kind} ${state.model?.name} ${failure} ${earlier}`;
    if (this.element.dataset.key === key) return;
    this.element.dataset.key = key;
    const button = (key, run, look = null) => h("button", { class: look ? `button ${look}` : "button", type: "button", onclick: run }, t(key));
    const { load, images, folder, samples } = this.actions;
    if (kind === "loading") {
      put(this.element, h("p", { class: "muted" }, t("app.loading")));
    } else if (kind === "failure") {
      put(this.element, h("h2", {}, t("inspect.failed")), h("p", { class: "muted" }, failure),
        state.service ? button("inspect.try_again", load, "primary") : h("p", { class: "muted" }, t("inspect.trying")));
    } else if (kind === "model") {
      put(this.element, icon("drop", "big"), h("h2", {}, t("inspect.bare")),
        h("p", { class: "muted" }, t("inspect.bare_words")),
        h("div", { class: "buttons for-engineers" }, h("a", { class: "button primary", href: "#/train" }, t("inspect.train")),
          h("a", { class: "button", href: "#/start" }, t("inspect.start"))));
    } else {
      put(this.element, icon("drop", "big"), h("h2", {}, t("inspect.drop")),
        h("p", { class: "muted" }, t("inspect.drop_words", { model: state.model.name })),
        h("div", { class: "buttons" },
          button("inspect.choose", images, "primary"), button("inspect.choose_folder", folder), button("inspect.try_sample", samples)),
        earlier ? button("inspect.earlier", this.actions.earlier, "quiet small") : null);
    }
  }
}
