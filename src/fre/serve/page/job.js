// What is shown of a job wherever one is followed.

import { h, say } from "./dom.js";
import { has, t } from "./language.js";

const ENDED = ["done", "failed", "cancelled"];

export const hasEnded = (job) => ENDED.includes(job.state);

/** A slow answer must not undo what an event has told already. */
export const isOlder = (job, known) => hasEnded(known) && !hasEnded(job);

/** How far a job is: a bar and words. */
export function showProgress(bar, words, { progress }) {
  if (progress?.total) {
    bar.max = progress.total;
    bar.value = progress.done;
  } else {
    bar.removeAttribute("value");
  }
  say(words, progress ? t("job.task", { task: taskName(progress.task), done: progress.done, total: progress.total }) : t("job.turn"));
}

/** What a job is doing; a task that has no message keeps the English name that the service gave it. */
function taskName(task) {
  const name = task.toLowerCase().replaceAll(/\W+/g, "_");
  return has(`task.${name}`) ? t(`task.${name}`) : task;
}

/** The files that a training could not read, and why; null if there are none. */
export function skippedFiles({ skipped }) {
  if (!skipped?.length) return null;
  return h("details", { class: "small" }, h("summary", {}, t("job.skipped", { n: skipped.length })),
    h("ul", {}, skipped.map(({ name, error }) => h("li", {}, `${name}: ${error}`))));
}
