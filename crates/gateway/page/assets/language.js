// The language of the interface. An element that `say` has spoken to speaks the new language after a switch.

import { local } from "./memory.js";

/** Only the language that is spoken is loaded. */
const DICTIONARIES = {
  zh: async () => (await import("./chinese.js")).chinese,
  en: async () => (await import("./english.js")).english,
};
const TAGS = { zh: "zh-CN", en: "en" };
/** Which attribute of an element holds the key of which text. */
const PLACES = { text: null, label: "aria-label", hint: "placeholder" };

/** Element → the values in its text. */
const values = new WeakMap();
const listeners = [];
let current = local.get("language") ?? (navigator.languages?.[0] ?? navigator.language).toLowerCase().slice(0, 2);
if (!(current in DICTIONARIES)) current = "en";
let dictionary = await DICTIONARIES[current]();

export const language = () => current;
export const otherLanguage = () => (current === "zh" ? "en" : "zh");

/** The text of `key`, with `{name}` replaced by `parts.name`. */
export function words(key, parts = {}) {
  const text = dictionary[key];
  if (text === undefined) throw new Error(`no text for ${key}`);
  return text.replace(/\{(\w+)\}/g, (_, name) => {
    const part = parts[name];
    return typeof part === "number" ? part.toLocaleString(TAGS[current]) : part;
  });
}

export const hasWords = (key) => key in dictionary;

/** Makes the text of `key` that of `element`, now and after every switch of the language; no key empties it. */
export function say(element, key, parts = {}) {
  if (!key) {
    delete element.dataset.text;
    element.textContent = "";
    return element;
  }
  values.set(element, parts);
  element.dataset.text = key;
  element.textContent = words(key, parts);
  return element;
}

/** The same for an element's accessible name. */
export function label(element, key, parts = {}) {
  values.set(element, parts);
  element.dataset.label = key;
  element.setAttribute("aria-label", words(key, parts));
  return element;
}

export async function setLanguage(chosen) {
  dictionary = await DICTIONARIES[chosen]();
  current = chosen;
  local.set("language", chosen);
  apply();
}

/** Calls `listener` after every switch. */
export const onLanguage = (listener) => listeners.push(listener);

/** Speaks the current language everywhere. */
export function apply() {
  document.documentElement.lang = TAGS[current];
  document.title = words("title");
  for (const [place, attribute] of Object.entries(PLACES)) {
    for (const element of document.querySelectorAll(`[data-${place}]`)) {
      const text = words(element.dataset[place], values.get(element));
      if (attribute) element.setAttribute(attribute, text);
      else element.textContent = text;
    }
  }
  for (const listener of listeners) listener();
}
