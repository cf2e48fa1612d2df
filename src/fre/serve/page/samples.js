// Sample images that the service draws, to try a model on.

import * as api from "./api.js";
import { h, icon, put } from "./dom.js";
import { t } from "./language.js";

/** Lets somebody choose; resolves to `{file, name}`, none if nothing was chosen. */
export async function pickSamples() {
  const samples = await api.samples();
  const dialog = h("dialog", { class: "ask samples", "aria-labelledby": "samples-title" });
  const chosen = new Set();
  const go = h("button", { class: "button primary", type: "button", disabled: true, onclick: () => dialog.close("go") }, t("samples.inspect"));
  const tiles = samples.map((sample) => h("button", {
    type: "button", class: "sample", "aria-pressed": "false",
    onclick: (event) => {
      const on = !chosen.has(sample);
      if (on) chosen.add(sample);
      else chosen.delete(sample);
      event.currentTarget.setAttribute("aria-pressed", String(on));
      go.disabled = chosen.size === 0;
      go.textContent = chosen.size ? t("samples.inspect_n", { n: chosen.size }) : t("samples.inspect");
    },
  }, h("img", { src: sample.url, alt: "", loading: "lazy" }), h("span", {}, t(`samples.kind.${sample.kind}`))));
  put(dialog,
    h("div", { class: "ask-bar" }, h("h2", { id: "samples-title" }, t("samples.title")),
      h("button", { class: "button icon-only quiet", type: "button", "aria-label": t("app.close"), onclick: () => dialog.close() }, icon("close"))),
    h("p", { class: "muted" }, t("samples.words")),
    h("div", { class: "sample-grid" }, tiles),
    h("div", { class: "buttons ask-end" }, go,
      h("button", { class: "button", type: "button", onclick: () => { samples.forEach((sample) => chosen.add(sample)); dialog.close("go"); } }, t("samples.all"))));
  document.body.append(dialog);
  dialog.showModal();
  await new Promise((done) => dialog.addEventListener("close", done, { once: true }));
  dialog.remove();
  if (dialog.returnValue !== "go") return [];
  return Promise.all([...chosen].map(async (sample) => {
    const response = await fetch(sample.url);
    if (!response.ok) throw new api.ApiError(t("samples.failed", { name: sample.id }), { status: response.status });
    const blob = await response.blob();
    return { file: new File([blob], `${sample.id}.png`, { type: "image/png" }), name: `${sample.id}.png` };
  }));
}
