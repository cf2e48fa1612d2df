// Who reads the page. What a role does not allow is hidden here, and refused by the service.

import * as api from "./api.js";
import { h, put, show } from "./dom.js";
import { t } from "./language.js";
import { failed } from "./messages.js";
import { state } from "./state.js";

const FOR_ENGINEERS = ["start", "train"];

const isOperator = () => state.service?.role === "operator";

/** Whether the reader's role may open a view. */
export const mayOpen = (view) => !(isOperator() && FOR_ENGINEERS.includes(view));

/** The view of a reader who asked for none, or null for anybody's. */
export const homeOfRole = () => (isOperator() ? "operate" : null);

const signedIn = document.getElementById("signed-in");
state.addEventListener("models", () => {
  const { role, token_needed: needed } = state.service;
  document.documentElement.dataset.role = role;
  show(signedIn, needed);
  put(signedIn, h("button", { class: "button quiet small", type: "button", onclick: signOut }, t("role.sign_out", { role: t(`role.${role}`) })));
});

async function signOut() {
  try {
    await api.closeSession();
    location.reload();
  } catch (error) {
    failed(error);
  }
}
