// Short notes at the edge of the page, and words for screen readers.

import { h, icon, say } from "./dom.js";
import { t } from "./language.js";

/** An error, and a note with something to do, stay until they are closed; other notes go by themselves. */
export function message(text, { kind = "note", action = null } = {}) {
  const list = document.getElementById("messages");
  for (const old of list.children) if (old.dataset.text === text) old.remove();
  const close = () => item.remove();
  const item = h("div", { class: `message ${kind}`, role: kind === "error" ? "alert" : "status", data: { text } },
    h("p", {}, text),
    action && h("button", { class: "button quiet", type: "button", onclick: () => { close(); action.run(); } }, action.label),
    h("button", { class: "button quiet icon-only", type: "button", "aria-label": t("app.close_message"), onclick: close }, icon("close")));
  list.append(item);
  while (list.children.length > 4) list.firstElementChild.remove();
  if (kind !== "error" && !action) setTimeout(close, 6000);
}

export function failed(error) {
  if (error.name !== "AbortError") message(error.message, { kind: "error" });
}

export function announce(text) {
  say(document.getElementById("announcer"), text);
}
