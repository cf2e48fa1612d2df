// The operator's screen: the current part and its decision, to be read from three metres.

import * as api from "./api.js";
import { boxes, correction, decision } from "./card.js";
import { h, icon, offer, put, say, show } from "./dom.js";
import { events } from "./events.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { lastAsked } from "./latest.js";
import { failed, message } from "./messages.js";
import { Sound } from "./sound.js";
import { sourceState } from "./source_state.js";
import { state } from "./state.js";

const SHOWN = 10;
/** Results that are asked for at once: some may be of the page. */
const ASKED = 100;
/** Milliseconds after a change of part in which a press may still be meant for the part before. */
const GRACE = 500;
const SHIFT_KEY = "fre.shift";
const AWAY = ["reconnecting", "failed", "waiting"];

/** What the two buttons say of a part, by its decision. */
const ANSWERS = {
  anomalous: [["good", t("operate.false_alarm")], ["defect", t("operate.confirm")]],
  review: [["good", t("operate.is_good")], ["defect", t("operate.is_defect")]],
  good: [["defect", t("operate.missed")], ["good", t("operate.confirm")]],
};

export class Operate {
  constructor(judge) {
    this.judge = judge;
    this.results = new Map();
    /** The part that somebody chose from the strip, or null to follow the newest. */
    this.pinned = null;
    this.lost = false;
    this.sound = new Sound();
    this.asking = lastAsked();
    this.tallying = lastAsked();
    this.#build();
    state.addEventListener("model", () => this.#reload());
    state.addEventListener("models", () => this.#models());
    events.addEventListener("result", ({ detail }) => this.#arrive(detail));
    events.addEventListener("verdict", ({ detail }) => this.changed(detail));
    events.addEventListener("lagged", () => this.#reload());
    events.addEventListener("open", () => { this.#reached(true); this.#reload(); });
    events.addEventListener("lost", () => this.#reached(false));
    sourceState.addEventListener("source", () => { this.#reached(events.connected !== false); this.#source(); });
    sourceState.addEventListener("lost", () => this.#reached(false));
    this.stale = true;
  }

  enter() {
    this.visible = true;
    document.body.dataset.view = "operate";
    this.unwatch = sourceState.watch();
    if (this.stale) this.load();
    else this.#update();
  }

  leave() {
    this.visible = false;
    delete document.body.dataset.view;
    this.unwatch();
    if (document.fullscreenElement) document.exitFullscreen();
  }

  /** What is shown may lack something: asks again, now or once somebody looks. */
  #reload() {
    this.stale = true;
    if (this.visible) this.load();
  }

  /** The last parts of the chosen model, without images uploaded on the page. */
  async load() {
    const isLast = this.asking();
    this.stale = false;
    this.pinned = null;
    if (!state.model) {
      this.results.clear();
      this.#update();
      return;
    }
    const { name } = state.model;
    const before = new Set(this.results.keys());
    try {
      const { results } = await api.results({ model: name, limit: ASKED });
      if (!isLast() || state.model?.name !== name) return;
      // The answer may lack what came meanwhile.
      const came = [...this.results.values()].filter((result) => !before.has(result.id) && result.model === name);
      this.results = new Map([...came, ...results.filter(ofLine)].map((result) => [result.id, result]));
      this.#update();
      await this.#count();
    } catch (error) {
      if (!isLast()) return;
      this.stale = true;
      if (error.status) failed(error);
    }
  }

  changed(result) {
    if (!this.results.has(result.id)) return;
    this.results.set(result.id, result);
    this.#update();
    this.#countSoon();
  }

  #arrive(result) {
    if (result.model !== state.model?.name || !ofLine(result)) return;
    this.results.set(result.id, result);
    const ids = [...this.results.keys()].sort((a, b) => b - a);
    for (const id of ids.slice(SHOWN)) if (id !== this.pinned) this.results.delete(id);
    if (!this.visible) return;
    if (this.timer) return;
    // A fast camera would change the picture before anybody saw it.
    this.timer = setTimeout(() => { this.timer = null; this.#update(true); }, 100);
    this.#countSoon();
  }

  #newest() {
    return [...this.results.values()].sort((a, b) => b.id - a.id);
  }

  #build() {
    this.verdict = h("p", { class: "operate-verdict" });
    this.alert = h("div", { class: "operate-alert", role: "alert", hidden: true });
    this.picture = h("div", { class: "operate-picture" });
    this.name = h("p", { class: "operate-name" });
    this.answers = h("div", { class: "operate-answers", role: "group", "aria-label": t("operate.judge") });
    this.judged = h("p", { class: "operate-judged", role: "status" });
    this.back = h("button", { class: "button", type: "button", hidden: true, onclick: () => { this.pinned = null; this.#update(); } }, icon("right"), t("operate.newest"));
    this.strip = h("ol", { class: "operate-strip", "aria-label": t("operate.last") });
    this.counts = h("dl", { class: "operate-counts" });
    this.since = h("p", { class: "small muted" });
    this.model = h("select", { "aria-label": t("app.model"), onchange: () => state.select(this.model.value).catch(failed) });
    this.loud = h("button", { class: "button", type: "button", "aria-pressed": "false", onclick: () => {
      this.sound.toggle();
      this.loud.setAttribute("aria-pressed", String(this.sound.on));
      say(this.loud, t(this.sound.on ? "operate.sound_on" : "operate.sound_off"));
    } }, t("operate.sound_off"));
    const full = h("button", { class: "button", type: "button", onclick: () => {
      if (document.fullscreenElement) document.exitFullscreen();
      else document.documentElement.requestFullscreen().catch(failed);
    } }, icon("fit"), t("operate.full"));
    put(document.getElementById("view-operate"),
      h("h1", { class: "visually-hidden", id: "title-operate" }, t("view.operate")),
      h("div", { class: "operate-bar" }, this.model, this.loud, full, h("a", { class: "button", href: "#/live" }, icon("close"), t("operate.leave"))),
      this.verdict, this.alert,
      h("div", { class: "operate-body" },
        h("div", { class: "operate-part" }, this.picture, h("div", { class: "operate-caption" }, this.name, this.back)),
        h("div", { class: "operate-side" }, this.answers, this.judged,
          h("section", { class: "operate-shift", "aria-label": t("operate.shift") }, this.counts, this.since,
            h("button", { class: "button", type: "button", onclick: () => this.#newShift() }, t("operate.new_shift"))))),
      this.strip);
  }

  #models() {
    offer(this.model, state.models.map(({ name }) => name), state.model?.name);
    show(this.model, state.models.length > 0);
  }

  /** @param {boolean} arrived whether a new part is the reason */
  #update(arrived = false) {
    if (!this.visible) return;
    const parts = this.#newest();
    const part = (this.pinned !== null && this.results.get(this.pinned)) || parts[0] || null;
    const fresh = part?.id !== this.shown?.id;
    this.shown = part;
    this.#decide(part);
    if (fresh) this.#show(part);
    this.#answers(part, fresh && arrived);
    this.#strip(parts, part);
    show(this.back, this.pinned !== null);
    const [newest] = parts;
    if (!arrived || !newest || newest.id === this.heard) return;
    this.heard = newest.id;
    this.sound.play(decision(newest, null));
  }

  /** The large word, with its shape and colour. */
  #decide(part) {
    const kind = this.lost ? "lost" : part ? decision(part, null) : "idle";
    this.verdict.className = `operate-verdict ${kind}`;
    if (this.decided === `${kind} ${part?.reason}`) return;
    this.decided = `${kind} ${part?.reason}`;
    put(this.verdict,
      h("span", { class: "operate-word" }, kind === "idle" ? null : icon(kind === "lost" ? "error" : kind), h("span", {}, t(`operate.${kind}`))),
      !this.lost && part?.reason ? h("span", { class: "operate-reason" }, format.sentence(part.reason)) : null);
  }

  #show(part) {
    say(this.name, part ? `${part.name}, ${format.time(part.created)}` : "");
    if (!part || part.kept === false) {
      put(this.picture, part ? h("p", { class: "muted" }, t("card.not_kept")) : h("p", { class: "muted" }, t("operate.empty")));
      return;
    }
    const image = h("img", { alt: t("viewer.heat_of", { name: part.name }), src: api.picture.overlay(part.id, 1024, part.image_sha256) });
    image.addEventListener("error", () => { if (this.shown?.id === part.id) put(this.picture, h("p", { class: "muted" }, t("card.not_loaded"))); });
    // The picture before stays until this one is there, so that nothing flashes.
    image.decode().catch(() => {}).then(() => {
      if (this.shown?.id !== part.id || !image.naturalWidth) return;
      put(this.picture, h("div", { class: "operate-sheet" }, image, part.anomalous ? boxes(part) : null));
    });
  }

  #answers(part, guarded) {
    const kind = part && decision(part, null);
    const choices = part ? ANSWERS[kind] : [];
    const shown = `${part?.id} ${kind}`;
    if (this.answered !== shown) {
      this.answered = shown;
      put(this.answers, choices.map(([verdict, words]) => h("button", {
        class: `button operate-answer ${verdict}`, type: "button", data: { verdict }, onclick: () => this.#judge(verdict),
      }, icon(verdict === "good" ? "good" : "anomalous"), words)));
    }
    for (const button of this.answers.children) {
      button.setAttribute("aria-pressed", String(part.verdict === button.dataset.verdict));
      if (guarded || this.lost) button.disabled = true;
    }
    if (guarded) {
      clearTimeout(this.guard);
      this.guard = setTimeout(() => this.#enable(), GRACE);
    }
    say(this.judged, part ? correction(part, kind) ?? t("viewer.unreviewed") : "");
  }

  #enable() {
    for (const button of this.answers.children) button.disabled = this.lost;
  }

  #judge(verdict) {
    const part = this.shown;
    this.judge(part, part.verdict === verdict ? null : verdict);
  }

  #strip(parts, current) {
    // A button that had the focus keeps it when it is made anew.
    const focused = document.activeElement?.dataset.part;
    put(this.strip, parts.slice(0, SHOWN).map((part) => {
      const kind = decision(part, null);
      const corrected = correction(part, kind);
      const words = [part.name, t(`operate.${kind}`), corrected].filter(Boolean).join(", ");
      return h("li", {}, h("button", { type: "button", class: `operate-past ${kind}`, data: { part: part.id }, "aria-label": words, "aria-current": part.id === current?.id ? "true" : null, onclick: () => { this.pinned = part.id; this.#update(); } },
        part.kept === false ? null : h("img", { src: api.picture.image(part.id, 160, part.image_sha256), alt: "", decoding: "async" }),
        h("span", { class: "operate-mark" }, icon(kind), corrected ? icon("corrected") : null)));
    }));
    if (focused) this.strip.querySelector(`[data-part="${focused}"]`)?.focus({ preventScroll: true });
  }

  // The shift ---------------------------------------------------------------------------------

  #countSoon() {
    if (this.counting || !this.visible) return;
    this.counting = setTimeout(() => {
      this.counting = null;
      this.#count().catch((error) => { if (error.status) failed(error); });
    }, 500);
  }

  async #count() {
    if (!state.model) return;
    const { name } = state.model;
    const isLast = this.tallying();
    const shift = shiftOf(name) ?? await this.#begin(name);
    const found = await api.shift(name, { after: shift.after });
    if (!isLast() || state.model?.name !== name) return;
    const figures = [["parts", found.n], ["good_parts", found.n - found.n_anomalous - found.n_review], ["anomalous_parts", found.n_anomalous],
      ["review_parts", found.n_review], ["false_alarms", found.n_false_alarm], ["missed_defects", found.n_missed]];
    const always = found.n_review || state.model.review_threshold !== null;
    put(this.counts, figures.filter(([key]) => key !== "review_parts" || always).map(([key, value]) => h("div", { class: key },
      h("dt", {}, t(`operate.count_${key}`)), h("dd", {}, format.count(value)))));
    say(this.since, t("operate.since", { time: format.time(shift.since) }));
  }

  async #begin(name) {
    const { last } = await api.shift(name, {});
    const shift = { after: last, since: new Date().toISOString() };
    localStorage.setItem(shiftKey(name), JSON.stringify(shift));
    return shift;
  }

  async #newShift() {
    if (!state.model) return;
    const { name } = state.model;
    const key = shiftKey(name);
    const before = localStorage.getItem(key);
    try {
      await this.#begin(name);
      await this.#count();
    } catch (error) {
      failed(error);
      return;
    }
    message(t("operate.shift_begun"), { action: { label: t("inspect.bring_back"), run: () => {
      localStorage.setItem(key, before);
      this.#countSoon();
    } } });
  }

  // Trouble -----------------------------------------------------------------------------------

  #reached(there) {
    if (this.lost === !there) return;
    this.lost = !there;
    document.getElementById("view-operate").classList.toggle("stale", this.lost);
    this.#decide(this.shown ?? null);
    this.#enable();
    this.#source();
  }

  #source() {
    const source = sourceState.answer?.source ?? null;
    const lines = [];
    if (this.lost) {
      lines.push(t("operate.lost_words"));
    } else if (source) {
      if (AWAY.includes(source.state)) lines.push(t("operate.away", { source: source.source, reason: source.error ?? t(`source.${source.state}`) }));
      if (source.model && state.model && source.model !== state.model.name) lines.push(t("operate.other_model", { source: source.source, model: source.model }));
      if (source.unreadable) lines.push(t("operate.unreadable", { n: source.unreadable }));
    }
    if (lines.join() !== this.alerted) put(this.alert, lines.map((line) => h("p", {}, icon("error"), line)));
    this.alerted = lines.join();
    show(this.alert, lines.length > 0);
  }
}

const shiftKey = (name) => `${SHIFT_KEY}.${name}`;

/** When this screen's shift of a model began: `{after, since}`, or null before the first one. */
const shiftOf = (name) => JSON.parse(localStorage.getItem(shiftKey(name)) ?? "null");

/** Whether a result is of the line: people choose what they upload on the page. */
const ofLine = (result) => result.source !== "page";
