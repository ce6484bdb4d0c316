// The panel of translation. A translation goes over the WebSocket; where none can be opened, as behind some proxies, it
// goes by POST and its pieces come as server-sent events. Either way the same messages arrive here.

import { showCount } from "./characters.js";
import { copy } from "./clipboard.js";
import { Connection } from "./connection.js";
import { byId } from "./element.js";
import { Failure, refuse, show } from "./failure.js";
import { events } from "./gateway.js";
import { History } from "./history.js";
import { onLanguage, say } from "./language.js";
import { LanguagePair } from "./language_pair.js";
import { keepDraft } from "./memory.js";
import { askAgain, onServices, services } from "./services.js";
import { StreamedText } from "./streamed_text.js";
import { onToken } from "./token.js";

/** How long a translation waits for the WebSocket before it takes the other way. */
const PATIENCE_MS = 3_000;

export class Translation {
  #connection = new Connection();
  #output = new StreamedText(byId("output"));
  #pair = new LanguagePair(() => this.#showPair());
  #history = new History(
    (entry) => this.#restore(entry),
    (code) => this.#pair.nameOf(code),
  );
  /** The one at work: `{id, text, source, target, way, stopping, started}`; `stopping` ends the way by POST. */
  #job = null;
  #count = 0;
  /** What the panel shows when the connection has nothing to say. */
  #state = ["idle", {}];

  constructor() {
    keepDraft(byId("source"));
    this.#listen();
    this.#show("idle");
    this.#showCounts();
    onServices(() => {
      byId("translate-start").disabled = services().translate === null || this.#job !== null;
      this.#pair.draw();
      this.#history.draw();
      this.#showCounts();
    });
    onLanguage(() => {
      this.#pair.draw();
      this.#history.draw();
    });
    onToken(() => this.#job || this.#connection.state === "closed" || this.#connection.renew());
  }

  /** The panel is seen: the connection is opened before it is needed. */
  opened() {
    if (this.#connection.state === "closed") this.#connection.open();
  }

  #listen() {
    byId("translate-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#start();
    });
    byId("source").addEventListener("input", () => this.#showCounts());
    byId("translate-stop").addEventListener("click", () => this.#stop());
    byId("swap").addEventListener("click", () => this.#swap());
    byId("copy-output").addEventListener("click", () => copy(this.#output.text, byId("copy-output")));
    this.#output.addEventListener("drawn", () => this.#showOutput());
    this.#connection.addEventListener("message", ({ detail }) => {
      if (this.#job && (detail.id === this.#job.id || detail.id === null)) this.#receive(detail);
    });
    this.#connection.addEventListener("close", ({ detail }) => {
      if (this.#job?.way === "socket") this.#fail(new Failure("lost", detail));
    });
    this.#connection.addEventListener("state", () => {
      if (this.#connection.state === "open") this.#showWay("socket");
      if (!this.#job) this.#showState();
    });
  }

  async #start() {
    if (this.#job) return;
    this.#showCounts();
    const text = byId("source").value;
    if (!text.trim()) refuse(byId("source"), byId("source-error"), "emptyText");
    else if (!this.#pair.target) refuse(byId("source"), byId("source-error"), "samePair");
    if (!byId("source-error").hidden) return byId("source").focus();
    this.#count += 1;
    const job = {
      id: `t${this.#count}`,
      text,
      source: this.#pair.source,
      target: this.#pair.target,
      way: null,
      stopping: new AbortController(),
      started: performance.now(),
    };
    this.#job = job;
    show(byId("translate-failure"), null);
    this.#output.set("");
    this.#showBusy(true);
    this.#show("connecting");
    const open = await this.#connection.ready(PATIENCE_MS);
    // It may have been stopped meanwhile.
    if (this.#job !== job) return;
    job.way = open ? "socket" : "events";
    this.#showWay(job.way);
    this.#show("waiting");
    const request = { text, src_lang: job.source || undefined, tgt_lang: job.target };
    if (open) {
      this.#connection.send({ type: "translate", id: job.id, ...request });
      this.#connection.watch(true);
    } else {
      await this.#follow(job, request);
    }
  }

  /** The way by POST. */
  async #follow(job, request) {
    try {
      for await (const message of events("translate", { ...request, stream: true }, job.stopping.signal)) {
        if (this.#job !== job) return;
        this.#receive(message);
      }
      if (this.#job === job) this.#fail(new Failure("lost"));
    } catch (error) {
      if (this.#job !== job) return;
      if (error.name === "AbortError") this.#receive({ type: "stopped" });
      else this.#fail(error instanceof Failure ? error : new Failure("unknown", error.message));
    }
  }

  #receive(message) {
    switch (message.type) {
      case "queued":
        return this.#show("queued", { position: message.position });
      case "started":
        return this.#state[0] === "stopping" || this.#show("translating");
      case "delta":
        this.#output.append(message.text);
        // A gateway that is at work need not have said so before.
        if (this.#state[0] === "waiting" || this.#state[0] === "queued") this.#show("translating");
        return;
      case "done":
        return this.#done(message);
      case "stopped":
        return this.#end("stopped");
      case "error":
        return this.#fail(Failure.of(message.error));
    }
  }

  #done({ finish_reason: reason, usage }) {
    const { text, source, target, started } = this.#job;
    const seconds = Math.max(1, Math.round((performance.now() - started) / 100)) / 10;
    if (reason === "length") this.#end("cut");
    else this.#end("done", { tokens: usage?.output_tokens ?? 0, seconds });
    this.#history.add({ text, output: this.#output.text, source, target });
  }

  #stop() {
    const job = this.#job;
    if (!job) return;
    if (job.way === "socket") {
      this.#show("stopping");
      this.#connection.send({ type: "stop", id: job.id });
    } else {
      job.stopping.abort();
      // Without a way it has not been sent: nothing will answer.
      if (!job.way) this.#end("stopped");
    }
  }

  #fail(failure) {
    show(byId("translate-failure"), failure);
    this.#end("failed");
    if (failure.general || failure.code === "lost") askAgain();
  }

  #end(state, parts) {
    this.#output.flush();
    this.#connection.watch(false);
    this.#job = null;
    this.#showBusy(false);
    this.#show(state, parts);
  }

  #swap() {
    if (this.#job || !this.#pair.canSwap) return;
    this.#pair.swap();
    const output = this.#output.text;
    if (!output) return;
    this.#output.set(byId("source").value);
    this.#setSource(output);
    this.#show("idle");
  }

  #restore({ text, output, source, target }) {
    if (this.#job) return;
    this.#pair.choose(source, target);
    this.#setSource(text);
    this.#output.set(output);
    show(byId("translate-failure"), null);
    this.#show("idle");
    byId("source").focus();
  }

  #setSource(text) {
    byId("source").value = text;
    byId("source").dispatchEvent(new Event("input"));
  }

  // What is seen.

  #show(state, parts = {}) {
    this.#state = [state, parts];
    this.#showState();
  }

  /** The state of the translation; when none is at work, a connection that is being made matters more. */
  #showState() {
    let [state, parts] = this.#state;
    if (!this.#job && state === "idle") {
      const { state: connection, opened } = this.#connection;
      if (opened && ["waiting", "connecting"].includes(connection)) state = "reconnecting";
      else if (connection === "connecting") state = "connecting";
    }
    byId("translate-state").dataset.state = state;
    say(byId("translate-state"), `state_${state}`, parts);
  }

  #showWay(way) {
    byId("way").dataset.way = way;
    say(byId("way"), `way_${way}`);
  }

  #showBusy(busy) {
    const focused = document.activeElement;
    byId("translate-start").disabled = busy || services()?.translate === null;
    byId("translate-stop").hidden = !busy;
    byId("output").setAttribute("aria-busy", String(busy));
    this.#showPair();
    // Who pressed a button that is gone must not lose the place.
    if (busy && focused === byId("translate-start")) byId("translate-stop").focus();
    if (!busy && focused === byId("translate-stop")) byId("translate-start").focus();
  }

  #showPair() {
    byId("swap").disabled = this.#job !== null || !this.#pair.canSwap;
  }

  #showCounts() {
    const limit = services()?.translate?.limits.max_text_chars;
    const count = showCount(byId("source-count"), byId("source").value, limit);
    refuse(byId("source"), byId("source-error"), limit && count > limit ? "tooLong" : null, { count, limit });
  }

  #showOutput() {
    const { text } = this.#output;
    byId("output-empty").hidden = text !== "";
    byId("copy-output").disabled = text === "";
    showCount(byId("output-count"), text);
  }
}
