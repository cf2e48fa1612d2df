// What reviewers said: kept by the service, exported as CSV, offered for the next update.

import * as api from "./api.js";
import { decision, isWrong } from "./card.js";
import { h, icon, put, say, show } from "./dom.js";
import { events } from "./events.js";
import * as format from "./format.js";
import { historyGrid } from "./judging.js";
import { t } from "./language.js";
import { lastAsked } from "./latest.js";
import { failed } from "./messages.js";
import { reviewedLines } from "./reviewed.js";
import { state } from "./state.js";

const MOST = 2000;
// The service takes no more at once.
const MOST_LESSONS = 2000;

const GROUPS = {
  false_alarm: { label: t("review.false_alarm"), note: t("review.false_alarm_note"), keep: (result) => result.verdict === "good" && result.anomalous },
  missed: { label: t("review.missed"), note: t("review.missed_note"), keep: (result) => isWrong(result, decision(result, null)) && !result.anomalous },
  confirmed: { label: t("review.confirmed"), note: t("review.confirmed_note"), keep: (result) => !isWrong(result, decision(result, null)) },
};

export class Review {
  constructor(viewer, judge, teach) {
    this.viewer = viewer;
    this.teach = teach;
    this.results = new Map();
    this.group = null;
    this.stale = true;
    this.asking = lastAsked();
    this.tallying = lastAsked();
    this.grid = historyGrid(t("review.grid"), viewer, judge, (id) => this.results.get(id));
    this.#build();
    state.addEventListener("model", () => this.#reload());
    for (const what of ["model", "calibration"]) state.addEventListener(what, () => { if (this.visible) this.#count(); });
    events.addEventListener("verdict", ({ detail }) => this.changed(detail));
    events.addEventListener("open", () => this.#reload());
  }

  enter() {
    this.visible = true;
    if (this.stale) this.load();
    else this.#update();
    this.#count();
  }

  leave() {
    this.visible = false;
  }

  /** What is shown may lack something: asks again, now or once somebody looks. */
  #reload() {
    this.stale = true;
    if (this.visible) this.load();
  }

  async load() {
    const isLast = this.asking();
    this.stale = false;
    this.results.clear();
    if (!state.model) {
      this.#update();
      return;
    }
    const { name } = state.model;
    this.loading = true;
    this.#update();
    try {
      const found = await api.newestResults({ model: name, verdict: "any" }, MOST);
      if (!isLast() || state.model?.name !== name) return;
      // The answer may lack what was reviewed meanwhile.
      this.results = new Map([...found, ...this.results.values()].map((result) => [result.id, result]));
    } catch (error) {
      if (!isLast()) return;
      this.stale = true;
      failed(error);
    } finally {
      if (isLast()) this.loading = false;
    }
    this.#update();
  }

  /** Found defects and false alarms among the reviewed results, by the present threshold. */
  async #count() {
    const isLast = this.tallying();
    const name = state.model?.name ?? null;
    if (name === null) {
      put(this.reviewed);
      return;
    }
    try {
      const counts = await api.reviewed(name);
      if (!isLast() || state.model?.name !== name) return;
      put(this.reviewed, reviewedLines(counts).map((line, place) => h("p", { class: place ? "small muted" : null }, line)));
    } catch (error) {
      if (!isLast()) return;
      put(this.reviewed);
      failed(error);
    }
  }

  /** Once for several changes at a time. */
  #countSoon() {
    clearTimeout(this.counting);
    this.counting = setTimeout(() => this.visible && this.#count(), 150);
  }

  changed(result) {
    if (result.model !== state.model?.name || this.stale) return;
    if (result.verdict) this.results.set(result.id, result);
    else this.results.delete(result.id);
    if (this.visible) {
      this.viewer.refresh(result);
      this.#update();
      this.#countSoon();
    }
  }

  #build() {
    this.buttons = Object.entries(GROUPS).map(([name, { label, note }]) => {
      const value = h("strong", { class: "figure-value" }, "0");
      const button = h("button", { class: "figure", type: "button", "aria-pressed": "false", onclick: () => {
        this.group = this.group === name ? null : name;
        this.#update();
      } }, h("span", { class: "figure-name" }, label), value, h("span", { class: "small muted" }, note));
      return { name, value, button };
    });
    this.csv = h("a", { class: "button", download: "" }, t("review.csv"));
    this.update = h("button", { class: "button primary for-engineers", type: "button", hidden: true, onclick: () => this.#teach() });
    this.updateNote = h("p", { class: "small muted" });
    this.reviewed = h("div", { class: "reviewed", role: "status" });
    this.empty = h("div", { class: "empty", hidden: true });
    put(document.getElementById("view-review"),
      h("header", { class: "view-head" },
        h("div", {}, h("h1", { id: "title-review" }, t("view.review")),
          h("p", { class: "muted" }, t("review.words"))),
        h("div", { class: "buttons" }, this.csv, this.update)),
      h("div", { class: "figures", role: "group", "aria-label": t("review.filter") }, this.buttons.map(({ button }) => button)),
      this.reviewed, this.updateNote, this.empty, this.grid.element);
  }

  #update() {
    const all = [...this.results.values()];
    for (const { name, value, button } of this.buttons) {
      say(value, format.count(all.filter(GROUPS[name].keep).length));
      button.setAttribute("aria-pressed", String(this.group === name));
    }
    const items = all.filter((result) => this.group === null || GROUPS[this.group].keep(result)).sort((a, b) => b.id - a.id);
    this.grid.update(items);
    this.grid.refresh();
    show(this.grid.element, items.length > 0);
    show(this.empty, items.length === 0);
    show(this.csv, state.model !== null && all.length > 0);
    if (state.model) this.csv.href = api.csv({ model: state.model.name, verdict: "any" });
    const lessons = this.#lessons();
    const able = Boolean(state.model?.can_update);
    show(this.update, able && lessons.length > 0);
    say(this.update, t("review.teach", { n: lessons.length }));
    say(this.updateNote, lessons.length === 0 ? "" : able
      ? t("review.teach_note", { model: state.model.name }) : t("review.cannot", { n: lessons.length, model: state.model.name }));
    if (!this.empty.hidden) this.#emptiness(all.length);
  }

  /** What was good after all, and the model has not learnt since it was trained. */
  #lessons() {
    const trained = new Date(state.model?.created ?? 0);
    return [...this.results.values()].filter((result) => GROUPS.false_alarm.keep(result) && result.kept !== false
      && !(result.learnt_at && new Date(result.learnt_at) >= trained)).slice(0, MOST_LESSONS);
  }

  #emptiness(marked) {
    put(this.empty, icon("corrected", "big"),
      h("h2", {}, t(this.loading ? "app.loading" : marked ? "review.none" : "review.empty")),
      this.loading || marked ? null : h("p", { class: "muted" }, t("review.empty_words")),
      this.loading || marked ? null : h("a", { class: "button", href: "#/inspect" }, t("review.to_results")));
  }

  async #teach() {
    this.update.disabled = true;
    try {
      await this.teach.ask(state.model.name, { results: this.#lessons().map(({ id }) => id) });
    } catch (error) {
      failed(error);
    } finally {
      this.update.disabled = false;
    }
  }
}
