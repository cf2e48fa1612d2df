// The kept files of a model: when, by whom and why each was saved; one can be put in place again.

import * as api from "./api.js";
import { askToDelete } from "./ask.js";
import { h, put, say, show } from "./dom.js";
import * as format from "./format.js";
import { t } from "./language.js";
import { failed, message } from "./messages.js";
import { ModelPanel } from "./model_panel.js";
import { state } from "./state.js";

/** Puts a version in place, and offers to take that back. */
export async function restore(name, id) {
  try {
    const before = (await api.versions(name)).versions.find(({ current }) => current)?.id;
    await api.restoreVersion(name, id);
    await state.load();
    message(t("versions.restored", { model: name }), { action: before && { label: t("versions.undo"), run: () => restore(name, before) } });
  } catch (error) {
    failed(error);
  }
}

export class VersionsPanel extends ModelPanel {
  constructor() {
    super(api.versions, h("details", { hidden: true }));
    this.title = h("summary", { class: "panel-title" });
    this.list = h("ul", { class: "versions" });
    this.note = h("p", { class: "small muted" });
    put(this.element, this.title, this.note, this.list);
  }

  draw({ keep, versions }) {
    show(this.element, true);
    say(this.title, t("versions.title", { n: versions.length }));
    say(this.note, keep ? t("versions.words", { n: keep }) : t("versions.off"));
    put(this.list, versions.map((version) => this.#item(version)));
  }

  #item(version) {
    const when = format.time(version.at);
    const button = (text, label, run) => h("button", {
      class: "button quiet", type: "button", "aria-label": label,
      onclick: async (event) => {
        const { currentTarget } = event;
        currentTarget.disabled = true;
        await run();
        currentTarget.disabled = false;
      },
    }, text);
    const who = version.by === null ? "" : version.by === "local" ? t("versions.local") : t("versions.by", { by: version.by });
    return h("li", { "aria-current": version.current ? "true" : null },
      h("p", { class: "version-head" }, h("strong", {}, when), h("span", { class: "small" }, t(`versions.why_${version.why}`))),
      h("p", { class: "small muted" }, [t("versions.facts", { n: version.n_images, threshold: format.score(version.threshold) }), who].filter(Boolean).join(" ")),
      h("div", { class: "buttons" },
        version.current ? h("span", { class: "badge" }, t("versions.current")) : button(t("versions.restore"), t("versions.restore_of", { time: when }), () => restore(this.name, version.id)),
        h("a", { class: "button quiet", download: "", href: api.versionFile(this.name, version.id), "aria-label": t("versions.download_of", { time: when }) }, t("versions.download")),
        version.current ? null : button(t("versions.delete"), t("versions.delete_of", { time: when }), () => this.#delete(version, when))));
  }

  #delete(version, when) {
    const { name } = this;
    askToDelete({
      title: t("versions.delete_ask", { time: when }),
      words: t("versions.delete_words"),
      go: t("versions.delete_of", { time: when }),
      run: async () => {
        await api.deleteVersion(name, version.id);
        if (this.name === name) await this.load(name);
      },
    });
  }
}
