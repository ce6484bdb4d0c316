// A batch at work: its texts go to the gateway a few at a time, so that progress shows and it can be stopped. What
// failed or was not reached can be taken up again.

import { Failure } from "./failure.js";
import { post } from "./gateway.js";

const CHUNK_TEXTS = 8;
const CHUNKS_AT_ONCE = 2;
/** How often a chunk that the gateway was too busy for is sent again by itself. */
const TRIES = 6;
const FIRST_WAIT_S = 1;
const LONGEST_WAIT_S = 20;

export class Batch extends EventTarget {
  #options;
  #chunks = [];
  #stopping = null;

  /** `options` go with every request; `largest` is how many texts one may have. */
  constructor(texts, options, largest) {
    super();
    this.#options = options;
    /** Each `{text, state, failure}` and what the gateway gave for it; state: waiting, running, done, failed. */
    this.rows = texts.map((text, index) => ({
      index,
      text,
      state: "waiting",
      failure: null,
      tries: 0,
      variants: [],
      finishReasons: [],
      exhausted: false,
      probabilities: null,
    }));
    const size = Math.max(1, Math.min(CHUNK_TEXTS, largest));
    for (let first = 0; first < texts.length; first += size) {
      this.#chunks.push(this.rows.slice(first, first + size));
    }
    /** Seconds that it waits at the moment because the gateway is busy. */
    this.pause = 0;
    this.done = 0;
    this.failed = 0;
  }

  get running() {
    return this.#stopping !== null;
  }

  get unfinished() {
    return this.rows.length - this.done;
  }

  /** Sends everything that is not done; `only` restricts it to the chunk of that row. Ends when nothing is at work. */
  async run(only = null) {
    if (this.running) return;
    const queue = this.#chunks
      .filter((chunk) => only === null || chunk.includes(this.rows[only]))
      .map((chunk) => chunk.filter((row) => row.state !== "done"))
      .filter((rows) => rows.length);
    for (const rows of queue) this.#mark(rows, "waiting");
    this.#stopping = new AbortController();
    const worker = async () => {
      while (queue.length && !this.#stopping.signal.aborted) await this.#send(queue.shift(), queue);
    };
    await Promise.all(Array.from({ length: CHUNKS_AT_ONCE }, worker));
    this.stopped = this.#stopping.signal.aborted;
    this.#stopping = null;
    this.pause = 0;
    this.#tell([]);
  }

  stop() {
    this.#stopping?.abort();
  }

  async #send(rows, queue) {
    const { signal } = this.#stopping;
    this.#mark(rows, "running");
    const busy = [];
    try {
      const texts = rows.map((row) => row.text);
      const answer = await this.#patient({ texts, grouped: true, partial: true, ...this.#options }, signal);
      rows.forEach((row, place) => {
        row.variants = answer.augmented_texts[place];
        row.finishReasons = answer.finish_reasons?.[place] ?? [];
        row.exhausted = answer.exhausted?.[place] ?? false;
        row.probabilities = answer.probabilities?.[place] ?? null;
      });
      const failures = new Map(answer.errors?.map(({ index, error }) => [rows[index], Failure.of(error)]));
      this.#mark(
        rows.filter((row) => !failures.has(row)),
        "done",
      );
      for (const [row, failure] of failures) {
        if (failure.busy && ++row.tries < TRIES) busy.push(row);
        else this.#fail([row], failure, queue);
      }
    } catch (error) {
      if (error.name === "AbortError") return this.#mark(rows, "waiting");
      this.#fail(rows, error instanceof Failure ? error : new Failure("unknown", error.message), queue);
    }
    if (busy.length) await this.#later(busy, queue, signal);
  }

  /** Rows for which the gateway was too busy are asked for again, later each time. */
  async #later(rows, queue, signal) {
    this.#mark(rows, "waiting");
    try {
      await this.#rest(rows[0].tries, null, signal);
      queue.push(rows);
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  async #rest(tries, retryAfter, signal) {
    const backOff = Math.min(FIRST_WAIT_S * 2 ** tries, LONGEST_WAIT_S) * (0.5 + Math.random() / 2);
    this.pause = Math.ceil(retryAfter ?? backOff);
    this.#tell([]);
    await pause(this.pause * 1_000, signal);
    this.pause = 0;
  }

  #fail(rows, failure, queue) {
    this.#mark(rows, "failed", failure);
    // The rest would only fail the same way.
    if (failure.general) queue.length = 0;
  }

  /** One request; asks again, later each time, while the gateway is too busy. */
  async #patient(body, signal) {
    for (let tries = 1; ; tries++) {
      try {
        return await post("augment_batch", body, signal);
      } catch (error) {
        if (!error.busy || tries === TRIES) throw error;
        await this.#rest(tries, error.retryAfter, signal);
      }
    }
  }

  #mark(rows, state, failure = null) {
    for (const row of rows) Object.assign(row, { state, failure });
    const count = (wanted) => this.rows.reduce((sum, row) => sum + (row.state === wanted), 0);
    this.done = count("done");
    this.failed = count("failed");
    this.#tell(rows.map((row) => row.index));
  }

  /** `indices` of the rows that have changed. */
  #tell(indices) {
    this.dispatchEvent(new CustomEvent("change", { detail: indices }));
  }
}

const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", abort);
      resolve();
    }, ms);
    signal.addEventListener("abort", abort, { once: true });
  });
