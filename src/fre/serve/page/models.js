// The models of the service: their files to download, and to delete.

import * as api from "./api.js";
import { h, icon, put, show } from "./dom.js";
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
    const trouble = h("p", { class: "caveat small", role: "alert", hidden: true });
    const dialog = h("dialog", { class: "ask", "aria-labelledby": "delete-title" });
    const go = h("button", { class: "button danger", type: "button", onclick: async () => {
      go.disabled = true;
      try {
        await api.deleteModel(model.name, model.sha256);
        dialog.close();
        message(t("models.deleted", { model: model.name }));
        await state.load();
      } catch (error) {
        go.disabled = false;
        show(trouble, true);
        put(trouble, format.sentence(error.message));
      }
    } }, t("models.delete_name", { model: model.name }));
    put(dialog,
      h("div", { class: "ask-bar" }, h("h2", { id: "delete-title" }, t("models.delete_ask", { model: model.name })),
        h("button", { class: "button icon-only quiet", type: "button", "aria-label": t("app.close"), onclick: () => dialog.close() }, icon("close"))),
      h("p", {}, t("models.delete_words", { model: model.name })), trouble,
      h("div", { class: "buttons ask-end" }, go,
        h("button", { class: "button", type: "button", autofocus: true, onclick: () => dialog.close() }, t("models.keep"))));
    document.body.append(dialog);
    dialog.addEventListener("close", () => dialog.remove(), { once: true });
    dialog.showModal();
  }
}
