// The start: which view, which model, whether the service is there, and where a drop goes.

import * as api from "./api.js";
import { h, offer, put, say, show } from "./dom.js";
import { events } from "./events.js";
import { fromDrop } from "./files.js";
import { sentence } from "./format.js";
import { Inspect } from "./inspect.js";
import { choose, language, LANGUAGES, t, translate } from "./language.js";
import { Live } from "./live.js";
import { failed, message } from "./messages.js";
import { Operate } from "./operate.js";
import { Review } from "./review.js";
import { homeOfRole, mayOpen } from "./role.js";
import { Start } from "./start.js";
import { state } from "./state.js";
import { TeachDialog } from "./teach.js";
import { Train } from "./train.js";
import { Viewer } from "./viewer.js";

translate(document);

const teach = new TeachDialog();
const viewer = new Viewer(document.getElementById("viewer"), judge);
const views = {
  start: new Start(), inspect: new Inspect(viewer, judge), live: new Live(viewer, judge), operate: new Operate(judge),
  review: new Review(viewer, judge, teach), train: new Train(teach),
};
let current = null;

/** A reviewer's word: shown at once, taken back if the service refuses it. */
async function judge(result, verdict) {
  const told = (changed) => {
    for (const view of [views.inspect, views.live, views.operate, views.review]) view.changed(changed);
  };
  told({ ...result, verdict });
  try {
    told(await api.setVerdict(result.id, verdict));
  } catch (error) {
    told(result);
    failed(error);
  }
}

/** Where a visit begins: at the steps, until there is a model and a result. Null while nothing is known. */
function landing() {
  if (!state.service) return null;
  return state.models.length > 0 && state.service.n_results > 0 ? "inspect" : "start";
}

function route() {
  const name = location.hash.replace(/^#\//, "");
  const next = name in views && mayOpen(name) ? name : homeOfRole() ?? landing();
  if (next === null || next === current) return;
  if (current) views[current].leave?.();
  current = next;
  for (const view of Object.keys(views)) show(document.getElementById(`view-${view}`), view === current);
  for (const link of document.querySelectorAll(".views a")) {
    if (link.hash === `#/${current}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  document.title = `${t(`view.${current}`)}: fre`;
  window.scrollTo({ top: 0 });
  views[current].enter?.();
}

// The header ----------------------------------------------------------------------------------

const picker = document.getElementById("model");
picker.addEventListener("change", () => state.select(picker.value).catch(failed));
state.addEventListener("models", () => {
  const names = state.models.map(({ name }) => name);
  if (names.length) offer(picker, names, state.model?.name);
  else put(picker, h("option", {}, t("app.no_model")));
  picker.disabled = names.length === 0;
});

const broken = document.getElementById("broken-models");
state.addEventListener("models", () => {
  const { failures } = state;
  show(broken, failures.length > 0);
  say(broken.firstElementChild, failures.length ? t("app.broken_models", { n: failures.length }) : "");
  put(broken.lastElementChild, failures.map(({ name, error }) => h("li", {}, h("strong", {}, name), ` ${error}`)));
});

const languages = document.getElementById("language");
put(languages, Object.entries(LANGUAGES).map(([code, name]) => h("option", { value: code, lang: code, selected: code === language }, name)));
languages.addEventListener("change", () => choose(languages.value));

const service = document.getElementById("service");
function connection(connected) {
  service.dataset.state = connected ? "ready" : "lost";
  say(service, t(connected ? "app.connected" : "app.no_connection"));
}

// Drops ---------------------------------------------------------------------------------------

const dropping = document.getElementById("dropping");
let inside = 0;
const hasFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
window.addEventListener("dragenter", (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  inside += 1;
  say(document.getElementById("dropping-text"), current === "train" ? t("drop.train") : state.model ? t("drop.inspect", { model: state.model.name }) : t("drop.images"));
  show(dropping, true);
});
window.addEventListener("dragover", (event) => {
  if (hasFiles(event)) event.preventDefault();
});
window.addEventListener("dragleave", (event) => {
  if (!hasFiles(event)) return;
  inside -= 1;
  if (inside <= 0) show(dropping, false);
});
window.addEventListener("drop", async (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  inside = 0;
  show(dropping, false);
  try {
    const files = await fromDrop(event.dataTransfer);
    if (current === "train") {
      views.train.add(files);
    } else {
      location.hash = "#/inspect";
      await views.inspect.inspect(files);
    }
  } catch (error) {
    failed(error);
  }
});

// The token -----------------------------------------------------------------------------------

let asking = null;
api.onUnauthorized(() => {
  asking ??= askForToken().finally(() => { asking = null; });
  return asking;
});

function askForToken() {
  const dialog = document.getElementById("token-dialog");
  const field = h("input", { class: "field", id: "token", type: "password", autocomplete: "current-password", required: true, "aria-describedby": "token-note" });
  const note = h("p", { class: "small muted note", id: "token-note", role: "status" }, t("token.note"));
  return new Promise((done) => {
    const form = h("form", { onsubmit: async (event) => {
      event.preventDefault();
      try {
        await api.openSession(field.value);
      } catch (error) {
        field.setAttribute("aria-invalid", "true");
        say(note, error.message);
        field.select();
        return;
      }
      dialog.removeEventListener("cancel", stay);
      dialog.close();
      events.start();
      done();
    } },
    h("h2", { id: "token-title" }, t("token.title")),
    h("div", { class: "labelled" }, h("label", { for: "token" }, t("token.label")), field, note),
    h("div", { class: "buttons" }, h("button", { class: "button primary", type: "submit" }, t("token.open"))));
    const stay = (event) => event.preventDefault();
    dialog.addEventListener("cancel", stay);
    put(dialog, form);
    dialog.showModal();
    field.focus();
  });
}

// Go ------------------------------------------------------------------------------------------

let retry = 1000;
async function begin() {
  try {
    await state.load();
    retry = 1000;
  } catch (error) {
    connection(false);
    if (current === null) location.hash = "#/inspect";
    views.inspect.unreachable(error.message);
    setTimeout(begin, retry);
    retry = Math.min(10000, 2 * retry);
    return;
  }
  if (state.service.note) message(sentence(state.service.note), { kind: "error" });
  route();
  if (!state.model) views.inspect.load();
  connection(true);
  events.start();
}

events.addEventListener("open", () => {
  connection(true);
  state.load().catch(failed);
});
events.addEventListener("lost", () => connection(false));
events.addEventListener("models", () => state.load().catch(failed));
window.addEventListener("hashchange", route);
route();
begin();
