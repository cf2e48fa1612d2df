// What a calibration says about itself, in the language of the page.

import { sentence, share } from "./format.js";
import { t } from "./language.js";

/**
 * A warning that good images are too few for the rate that was asked for, or null.
 * @param {object | null} calibration of a model or of a training run; runs of earlier versions of fre lack the rates
 * @param {string | null} words the same by the service, in English
 */
export function caveat(calibration, words) {
  if (!words) return null;
  const { false_alarm_rate: rate, attainable_false_alarm_rate: least } = calibration ?? {};
  if (!rate || !least) return sentence(words);
  return t("threshold.caveat", { rate: share(rate), least: share(least), n: Math.ceil(1 / rate - 1e-9) - 1 });
}
