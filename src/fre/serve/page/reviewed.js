// Found defects and false alarms among the reviewed results, in words.

import * as format from "./format.js";
import { t } from "./language.js";

/** Lines of text, the first the most important. */
export function reviewedLines({ n_defect: defects, n_good: good, confusion, threshold, recall_interval: found,
  false_alarm_rate_interval: alarms, in_review: band, n_earlier: earlier }) {
  const outdated = earlier ? [t("review.earlier", { n: earlier })] : [];
  if (defects + good === 0) return [t("review.nothing"), ...outdated];
  const interval = (key, limits) => (limits ? [t(key, { low: format.percent(limits[0]), high: format.percent(limits[1]) })] : []);
  return [
    `${t("review.found", { n: defects, found: confusion.tp, missed: confusion.fn })} ${t("review.alarms", { n: good, alarms: confusion.fp, threshold: format.score(threshold) })}`,
    ...(band ? [t("review.in_band", band)] : []),
    ...interval("review.found_interval", found), ...interval("review.alarms_interval", alarms),
    t("review.only"), ...outdated,
  ];
}
