// Parts as they come: newest first, the anomalous rate over time, and whether they drift.

import * as api from "./api.js";
import { h, icon, put, say, show, svg } from "./dom.js";
import { events } from "./events.js";
import * as format from "./format.js";
import { historyGrid } from "./judging.js";
import { t } from "./language.js";
import { lastAsked } from "./latest.js";
import { failed } from "./messages.js";
import { SourcePanel } from "./source_panel.js";
import { state } from "./state.js";

const MOST = 300;
/** Seconds of a span, and in how many parts it is drawn. */
const SPANS = { 600: 60, 3600: 60, 28800: 96, 86400: 96 };
const SOURCES = ["watch", "page", "api"];

export class Live {
  constructor(viewer, judge) {
    this.viewer = viewer;
    this.results = new Map();
    this.span = 3600;
    this.source = "";
    this.search = "";
    this.paused = false;
    this.fresh = 0;
    this.visible = false;
    this.asking = lastAsked();
    this.measuring = lastAsked();
    this.grid = historyGrid(t("live.newest"), viewer, judge, (id) => this.results.get(id));
    this.followed = new SourcePanel();
    this.#build();
    state.addEventListener("models", () => this.#follow());
    state.addEventListener("model", () => this.#reload());
    events.addEventListener("result", ({ detail }) => this.#arrive(detail));
    events.addEventListener("verdict", ({ detail }) => this.changed(detail));
    for (const name of ["lagged", "open"]) events.addEventListener(name, () => this.#reload());
    this.stale = true;
  }

  enter() {
    this.visible = true;
    this.followed.enter();
    if (this.stale) {
      this.load();
    } else {
      // What came while another view was shown.
      this.#update();
      this.#figures();
    }
    clearInterval(this.clock);
    this.clock = setInterval(() => this.#figures(), 15000);
  }

  leave() {
    this.visible = false;
    this.followed.leave();
    clearInterval(this.clock);
  }

  /** What is shown may lack something: asks again, now or once somebody looks. */
  #reload() {
    this.stale = true;
    if (this.visible) this.load();
  }

  async load() {
    const isLast = this.asking();
    this.stale = false;
    this.#follow();
    if (!state.model) {
      this.results.clear();
      this.#update();
      return;
    }
    const { name } = state.model;
    const before = new Set(this.results.keys());
    this.loading = true;
    this.#update();
    try {
      const found = await api.newestResults({ model: name, source: this.source, name: this.search }, MOST);
      if (!isLast() || state.model?.name !== name) return;
      // The answer may lack what came meanwhile.
      const came = [...this.results.values()].filter((result) => !before.has(result.id) && this.#wanted(result));
      this.results = new Map([...came, ...found].map((result) => [result.id, result]));
      this.fresh = 0;
    } catch (error) {
      if (!isLast()) return;
      failed(error);
      this.stale = true;
    } finally {
      if (isLast()) this.loading = false;
    }
    this.#sources();
    this.#arrange();
    await this.#figures();
  }

  changed(result) {
    if (!this.results.has(result.id)) return;
    this.results.set(result.id, result);
    this.viewer.refresh(result);
    this.grid.update(this.grid.items.map((item) => (item.id === result.id ? result : item)));
  }

  #build() {
    this.sourceSelect = h("select", { id: "live-source", onchange: () => { this.source = this.sourceSelect.value; this.load(); } },
      h("option", { value: "" }, t("live.all_sources")));
    const span = h("select", { id: "live-span", onchange: () => { this.span = Number(span.value); this.#figures(); } },
      Object.keys(SPANS).map((seconds) => h("option", { value: seconds, selected: Number(seconds) === this.span }, t(`live.span.${seconds}`))));
    this.searchField = h("input", { class: "field", id: "live-search", type: "search", maxlength: "255", placeholder: t("live.search"), "aria-label": t("live.search"), oninput: () => {
      clearTimeout(this.searching);
      this.searching = setTimeout(() => { this.search = this.searchField.value.trim(); this.load(); }, 300);
    } });
    this.pause = h("button", { class: "button", type: "button", "aria-pressed": "false", onclick: () => this.#setPaused(!this.paused) }, t("live.pause"));
    this.offer = h("button", { class: "button quiet offer", type: "button", hidden: true, onclick: () => {
      if (this.paused) this.#setPaused(false);
      document.activeElement.blur();
      window.scrollTo({ top: 0 });
      this.#arrange();
    } });
    this.follows = h("p", { class: "muted" });
    this.rateValue = h("strong", { class: "figure-value" }, "–");
    this.rateNote = h("p", { class: "small muted" });
    this.chart = svg("svg", { class: "chart", role: "img", height: 132, "aria-label": t("live.rate_loading") });
    this.chartBox = h("div", { class: "plot" }, this.chart);
    new ResizeObserver(() => this.#draw()).observe(this.chartBox);
    this.driftTitle = h("p", { class: "drift-title" });
    this.driftText = h("p", {});
    this.driftTest = h("p", { class: "small muted" });
    this.drift = h("section", { class: "panel drift", "aria-label": t("live.drift"), role: "status" },
      h("h2", { class: "panel-title" }, t("live.drift")), this.driftTitle, this.driftText, this.driftTest);
    this.empty = h("div", { class: "empty", hidden: true });
    put(document.getElementById("view-live"),
      h("header", { class: "view-head" },
        h("div", {}, h("h1", { id: "title-live" }, t("view.live")), this.follows),
        h("div", { class: "looks" },
          this.searchField,
          h("a", { class: "button", href: "#/operate" }, icon("fit"), t("view.operate")),
          h("label", { class: "inline-label" }, h("span", { class: "visually-hidden" }, t("live.source")), this.sourceSelect), this.pause)),
      this.followed.element,
      h("div", { class: "live-figures" },
        h("section", { class: "panel", "aria-label": t("live.rate") },
          h("div", { class: "panel-head" }, h("h2", { class: "panel-title" }, t("live.rate")), h("label", { class: "inline-label" }, h("span", { class: "visually-hidden" }, t("live.span")), span)),
          h("div", { class: "figure-row" }, this.rateValue, this.rateNote), this.chartBox),
        this.drift),
      h("div", { class: "strip" }, this.offer),
      this.empty, this.grid.element);
  }

  #follow() {
    say(this.follows, t(state.service?.watch ? "live.follows" : "live.follows_posts"));
  }

  /** Whether a result is of the chosen model and source, and of the name that was searched for. */
  #wanted({ model, source, name }) {
    return model === state.model?.name && (!this.source || source === this.source)
      && name.toLowerCase().includes(this.search.toLowerCase());
  }

  #arrive(result) {
    if (result.model !== state.model?.name) return;
    this.#offerSource(result.source);
    if (!this.#wanted(result)) return;
    if (!this.results.has(result.id)) this.fresh += 1;
    this.results.set(result.id, result);
    if (this.results.size > 2 * MOST) {
      const old = [...this.results.keys()].sort((a, b) => b - a).slice(MOST);
      for (const id of old) this.results.delete(id);
    }
    if (this.timer) return;
    this.timer = setTimeout(() => {
      this.timer = null;
      this.#update();
    }, 250);
    this.#figuresSoon();
  }

  #update() {
    if (!this.visible) return;
    const hold = this.paused || (this.grid.items.length > 0 && this.grid.busy);
    if (hold) {
      say(this.offer, t("live.show_new", { n: this.fresh }));
      show(this.offer, this.fresh > 0);
    } else {
      this.#arrange();
    }
  }

  #arrange() {
    this.fresh = 0;
    show(this.offer, false);
    const items = [...this.results.values()].sort((a, b) => b.id - a.id).slice(0, MOST);
    this.grid.update(items);
    const bare = items.length === 0;
    show(this.grid.element, !bare);
    show(this.empty, bare);
    if (bare) this.#emptiness();
  }

  #emptiness() {
    if (this.search && !this.loading) {
      put(this.empty, h("h2", {}, t("live.not_found", { text: this.search })));
      return;
    }
    put(this.empty, icon("drop", "big"),
      h("h2", {}, t(this.loading ? "app.loading" : "live.empty")),
      this.loading ? null : h("p", { class: "muted" }, t("live.empty_words")),
      this.loading || !state.model ? null : h("pre", {}, `curl --data-binary @frame.jpg -H 'Content-Type: image/jpeg' \\\n  '${location.origin}/v1/models/${state.model.name}/predict?source=camera-1'`));
  }

  #setPaused(paused) {
    this.paused = paused;
    this.pause.setAttribute("aria-pressed", String(paused));
    say(this.pause, t(paused ? "live.paused" : "live.pause"));
    this.#update();
  }

  #sources() {
    for (const { source } of this.results.values()) this.#offerSource(source);
    if (state.service?.watch?.model === state.model?.name) this.#offerSource("watch");
  }

  #offerSource(source) {
    if ([...this.sourceSelect.options].some(({ value }) => value === source)) return;
    this.sourceSelect.append(h("option", { value: source }, SOURCES.includes(source) ? t(`live.source.${source}`) : source));
  }

  #figuresSoon() {
    if (this.figuresTimer || !this.visible) return;
    this.figuresTimer = setTimeout(() => {
      this.figuresTimer = null;
      this.#figures();
    }, 2000);
  }

