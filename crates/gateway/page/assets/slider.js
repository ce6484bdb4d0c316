// A number that can be dragged and typed. What is typed out of range stays there, with the reason beside it.

import { make } from "./element.js";
import { refuse } from "./failure.js";
import { say } from "./language.js";

export class Slider {
  #range;
  #number;
  #error;
  #whole;

  /** `name` is the key of the API and of the label. `step` 1 means whole numbers. */
  constructor(place, name, { minimum, maximum, step }) {
    this.name = name;
    this.#whole = step === 1;
    const scale = { min: minimum, max: maximum, step };
    const inputMode = this.#whole ? "numeric" : "decimal";
    this.#number = make("input", { type: "number", id: name, inputMode, autocomplete: "off", ...scale });
    this.#range = make("input", { type: "range", ...scale });
    const label = say(make("label", { htmlFor: name, id: `${name}-label` }), name);
    this.#range.setAttribute("aria-labelledby", label.id);
    this.#error = make("p", { className: "error", id: `${name}-error`, hidden: true });
    this.#error.setAttribute("role", "alert");
    this.#number.setAttribute("aria-describedby", this.#error.id);
    this.#range.addEventListener("input", () => this.set(this.#range.value));
    this.#number.addEventListener("input", () => this.#check());
    place.append(make("div", { className: "slider" }, label, this.#range, this.#number, this.#error));
  }

  /** The number, or null when what stands there is none or out of range. */
  get value() {
    const value = this.#number.valueAsNumber;
    const { min, max } = this.#number;
    if (!(value >= Number(min) && value <= Number(max))) return null;
    return this.#whole && !Number.isInteger(value) ? null : value;
  }

  set(value) {
    this.#number.value = value;
    this.#check();
  }

  setMaximum(maximum) {
    this.#number.max = this.#range.max = maximum;
    this.#check();
  }

  focus() {
    this.#number.focus();
  }

  #check() {
    const value = this.value;
    if (value !== null) this.#range.value = value;
    const { min, max } = this.#range;
    // The track left of the thumb is coloured up to here.
    this.#range.style.setProperty("--share", `${((this.#range.value - min) / (max - min)) * 100}%`);
    const parts = { minimum: Number(min), maximum: Number(max) };
    refuse(this.#number, this.#error, value === null ? (this.#whole ? "notWhole" : "outOfRange") : null, parts);
  }
}
