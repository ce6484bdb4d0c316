// A text that grows. Pieces are gathered and drawn once a frame, each line an element of its own, so that a piece costs
// the same at the end of a long text as at its beginning.

import { make } from "./element.js";

/** A text node longer than this is left alone, and another begun. */
const NODE_CHARACTERS = 2_000;

export class StreamedText extends EventTarget {
  #place;
  #pieces = [];
  #waiting = "";
  #frame = null;
  #node = null;

  constructor(place) {
    super();
    this.#place = place;
  }

  /** Everything that has arrived, drawn or not. */
  get text() {
    if (this.#pieces.length > 1) this.#pieces = [this.#pieces.join("")];
    return this.#pieces[0] ?? "";
  }

  set(text) {
    cancelAnimationFrame(this.#frame);
    this.#frame = null;
    this.#pieces = [];
    this.#waiting = "";
    this.#node = null;
    this.#place.replaceChildren();
    this.append(text);
    this.flush();
  }

  append(piece) {
    if (!piece) return;
    this.#pieces.push(piece);
    this.#waiting += piece;
    this.#frame ??= requestAnimationFrame(() => this.flush());
  }

  /** Draws what has arrived. */
  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = null;
    const place = this.#place;
    // The end stays in view for who is looking at it; who has scrolled up is left there.
    const following = place.scrollHeight - place.scrollTop - place.clientHeight < 40;
    this.#waiting.split("\n").forEach((piece, index) => {
      if (index || !place.lastChild) {
        place.append(make("p", { dir: "auto" }));
        this.#node = null;
      }
      if (!piece) return;
      if (this.#node && this.#node.length < NODE_CHARACTERS) this.#node.appendData(piece);
      else place.lastChild.append((this.#node = document.createTextNode(piece)));
    });
    this.#waiting = "";
    if (following) place.scrollTop = place.scrollHeight;
    this.dispatchEvent(new Event("drawn"));
  }
}