  async #figures() {
    if (!state.model || !this.visible) return;
    const { name } = state.model;
    const buckets = SPANS[this.span];
    const isLast = this.measuring();
    try {
      const [rate, drift] = await Promise.all([
        api.rate(name, { seconds: this.span, buckets, source: this.source }),
        api.drift(name, { n: 200, source: this.source }),
      ]);
      if (!isLast() || state.model?.name !== name) return;
      this.buckets = rate.buckets;
      this.#draw();
      this.#drifted(drift);
    } catch (error) {
      // The connection's state is shown at the top; a figure that is late needs no alarm.
      if (error.status) failed(error);
    }
  }

  #drifted(drift) {
    this.drift.dataset.state = drift.warning ? "warning" : drift.enough ? "fine" : "waiting";
    put(this.driftTitle, icon(drift.warning ? "anomalous" : "good"),
      t(drift.warning ? "live.drifted" : drift.enough ? "live.no_drift" : "live.too_few"));
    say(this.driftText, this.source === "page" ? t("live.drift_page") : driftWords(drift));
    say(this.driftTest, drift.enough
      ? t("live.drift_test", { method: t("live.drift_method"), statistic: format.decimals(drift.statistic, 3), p: format.pValue(drift.p_value), significance: drift.significance })
      : t("live.drift_method"));
  }

  #draw() {
    const width = Math.round(this.chartBox.clientWidth);
    if (!width || !this.buckets) return;
    const height = 132;
    const base = height - 20;
    const top = 8;
    const left = 44;
    const n = this.buckets.reduce((sum, bucket) => sum + bucket.n, 0);
    const anomalous = this.buckets.reduce((sum, bucket) => sum + bucket.n_anomalous, 0);
    const expected = state.model?.expected_false_alarm_rate ?? null;
    say(this.rateValue, n ? format.percent(anomalous / n) : "–");
    const last = t(`live.last.${this.span}`);
    const share = t("live.of_parts", { anomalous, n, last });
    say(this.rateNote, n === 0 ? t("live.no_parts", { last })
      : expected === null ? share : t("live.expected", { of_parts: share, rate: format.percent(expected) }));
    const highest = Math.max(0.05, expected ?? 0, ...this.buckets.map(({ rate }) => rate ?? 0));
    const limit = highest > 0.5 ? 1 : highest > 0.2 ? 0.5 : highest > 0.1 ? 0.2 : highest > 0.05 ? 0.1 : 0.05;
    const most = Math.max(1, ...this.buckets.map((bucket) => bucket.n));
    const step = (width - left) / this.buckets.length;
    const y = (rate) => base - (base - top) * (rate / limit);
    const lines = [];
    let run = [];
    this.buckets.forEach(({ rate }, i) => {
      if (rate === null) {
        if (run.length) lines.push(run);
        run = [];
      } else {
        run.push([left + (i + 0.5) * step, y(rate)]);
      }
    });
    if (run.length) lines.push(run);
    put(this.chart,
      [0, limit / 2, limit].map((rate) => [
        svg("path", { class: "gridline", d: `M${left} ${Math.round(y(rate)) + 0.5}H${width}` }),
        svg("text", { class: "tick", x: left - 8, y: y(rate) + 4, "text-anchor": "end" }, format.percent(rate)),
      ]),
      this.buckets.map((bucket, i) => (bucket.n ? svg("rect", { class: "volume", x: left + i * step + 0.5, width: Math.max(1, step - 1), y: base - 0.6 * (base - top) * (bucket.n / most), height: 0.6 * (base - top) * (bucket.n / most) }) : null)).filter(Boolean),
      expected === null ? [] : svg("path", { class: "expected", d: `M${left} ${y(expected)}H${width}` }),
      lines.map((points) => svg("path", { class: "rate-curve", d: `M${points.map(([px, py]) => `${px.toFixed(1)} ${py.toFixed(1)}`).join("L")}` })),
      lines.flat().map(([px, py]) => svg("circle", { class: "rate-point", cx: px.toFixed(1), cy: py.toFixed(1), r: 2.5 })),
      svg("text", { class: "tick", x: left, y: height - 3 }, format.minute(this.buckets[0].start)),
      svg("text", { class: "tick", x: width, y: height - 3, "text-anchor": "end" }, t("live.now")));
    this.chart.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.chart.setAttribute("width", width);
    this.chart.setAttribute("aria-label", t("live.rate_summary", { span: t(`live.span.${this.span}`), rate: this.rateValue.textContent, note: this.rateNote.textContent }));
  }
}

/** The result of the test, and what to do. */
function driftWords({ enough, direction, n, n_calibration: images, min_parts: parts, min_calibration: least }) {
  if (!enough) return n < parts ? t("live.drift_parts", { n, least: parts }) : t("live.drift_images", { n: images, least });
  return t(direction ? `live.drift_${direction}` : "live.drift_like", { n });
}
