// Numbers and times as people read them, in the language of the page.

import { locale, t } from "./language.js";

const formats = new Map();

/** A hyphen before a number as the minus that it is. */
const withMinus = (text) => text.replace("-", "−");

/** A number with so many decimals. */
export function decimals(value, digits, most = digits) {
  const key = `${digits} ${most}`;
  if (!formats.has(key)) formats.set(key, new Intl.NumberFormat(locale, { minimumFractionDigits: digits, maximumFractionDigits: most }));
  return withMinus(formats.get(key).format(value));
}

/** A score: four significant digits, but no more than three decimals; thousands grouped. */
export function score(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  // No minus before a zero.
  if (size < 0.0005) return decimals(0, 3);
  const digits = size >= 1000 ? 0 : size >= 100 ? 1 : size >= 10 ? 2 : 3;
  return decimals(value, digits);
}

/** A p-value; one at the floor of the calibration is the smallest that it can say. */
export function pValue(value) {
  if (value === null || value === undefined) return "–";
  if (value >= 0.1) return decimals(value, 2);
  if (value >= 0.001) return decimals(value, 3);
  return withMinus(value.toExponential(0));
}

/** A share as a percentage. */
export function percent(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  const hundred = 100 * value;
  const digits = hundred === 0 || hundred >= 10 ? 0 : hundred >= 1 ? 1 : 2;
  return `${decimals(hundred, digits)} %`;
}

/** A number of so many significant digits at most. */
export const significant = (value, digits) => decimals(Number(value.toPrecision(digits)), 0, 20);

/** A share as a percentage of two digits, as `fre train` prints it. */
export const share = (value) => `${significant(100 * value, 2)} %`;

export function count(value) {
  return decimals(value, 0);
}

/** A sentence of the service, which begins small and has no full stop. */
export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1)}.`;

const CLOCK = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const MINUTE = new Intl.DateTimeFormat(locale, { hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const DAY = new Intl.DateTimeFormat(locale, { day: "numeric", month: "short", year: "numeric" });

/** A time of today by its clock, an older one with its day. */
export function time(iso) {
  const date = new Date(iso);
  if (Number.isNaN(date.getTime())) return "–";
  const today = new Date().toDateString() === date.toDateString();
  return today ? CLOCK.format(date) : `${DAY.format(date)}, ${CLOCK.format(date)}`;
}

/** A time of day without its seconds. */
export const minute = (iso) => MINUTE.format(new Date(iso));

/** A span of seconds in words. */
export function duration(seconds) {
  if (seconds < 1) return t("unit.under_a_second");
  if (seconds < 90) return t("unit.seconds", { n: Math.round(seconds) });
  return t("unit.minutes", { n: Math.round(seconds / 60) });
}

export function bytes(value) {
  if (value < 1e6) return `${count(Math.max(1, Math.round(value / 1e3)))} kB`;
  return `${decimals(value / 1e6, 1)} MB`;
}
