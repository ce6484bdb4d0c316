// The WebSocket to the gateway. It comes back by itself after a loss, later each time; after the gateway has closed it
// for idleness it waits until it is needed.

import { address } from "./gateway.js";
import { token } from "./token.js";

const FIRST_WAIT_MS = 500;
const LONGEST_WAIT_MS = 30_000;
const IDLE = 1000;
/** A connection with a translation on it that says nothing for so long is asked whether it is alive. */
const SILENCE_MS = 20_000;
const PONG_MS = 10_000;

export class Connection extends EventTarget {
  #socket = null;
  #tries = 0;
  #timer = null;
  #watch = null;
  #closing = "";
  /** `closed`, `connecting`, `open`, or `waiting` for the next try. */
  state = "closed";
  /** Whether it was open before: only then has anything been lost. */
  opened = false;

  /** Opens it, unless it is; `open` and `close` events tell what became of it. */
  open() {
    if (this.#socket) return;
    clearTimeout(this.#timer);
    const url = address("ws/translate");
    url.protocol = url.protocol.replace("http", "ws");
    url.hash = "";
    let socket;
    try {
      // A browser cannot set headers here: the token goes as a subprotocol.
      socket = token() ? new WebSocket(url, ["textgen", `bearer.${token()}`]) : new WebSocket(url);
    } catch {
      // A token with characters that a subprotocol cannot have.
      this.#tries += 1;
      this.#become("closed");
      this.dispatchEvent(new CustomEvent("close", { detail: "" }));
      return;
    }
    this.#socket = socket;
    this.#closing = "";
    this.#become("connecting");
    socket.addEventListener("open", () => {
      this.#tries = 0;
      this.opened = true;
      this.#become("open");
      this.dispatchEvent(new Event("open"));
    });
    socket.addEventListener("message", ({ data }) => this.#receive(data));
    socket.addEventListener("close", ({ code }) => this.#end(socket, code));
  }

  /** Resolves to true once it is open, to false when this try has failed or takes longer than `patience` ms. */
  ready(patience) {
    if (this.state === "open") return Promise.resolve(true);
    return new Promise((resolve) => {
      const settle = (open) => {
        clearTimeout(timer);
        this.removeEventListener("open", yes);
        this.removeEventListener("close", no);
        resolve(open);
      };
      const yes = () => settle(true);
      const no = () => settle(false);
      const timer = setTimeout(no, patience);
      this.addEventListener("open", yes);
      this.addEventListener("close", no);
      this.open();
    });
  }

  send(message) {
    if (this.state === "open") this.#socket.send(JSON.stringify(message));
  }

  /** Closes it and opens it again, with the token of now. */
  renew() {
    const socket = this.#socket;
    if (socket) this.#end(socket, IDLE);
    this.open();
  }

  /** While a translation is at work, finds out when nobody is at the other end any more. */
  watch(on) {
    clearTimeout(this.#watch);
    if (!on || !this.#socket) return;
    const socket = this.#socket;
    this.#watch = setTimeout(() => {
      this.send({ type: "ping" });
      this.#watch = setTimeout(() => this.#end(socket, 1006), PONG_MS);
    }, SILENCE_MS);
  }

  #receive(data) {
    if (this.#watch) this.watch(true);
    const message = JSON.parse(data);
    if (message.type === "closing") this.#closing = String(message.reason ?? "");
    else if (message.type !== "pong") this.dispatchEvent(new CustomEvent("message", { detail: message }));
  }

  #end(socket, code) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    this.watch(false);
    this.#watch = null;
    socket.close();
    if (code === IDLE) {
      this.#become("closed");
    } else {
      const wait = Math.min(FIRST_WAIT_MS * 2 ** this.#tries, LONGEST_WAIT_MS);
      this.#tries += 1;
      // Jitter, so that the pages of a gateway that was restarted do not all come at once.
      this.#timer = setTimeout(() => this.open(), wait * (0.5 + Math.random()));
      this.#become("waiting");
    }
    this.dispatchEvent(new CustomEvent("close", { detail: this.#closing }));
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
