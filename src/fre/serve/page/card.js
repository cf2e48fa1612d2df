// One result in a grid.

import { h, icon, put, say, svg } from "./dom.js";
import * as format from "./format.js";
import { picture } from "./api.js";
import { locale, t } from "./language.js";

const word = (kind) => t(`decision.${kind}`);

/**
 * `"anomalous"`, `"review"`, `"good"` or `"error"`; a threshold of `null` takes the decision of its
 * time.
 * @param {number | null} review where the review band begins; `null` for no band
 */
export function decision(result, threshold, review = null) {
  if (result.error) return "error";
  // A dead camera is anomalous whatever the score. Without a score there is no decision, and
  // nothing to call good.
  const anomalous = result.reason || threshold === null || result.score === null ? result.anomalous : result.score > threshold;
  if (anomalous) return "anomalous";
  const inBand = threshold === null || result.score === null ? result.decision === "review" : review !== null && result.score > review;
  return inBand ? "review" : "good";
}

/** The first words of a reason: "no contrast", "noise", "too dark"; `null` without one. */
const inShort = (reason) => reason?.split(":")[0] ?? null;

/** What a reviewer's word means beside a decision, or `null`. */
export function correction(result, decided) {
  if (!result.verdict) return null;
  if (decided === "review") return t(result.verdict === "good" ? "card.reviewed_good" : "card.reviewed_defect");
  if (result.verdict === "good") return t(decided === "anomalous" ? "card.false_alarm" : "card.confirmed_good");
  return t(decided === "anomalous" ? "card.confirmed_defect" : "card.missed");
}

export const isWrong = (result, decided) =>
  (result.verdict === "good" && decided === "anomalous") || (result.verdict === "defect" && decided === "good");

/** The mark of a decision: a shape and a word. */
export function verdictMark(kind) {
  return h("span", { class: `verdict ${kind}` }, icon(kind), h("span", {}, word(kind)));
}

/** Boxes of the regions, to lay over a picture of the same proportions. */
export function boxes(result) {
  const [height, width] = result.image_size ?? [1, 1];
  return svg("svg", { class: "boxes", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" },
    (result.regions ?? []).flatMap(({ bbox: [x, y, w, hgt] }) => ["casing", "box"].map((name) =>
      svg("rect", { class: name, x, y, width: w, height: hgt }))));
}

/**
 * @param {() => {threshold: number | null, review: number | null, heat: boolean, boxes: boolean, time: boolean}} look
 */
export function makeCard(result, look) {
  const frame = h("span", { class: "picture" });
  const mark = h("span", { class: "mark" });
  const score = h("span", { class: "score" });
  const name = h("span", { class: "name" });
  const detail = h("span", { class: "detail" });
  const flag = h("span", { class: "flag" });
  const button = h("button", { class: "card", type: "button", tabindex: "-1" },
    frame, h("span", { class: "caption" },
      h("span", { class: "row" }, mark, score),
      h("span", { class: "row" }, name, detail)),
    flag);
  const element = h("div", { class: "cell", role: "listitem" }, button);
  let shown = {};
  let overlay = null;

  function update(item) {
    const { threshold, review, heat, boxes: withBoxes, time } = look();
    const kind = decision(item, threshold, review);
    const corrected = correction(item, kind);
    const wanted = { kind, heat, withBoxes, verdict: item.verdict ?? null, item: item.id };
    if (wanted.heat !== shown.heat || wanted.withBoxes !== shown.withBoxes || wanted.item !== shown.item) {
      draw(item, heat, withBoxes);
    }
    // Regions explain why an image is anomalous; by another threshold it may be good.
    overlay?.toggleAttribute("hidden", kind !== "anomalous");
    if (kind !== shown.kind) {
      button.className = `card ${kind}`;
      put(mark, verdictMark(kind));
    }
    const short = item.name.split("/").at(-1);
    say(score, item.error ? "" : format.score(item.score));
    say(name, short);
    if (name.title !== item.name) name.title = item.name;
    const why = inShort(item.reason);
    // Another threshold than that of its time may decide otherwise: then the card says so.
    const then = decision(item, null);
    const was = why === null && then !== kind ? t(`card.was.${then}`) : null;
    say(detail, item.error ? "" : why ?? was ?? (time ? format.time(item.created) : ""));
    detail.classList.toggle("why", why !== null);
    const title = why !== null ? item.reason : was ? t("card.was_note", { threshold: format.score(item.threshold) }) : "";
    if (detail.title !== title) detail.title = title;
    say(flag, corrected ?? "");
    flag.hidden = !corrected;
    flag.classList.toggle("wrong", isWrong(item, kind));
    const label = item.error
      ? `${item.name}: ${item.error}`
      : [item.name, word(kind).toLocaleLowerCase(locale), item.reason, was, t("card.score", { score: format.score(item.score) }),
        t("unit.regions", { n: item.regions.length }), corrected]
        .filter(Boolean).join(", ");
    if (button.getAttribute("aria-label") !== label) button.setAttribute("aria-label", label);
    shown = wanted;
  }

  function draw(item, heat, withBoxes) {
    overlay = null;
    if (item.error) {
      put(frame, h("span", { class: "absent" }, item.error));
      return;
    }
    if (item.kept === false) {
      put(frame, h("span", { class: "absent" }, t("card.not_kept")));
      return;
    }
    const old = frame.querySelector("img");
    const source = picture[heat ? "overlay" : "image"](item.id, 320, item.image_sha256);
    const image = h("img", { alt: "", decoding: "async", draggable: "false" });
    image.addEventListener("load", () => frame.classList.add("loaded"));
    image.addEventListener("error", () => put(frame, h("span", { class: "absent" }, t("card.not_loaded"))));
    image.src = source;
    overlay = withBoxes ? boxes(item) : null;
    const drawn = overlay;
    if (old && shown.item === item.id) {
      // The old picture stays until the new one is there, so that nothing flashes.
      image.decode().catch(() => {}).then(() => put(frame, image, drawn));
    } else {
      put(frame, image, drawn);
    }
  }

  update(result);
  return { element, focusable: button, update };
}
