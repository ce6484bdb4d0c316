// The table of a batch, a page at a time: however long the batch, the browser holds the rows of one page.

import { byId, make } from "./element.js";
import { tell } from "./failure.js";
import { label, say, words } from "./language.js";

/** Rows of variants on a page, about. */
const PAGE_ROWS = 100;

export class Results {
  #rows = [];
  #perPage = PAGE_ROWS;
  #page = 0;
  #table = byId("batch-results").querySelector("table");
  /** Index of a row on this page → its table body. */
  #shown = new Map();
  #changed = new Set();
  #onRetry;

  /** `onRetry(index)` is called to send a failed row again. */
  constructor(onRetry) {
    this.#onRetry = onRetry;
    byId("page-before").addEventListener("click", () => this.#turn(-1));
    byId("page-after").addEventListener("click", () => this.#turn(1));
  }

  /** Shows other rows, see `Batch.rows`; each is expected to have so many variants. */
  set(rows, variants) {
    this.#rows = rows;
    this.#perPage = Math.max(5, Math.floor(PAGE_ROWS / variants));
    this.#page = 0;
    this.#draw();
  }

  /** Draws these rows again, if they are on this page, with the next frame. */
  update(indices) {
    if (!this.#changed.size && indices.length) requestAnimationFrame(() => this.#redraw());
    for (const index of indices) this.#changed.add(index);
  }

  #redraw() {
    for (const index of this.#changed) {
      const old = this.#shown.get(index);
      if (!old) continue;
      const body = this.#body(index);
      old.replaceWith(body);
      this.#shown.set(index, body);
    }
    this.#changed.clear();
  }

  #turn(step) {
    this.#page += step;
    this.#draw();
    byId("results-title").scrollIntoView({ block: "nearest" });
  }

  #draw() {
    for (const body of this.#shown.values()) body.remove();
    this.#shown.clear();
    const first = this.#page * this.#perPage;
    const last = Math.min(first + this.#perPage, this.#rows.length);
    for (let index = first; index < last; index++) this.#shown.set(index, this.#body(index));
    this.#table.append(...this.#shown.values());
    const pages = Math.max(1, Math.ceil(this.#rows.length / this.#perPage));
    byId("pages").hidden = pages === 1;
    byId("page-before").disabled = this.#page === 0;
    byId("page-after").disabled = this.#page === pages - 1;
    say(byId("page-place"), "pagePlace", { page: this.#page + 1, pages });
  }

  #body(index) {
    const row = this.#rows[index];
    const source = make("th", { scope: "rowgroup", dir: "auto", className: "source" }, row.text);
    const body = make("tbody", { className: row.state });
    if (row.state === "done") {
      source.rowSpan = Math.max(1, row.variants.length + (row.exhausted ? 1 : 0));
      row.variants.forEach((variant, place) => {
        const cells = [numberCell(index, place), make("td", { dir: "auto" }, variant)];
        cells[1].append(...truncationMark(row.finishReasons[place]));
        const probability = row.probabilities?.find((entry) => entry.label === variant);
        if (probability) cells[1].append(make("span", { className: "share" }, percent(probability.probability)));
        body.append(make("tr", {}, ...(place ? cells : [source, ...cells])));
      });
      if (row.exhausted) {
        const note = say(make("td", { className: "row-state", colSpan: 2 }), "exhaustedRow");
        body.append(make("tr", {}, ...(row.variants.length ? [note] : [source, note])));
      }
      return body;
    }
    const cell = make("td", { className: "row-state" });
    if (row.state === "failed") {
      const again = say(make("button", { type: "button", className: "link" }), "retryRow");
      label(again, "retryRowLabel", { number: index + 1 });
      again.addEventListener("click", () => this.#onRetry(index));
      cell.append(make("div", { className: "error" }, ...tell(row.failure)), again);
    } else {
      say(cell, row.state === "running" ? "rowRunning" : "rowWaiting");
    }
    body.append(make("tr", {}, source, numberCell(index, null), cell));
    return body;
  }
}

const numberCell = (index, place) =>
  make("td", { className: "number" }, place === null ? `${index + 1}` : `${index + 1}.${place + 1}`);

/** What marks a variant that a limit of length cut short; nothing for another. */
export const truncationMark = (finishReason) =>
  finishReason === "length" ? [say(make("span", { className: "mark" }), "truncated")] : [];

export const percent = (share) => share.toLocaleString(undefined, { style: "percent", maximumFractionDigits: 1 });

/** Bars for `[{label, probability}, …]`. */
export function bars(probabilities) {
  return probabilities.map(({ label: name, probability }) => {
    const bar = make("span", { className: "bar-fill" });
    bar.style.setProperty("--share", `${probability * 100}%`);
    const track = make("span", { className: "bar-track", role: "img" }, bar);
    track.setAttribute("aria-label", words("probability", { label: name, percent: percent(probability) }));
    const share = make("span", { className: "bar-share" }, percent(probability));
    share.setAttribute("aria-hidden", "true");
    const title = make("span", { className: "bar-name", dir: "auto" }, name);
    return make("div", { className: "bar-row" }, title, track, share);
  });
}
