// Words of the page in the language of the reader: one file a language in messages/.

/** Code and own name of each language. A new one is a line here and a file messages/CODE.json. */
export const LANGUAGES = { en: "English", de: "Deutsch" };

const KEY = "fre.language";
const base = (tag) => tag.toLowerCase().split("-")[0];

/** The language of the page: the one chosen on it, or else the first of the browser's that there is. */
export const language = [localStorage.getItem(KEY), ...navigator.languages.map(base)].find((code) => code in LANGUAGES) ?? "en";
/** How numbers and times are written: as in the reader's country, if the language is the browser's. */
export const locale = navigator.languages.find((tag) => base(tag) === language) ?? language;

const messages = await load(`/static/messages/${language}.json`);
const plurals = new Intl.PluralRules(language);
const numbers = new Intl.NumberFormat(locale);

/** Gets the messages; without them there is no page, so that one line in English says why. */
async function load(file) {
  try {
    const response = await fetch(file);
    if (!response.ok) throw new Error(`the service answered ${response.status}`);
    return await response.json();
  } catch (error) {
    const line = document.createElement("p");
    line.className = "notice";
    line.setAttribute("role", "alert");
    line.textContent = `The words of this page can't be loaded (${file}: ${error.message}). Is fre serve running? Reload the page.`;
    document.getElementById("main").prepend(line);
    throw error;
  }
}

/** Whether there is a message of a key that the service made up, such as the name of a task. */
export const has = (key) => key in messages;

/**
 * The message of a key, with its `{name}` placeholders filled in.
 * Numbers are written as the reader's country does. A message with plural forms is chosen by `n`.
 */
export function t(key, values = {}) {
  let text = messages[key];
  if (typeof text === "object") text = text[plurals.select(values.n)] ?? text.other;
  if (text === undefined) {
    console.error(`messages/${language}.json has no "${key}"`);
    return key;
  }
  return text.replace(/\{(\w+)\}/g, (placeholder, name) => {
    const value = values[name];
    if (value === undefined) console.error(`"${key}" was given no ${placeholder}`);
    return typeof value === "number" ? numbers.format(value) : value;
  });
}

/** Fills the static elements: `data-t` is the key of the text, `data-t-label` of the ARIA label. */
export function translate(root) {
  root.documentElement.lang = language;
  for (const element of root.querySelectorAll("[data-t]")) element.textContent = t(element.dataset.t);
  for (const element of root.querySelectorAll("[data-t-label]")) element.setAttribute("aria-label", t(element.dataset.tLabel));
}

/** Shows the page in another language from now on. */
export function choose(code) {
  localStorage.setItem(KEY, code);
  location.reload();
}
