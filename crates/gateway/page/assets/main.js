// Puts the page together. A panel is loaded when it is first seen, the other one as soon as there is time for it.

import { byId } from "./element.js";
import { apply, onLanguage, otherLanguage, say, setLanguage } from "./language.js";
import { setUpServices } from "./services.js";
import { setUpTabs } from "./tabs.js";
import { setUpToken } from "./token.js";

const PANELS = {
  augment: async () => new (await import("./augmentation.js")).Augmentation(),
  translate: async () => new (await import("./translation.js")).Translation(),
};
/** Panel → the promise of it. */
const panels = {};
const load = (panel) => (panels[panel] ??= PANELS[panel]());

const NAMES = { zh: ["中文", "zh-CN"], en: ["English", "en"] };

function setUpLanguage() {
  const button = byId("language");
  const show = () => {
    const [name, tag] = NAMES[otherLanguage()];
    button.textContent = name;
    button.lang = tag;
  };
  button.addEventListener("click", () => setLanguage(otherLanguage()));
  onLanguage(show);
}

/** Ctrl+Enter, on a Mac Cmd+Enter, sends the form that holds the field. */
function setUpKeys() {
  const mac = /Mac|iPhone|iPad/.test(navigator.platform);
  for (const hint of document.querySelectorAll(".keys")) say(hint, "keys", { key: mac ? "⌘" : "Ctrl" });
  for (const form of document.querySelectorAll("main form")) {
    form.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
      event.preventDefault();
      form.requestSubmit();
    });
  }
}

setUpLanguage();
setUpKeys();
setUpToken();
apply();
setUpTabs(async (panel) => {
  (await load(panel)).opened();
  performance.mark("usable");
  setTimeout(() => Object.keys(PANELS).forEach(load));
});
setUpServices();
