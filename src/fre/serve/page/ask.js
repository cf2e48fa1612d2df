// A question before something is deleted.

import { h, icon, put, show } from "./dom.js";
import { sentence } from "./format.js";
import { t } from "./language.js";

/**
 * Asks whether to delete, and does it; what goes wrong is said in the question.
 * @param {object} question
 * @param {string} question.title what is asked
 * @param {string} question.words what is lost
 * @param {string} question.go what the button says that deletes
 * @param {() => Promise<void>} question.run deletes
 */
export function askToDelete({ title, words, go, run }) {
  const trouble = h("p", { class: "caveat small", role: "alert", hidden: true });
  const dialog = h("dialog", { class: "ask", "aria-labelledby": "delete-title" });
  const remove = h("button", { class: "button danger", type: "button", onclick: async () => {
    remove.disabled = true;
    try {
      await run();
      dialog.close();
    } catch (error) {
      remove.disabled = false;
      show(trouble, true);
      put(trouble, sentence(error.message));
    }
  } }, go);
  put(dialog,
    h("div", { class: "ask-bar" }, h("h2", { id: "delete-title" }, title),
      h("button", { class: "button icon-only quiet", type: "button", "aria-label": t("app.close"), onclick: () => dialog.close() }, icon("close"))),
    h("p", {}, words), trouble,
    h("div", { class: "buttons ask-end" }, remove,
      h("button", { class: "button", type: "button", autofocus: true, onclick: () => dialog.close() }, t("app.keep"))));
  document.body.append(dialog);
  dialog.addEventListener("close", () => dialog.remove(), { once: true });
  dialog.showModal();
}
