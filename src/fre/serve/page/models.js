// The models of the service: their files to download, and to delete.

import * as api from "./api.js";
import { askToDelete } from "./ask.js";
import { h, put, show } from "./dom.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { message } from "./messages.js";
import { state } from "./state.js";

export class Models {
  constructor() {
    this.list = h("ul", { class: "model-list" });
    this.element = h("section", { class: "panel", "aria-label": t("models.title"), hidden: true }, h("h2", {}, t("models.title")), this.list);
    state.addEventListener("models", () => this.#draw());
  }

  #draw() {
    const { models, service } = state;
    show(this.element, models.length > 0);
    // A list that says the same is left alone: a button in it may have the focus.
    const said = JSON.stringify([models.map((model) => [model.name, model.sha256, this.#facts(model)]), service.can_train]);
    if (said === this.said) return;
    this.said = said;
    put(this.list, models.map((model) => h("li", {},
      h("div", {}, h("strong", {}, model.name), h("p", { class: "small muted" }, this.#facts(model))),
      h("div", { class: "buttons" },
        h("a", { class: "button", href: api.modelFile(model.name), download: `${model.name}.onnx`, "aria-label": t("models.download_name", { model: model.name }) }, t("models.download")),
        service.can_train ? h("button", { class: "button", type: "button", "aria-label": t("models.delete_name", { model: model.name }), onclick: () => this.#ask(model) }, t("models.delete")) : null))));
  }

  #facts({ bytes, n_images: n, size: [height, width] }) {
    const facts = { size: format.bytes(bytes), input: `${width} × ${height}` };
    return n === null ? t("models.facts_unknown", facts) : t("models.facts", { n, ...facts });
  }

  /** Deletes a model once its name was read and the question answered. */
  #ask(model) {
    askToDelete({
      title: t("models.delete_ask", { model: model.name }),
      words: t("models.delete_words", { model: model.name }),
      go: t("models.delete_name", { model: model.name }),
      run: async () => {
        await api.deleteModel(model.name, model.sha256);
        message(t("models.deleted", { model: model.name }));
        await state.load();
      },
    });
  }
}
