// The last translations, on this device alone.

import { byId, make } from "./element.js";
import { label } from "./language.js";
import { local } from "./memory.js";

const KEY = "history";
const KEPT = 5;
const SHOWN_CHARACTERS = 140;

export class History {
  #entries = local.get(KEY, []);
  #onChoose;
  #nameOf;

  /** `onChoose(entry)` restores one; `nameOf(code)` names a language. */
  constructor(onChoose, nameOf) {
    if (!Array.isArray(this.#entries)) this.#entries = [];
    this.#onChoose = onChoose;
    this.#nameOf = nameOf;
    byId("history-clear").addEventListener("click", () => this.#set([]));
    this.draw();
  }

  /** Adds `{text, output, source, target}`; the same text in the same languages is kept once. */
  add(entry) {
    const same = (old) => ["text", "source", "target"].every((key) => old[key] === entry[key]);
    this.#set([entry, ...this.#entries.filter((old) => !same(old))].slice(0, KEPT));
  }

  #set(entries) {
    this.#entries = entries;
    if (entries.length) local.set(KEY, entries);
    else local.remove(KEY);
    this.draw();
  }

  draw() {
    byId("history").hidden = !this.#entries.length;
    byId("history-list").replaceChildren(...this.#entries.map((entry) => this.#item(entry)));
  }

  #item(entry) {
    const pair = [entry.source, entry.target].map((code) => this.#nameOf(code)).join(" → ");
    const choose = make(
      "button",
      { type: "button", className: "past" },
      make("span", { className: "pair" }, pair),
      make("span", { className: "past-text", dir: "auto" }, entry.text.slice(0, SHOWN_CHARACTERS)),
      make("span", { className: "past-output", dir: "auto" }, entry.output.slice(0, SHOWN_CHARACTERS)),
    );
    choose.addEventListener("click", () => this.#onChoose(entry));
    const remove = make("button", { type: "button", className: "quiet remove" }, "×");
    label(remove, "historyDelete", { text: entry.text.slice(0, 40) });
    remove.addEventListener("click", () => {
      const place = this.#entries.indexOf(entry);
      this.#set(this.#entries.filter((other) => other !== entry));
      const left = byId("history-list").querySelectorAll(".remove");
      (left[Math.min(place, left.length - 1)] ?? byId("source")).focus();
    });
    return make("li", {}, choose, remove);
  }
}
