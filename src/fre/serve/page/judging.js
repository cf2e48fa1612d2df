// What the views share when somebody reviews results.

import { makeCard } from "./card.js";
import { Grid } from "./grid.js";

const VERDICTS = { g: "good", d: "defect", u: null };

/** For the keys of a grid: G, D and U say what a result really is. */
export const onVerdictKey = (judge) => (item, key) => {
  const letter = key.toLowerCase();
  if (item.error || !(letter in VERDICTS)) return false;
  judge(item, VERDICTS[letter]);
  return true;
};

/**
 * A grid of the history: each result by the decision of its time, opened in the viewer.
 * @param {(id: number) => object | undefined} latest the result of an id as it is now
 */
export function historyGrid(label, viewer, judge, latest) {
  const grid = new Grid({
    label,
    card: (item) => makeCard(item, () => ({ threshold: null, review: null, heat: true, boxes: true, time: true })),
    onopen: (item) => viewer.show(item, {
      items: () => grid.items.map((shown) => latest(shown.id) ?? shown),
      threshold: () => null,
      review: () => null,
      onclose: (last) => grid.focus(last.id),
    }),
    onkey: onVerdictKey(judge),
  });
  return grid;
}
