// Odd training images: what they look like, and what to do about them.

import * as api from "./api.js";
import { h, put, show } from "./dom.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { failed, message } from "./messages.js";
import { ModelPanel } from "./model_panel.js";
import { state } from "./state.js";

const SHOWN = 12;

export class OddImages extends ModelPanel {
  /** @param {(job: object) => void} onjob gets the training that somebody began */
  constructor(onjob) {
    super(api.odd, h("section", { class: "odd", "aria-label": t("odd.label"), hidden: true }));
    this.onjob = onjob;
  }

  draw(odd) {
    const { images } = odd;
    show(this.element, images.length > 0);
    if (images.length === 0) return;
    const n = images.length;
    const next = odd.next_score === null ? "" : ` ${t("odd.next", { score: format.score(odd.next_score) })}`;
    const words = `${odd.keep_odd ? t("odd.counts", { n }) : t("odd.aside")}${next}`;
    const button = (text, run, properties = {}) => h("button", { class: "button", type: "button", onclick: (event) => this.#do(event.currentTarget, run), ...properties }, text);
    put(this.element,
      h("h3", {}, t(odd.keep_odd ? "odd.title_kept" : "odd.title", { n })),
      h("p", { class: "small muted" }, words),
      h("ul", { class: "odd-images" }, images.slice(0, SHOWN).map((image) => h("li", {},
        image.picture ? h("img", { src: image.picture, alt: image.name, decoding: "async" }) : h("span", { class: "absent" }, t("odd.no_picture")),
        h("span", { class: "odd-name small", title: image.name }, image.name), h("strong", { class: "small" }, format.score(image.score))))),
      n > SHOWN ? h("p", { class: "small muted" }, t("app.others", { n: n - SHOWN })) : null,
      h("div", { class: "buttons" },
        odd.can_train_again ? button(t("odd.leave_out"), () => this.#again(odd)) : null,
        odd.keep_odd ? button(t("odd.set_aside"), () => this.#keep(odd, false)) : button(t("odd.keep"), () => this.#keep(odd, true))),
      odd.note ? h("p", { class: "small muted" }, format.sentence(odd.note)) : null);
  }

  async #do(button, run) {
    button.disabled = true;
    try {
      await run();
    } catch (error) {
      failed(error);
      this.load(this.name);
    } finally {
      button.disabled = false;
    }
  }

  async #again(odd) {
    const job = await api.trainAgain(odd.model);
    message(t("odd.training", { model: odd.model, n: odd.images.length }));
    this.onjob(job);
  }

  async #keep(odd, keep) {
    const calibration = await api.keepOdd(odd.model, keep, odd.sha256);
    message(t(keep ? "odd.kept" : "odd.is_aside"));
    if (state.model?.name === odd.model) state.saved(calibration);
    else await state.load();
    await this.load(odd.model);
  }
}
