// What an update would change, before it is made: the new images, the decision, reviewed results.

import * as api from "./api.js";
import { caveat } from "./caveat.js";
import { h, icon, put, say, show } from "./dom.js";
import { events } from "./events.js";
import * as format from "./format.js";
import { hasEnded, isOlder, showProgress, skippedFiles } from "./job.js";
import { t } from "./language.js";
import { announce, failed, message } from "./messages.js";
import { state } from "./state.js";
import { restore } from "./versions.js";

const POLL_MS = 2000;
const ICONS = { pass: "good", review: "review", fail: "anomalous" };

export class TeachDialog {
  constructor() {
    this.element = document.getElementById("teach-dialog");
    this.title = h("h2", { id: "teach-title", tabindex: "-1" });
    this.task = h("p", { class: "small muted", role: "status" });
    this.bar = h("progress", { max: "1", "aria-label": t("job.progress") });
    this.body = h("div", { class: "teach-body" });
    this.apply = h("button", { class: "button primary", type: "button", onclick: () => this.#apply() });
    this.leave = h("button", { class: "button", type: "button", onclick: () => this.#leave() });
    put(this.element, this.title, this.task, this.bar, this.body, h("div", { class: "buttons teach-end" }, this.apply, this.leave));
    this.element.addEventListener("cancel", (event) => { event.preventDefault(); this.#leave(); });
    events.addEventListener("job", ({ detail }) => { if (detail.id === this.job?.id) this.#follow(detail); });
  }

  /** Prepares an update of a model with good images or marked results, and asks. */
  async ask(name, lessons) {
    this.#open(name);
    say(this.task, t("train.sending"));
    const sending = new AbortController();
    this.sending = sending;
    try {
      const job = await api.update(name, { ...lessons, preview: true, signal: sending.signal });
      if (this.sending === sending) {
        this.job = job;
        this.#follow(job);
        this.#poll();
      }
      return job;
    } catch (error) {
      if (this.sending === sending) this.#close();
      throw error;
    }
  }

  /** Shows an update that a job has prepared, if it still waits. */
  async show(job) {
    const preview = await api.preview(job.model);
    if (preview.sha256 !== job.result.preview.sha256) {
      message(t("teach.other", { model: job.model }), { kind: "error" });
      return;
    }
    this.#open(job.model);
    this.job = job;
    this.#follow(job);
  }

  #open(name) {
    this.job = null;
    this.sending = null;
    this.preview = null;
    say(this.title, t("teach.preparing", { model: name }));
    put(this.body);
    this.#running(true);
    this.bar.removeAttribute("value");
    if (!this.element.open) this.element.showModal();
    this.title.focus();
  }

  #running(running) {
    show(this.task, running);
    show(this.bar, running);
    show(this.apply, false);
    say(this.leave, t(running ? "job.cancel" : "app.close"));
  }

  #follow(job) {
    if (this.preview || isOlder(job, this.job)) return;
    this.job = job;
    const running = !hasEnded(job);
    this.#running(running);
    if (running) {
      showProgress(this.bar, this.task, job);
    } else if (job.state === "done") {
      this.preview = job.result.preview;
      this.#draw(job.result);
    } else if (job.state === "failed") {
      say(this.title, t("teach.failed", { model: job.model }));
      put(this.body, h("p", { role: "alert" }, job.error.message));
    } else {
      this.#close();
    }
  }

  /** A lost event must not leave a bar standing for ever. */
  #poll() {
    clearTimeout(this.polling);
    this.polling = setTimeout(async () => {
      if (!this.job || hasEnded(this.job)) return;
      const { id } = this.job;
      try {
        const job = await api.job(id);
        if (this.job?.id === id) this.#follow(job);
      } catch {
        // The header says that there is no connection; the next look may succeed.
      }
      this.#poll();
    }, POLL_MS);
  }

  #draw(result) {
    const { preview } = this;
    const { before, after } = preview;
    say(this.title, t("teach.title", { n: preview.n_images, model: preview.model }));
    say(this.apply, t("teach.apply", { n: preview.n_images }));
    show(this.apply, true);
    say(this.leave, t("teach.discard"));
    const row = (key, value) => h("tr", {}, h("th", { scope: "row" }, t(key)), h("td", {}, value(before)), h("td", {}, value(after)));
    put(this.body,
      h("section", {}, h("h3", {}, t("teach.images")),
        h("ul", { class: "teach-images" }, preview.images.map(({ name, picture }) => h("li", {},
          h("img", { src: picture, alt: "", decoding: "async" }), h("span", { class: "odd-name small", title: name }, name)))),
        preview.n_images > preview.images.length ? h("p", { class: "small muted" }, t("app.others", { n: preview.n_images - preview.images.length })) : null,
        skippedFiles(result)),
      h("section", {}, h("h3", {}, t("teach.decision")),
        h("table", { class: "teach-table" },
          h("thead", {}, h("tr", {}, h("td", {}), h("th", { scope: "col" }, t("teach.now")), h("th", { scope: "col" }, t("teach.then")))),
          h("tbody", {},
            row("teach.threshold", ({ threshold }) => format.score(threshold)),
            row("teach.expected", (facts) => format.share(facts.expected_false_alarm_rate)),
            row("teach.n_images", ({ n_images }) => format.count(n_images)),
            this.#tally(preview.reviewed))),
        result.note ? h("p", { class: "caveat small" }, format.sentence(result.note)) : null,
        result.caveat ? h("p", { class: "caveat small" }, caveat(result.calibration, result.caveat)) : null),
      this.#reviewed(preview.reviewed));
    this.title.focus();
    announce(this.title.textContent);
  }

  /** Found defects and false alarms among the reviewed images that are not learnt themselves. */
  #tally({ confusion: { before, after } }) {
    const row = (key, part, other) => (before[part] + before[other] === 0 ? null
      : h("tr", {}, h("th", { scope: "row" }, t(key)), [before, after].map((counts) => h("td", {}, t("teach.of", { part: counts[part], all: counts[part] + counts[other] })))));
    return [row("teach.found", "tp", "fn"), row("teach.alarms", "fp", "tn")];
  }

  #reviewed(reviewed) {
    const unchecked = [["deleted", reviewed.n_deleted], ["unreadable", reviewed.n_unreadable], ["older", reviewed.n_older]].filter(([, n]) => n > 0);
    return h("section", {}, h("h3", {}, t("teach.reviewed")),
      h("p", { class: "small" }, reviewed.n_reviewed === 0 ? t("teach.none_reviewed")
        : reviewed.n_checked === 0 ? t("teach.none_checked")
        : reviewed.n_changes === 0 ? t("teach.none_change", { n: reviewed.n_checked })
        : t("teach.changes", { n: reviewed.n_changes, checked: reviewed.n_checked })),
      unchecked.map(([what, n]) => h("p", { class: "small caveat" }, t(`teach.unchecked_${what}`, { n }))),
      reviewed.n_taught ? h("p", { class: "small muted" }, t("teach.taught_note", { n: reviewed.n_taught })) : null,
      h("ul", { class: "teach-changes" }, reviewed.changes.map((change) => this.#change(change))),
      reviewed.n_changes > reviewed.changes.length ? h("p", { class: "small muted" }, t("app.others", { n: reviewed.n_changes - reviewed.changes.length })) : null);
  }

  #change(change) {
    const side = (decision, score) => h("span", { class: `verdict ${ICONS[decision]}` }, icon(ICONS[decision]), `${t(`decision.${ICONS[decision]}`)} ${format.score(score)}`);
    return h("li", { class: change.wrong ? "wrong" : null },
      h("img", { src: api.picture.image(change.result, 160, change.image_sha256), alt: "", decoding: "async" }),
      h("div", {},
        h("p", { class: "odd-name small", title: change.name }, change.name),
        h("p", { class: "sides" }, side(change.decision_before, change.score_before), icon("right"), side(change.decision_after, change.score_after)),
        h("p", { class: "small" }, [t(change.verdict === "defect" ? "teach.is_defect" : "teach.is_good"),
          change.wrong ? t("teach.wrong") : null, change.taught ? t("teach.taught") : null].filter(Boolean).join(" "))));
  }

  async #apply() {
    const { model, sha256, before_sha256: before, n_images: n } = this.preview;
    this.apply.disabled = true;
    try {
      await api.applyPreview(model, sha256);
    } catch (error) {
      put(this.body, h("p", { role: "alert" }, error.message));
      show(this.apply, false);
      return;
    } finally {
      this.apply.disabled = false;
    }
    this.#close();
    await state.load().catch(failed);
    message(t("teach.applied", { n, model }), { action: { label: t("versions.undo"), run: () => restore(model, before) } });
  }

  /** Nothing is learnt: a running job is cancelled, a prepared update discarded. */
  async #leave() {
    const { job, preview, sending } = this;
    this.#close();
    try {
      if (preview) await api.discardPreview(preview.model);
      else if (!job) sending.abort();
      else if (!hasEnded(job)) await api.cancelJob(job.id);
    } catch (error) {
      // It may have ended, or been discarded, a moment before.
      if (!["not_found", "conflict"].includes(error.code)) failed(error);
    }
  }

  #close() {
    this.job = null;
    this.sending = null;
    this.preview = null;
    this.element.close();
  }
}
