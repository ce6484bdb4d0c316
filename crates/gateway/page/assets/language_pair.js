// The two lists of languages, and which goes into which.

import { byId, make } from "./element.js";
import { language, words } from "./language.js";
import { local } from "./memory.js";
import { services } from "./services.js";

const KEY = "pair";

export class LanguagePair {
  #source = byId("source-language");
  #target = byId("target-language");
  #onChange;

  /** `onChange()` is called whenever another pair is chosen. */
  constructor(onChange) {
    this.#onChange = onChange;
    this.#source.addEventListener("change", () => {
      this.#fillTargets(this.target);
      this.#changed();
    });
    this.#target.addEventListener("change", () => this.#changed());
  }

  /** Code of the chosen language, an empty string where none is named. */
  get source() {
    return this.#source.value;
  }

  get target() {
    return this.#target.value;
  }

  /** Chooses as far as the lists have it; whether they had it. */
  choose(source, target) {
    this.#source.value = source;
    if (this.#source.selectedIndex < 0) this.#source.selectedIndex = 0;
    this.#fillTargets(target);
    this.#changed();
    return this.source === source && this.target === target;
  }

  get canSwap() {
    return this.source !== "" && this.#offers(this.target, this.source);
  }

  swap() {
    this.choose(this.target, this.source);
  }

  /** The name of a language in that of the interface. */
  nameOf(code) {
    const found = this.#languages.find((entry) => entry.code === code);
    if (!found) return code || words("unspecified");
    return language() === "zh" ? found.chinese : found.name;
  }

  /** Fills both lists anew, and keeps what was chosen. */
  draw() {
    const kept = this.source || this.target ? { source: this.source, target: this.target } : this.#first();
    const sources = this.#languages.map(({ code }) => code).filter((code) => this.#targetsOf(code).length);
    // Where every language goes into every other, the model may find out itself which one it reads.
    if (!this.#pairs) sources.unshift("");
    this.#fill(this.#source, sources, kept.source);
    this.#fillTargets(kept.target);
    this.#onChange();
  }

  get #languages() {
    return services()?.translate?.languages ?? [];
  }

  get #pairs() {
    return services()?.translate?.pairs ?? null;
  }

  /** What was chosen last time, else the first that there is. */
  #first() {
    const kept = local.get(KEY);
    if (kept && this.#offers(kept.source, kept.target)) return kept;
    if (this.#pairs) return { source: this.#pairs[0]?.src ?? "", target: this.#pairs[0]?.tgt ?? "" };
    return { source: "", target: language() };
  }

  #offers(source, target) {
    return this.#targetsOf(source).includes(target);
  }

  #targetsOf(source) {
    if (!this.#pairs) return this.#languages.map(({ code }) => code).filter((code) => code !== source);
    return this.#pairs.filter(({ src }) => src === source).map(({ tgt }) => tgt);
  }

  #fillTargets(wanted) {
    this.#fill(this.#target, this.#targetsOf(this.source), wanted);
  }

  #fill(select, codes, wanted) {
    const named = codes.map((code) => {
      const native = this.#languages.find((entry) => entry.code === code)?.native;
      const name = this.nameOf(code);
      return make("option", { value: code }, native && native !== name ? `${name} · ${native}` : name);
    });
    select.replaceChildren(...named);
    select.value = wanted;
    if (select.selectedIndex < 0) select.selectedIndex = 0;
  }

  #changed() {
    local.set(KEY, { source: this.source, target: this.target });
    this.#onChange();
  }
}
