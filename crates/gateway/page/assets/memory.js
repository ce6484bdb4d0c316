// What the browser keeps: settings, history and drafts. A browser that forbids storage forgets, and nothing fails.

const PREFIX = "textgen.";

class Memory {
  #storage;

  constructor(open) {
    try {
      this.#storage = open();
    } catch {
      this.#storage = null;
    }
  }

  /** The value kept under `key`; `otherwise` when there is none, or none that can be read. */
  get(key, otherwise = null) {
    try {
      return JSON.parse(this.#storage.getItem(PREFIX + key)) ?? otherwise;
    } catch {
      return otherwise;
    }
  }

  set(key, value) {
    try {
      this.#storage.setItem(PREFIX + key, JSON.stringify(value));
    } catch {
      // Full or forbidden: the page works without.
    }
  }

  remove(key) {
    try {
      this.#storage.removeItem(PREFIX + key);
    } catch {
      // As above.
    }
  }
}

/** Stays on this device. */
export const local = new Memory(() => localStorage);
/** Ends with the browser's tab. */
export const session = new Memory(() => sessionStorage);

/** Keeps what is typed into `field` until the tab is closed, so that a reload loses nothing. */
export function keepDraft(field) {
  const key = `draft.${field.id}`;
  // Who typed before this was loaded keeps that.
  field.value ||= session.get(key, "");
  field.addEventListener("input", () => session.set(key, field.value));
}
