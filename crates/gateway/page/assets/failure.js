// What can go wrong between the page and the gateway, and how it is shown in place.

import { make } from "./element.js";
import { hasWords, say } from "./language.js";

/** A request that failed. `code` is the gateway's, or `network` when no answer came, or `lost` when it broke off. */
export class Failure extends Error {
  constructor(code, message = "", { requestId = null, retryAfter = null } = {}) {
    super(message);
    this.code = code;
    this.requestId = requestId;
    /** Seconds until another try makes sense, where the gateway said so. */
    this.retryAfter = retryAfter;
  }

  /** Of the gateway's error object. */
  static of(error, more = {}) {
    return new Failure(String(error?.code ?? "unknown"), String(error?.message ?? ""), {
      requestId: error?.request_id ?? null,
      ...more,
    });
  }

  /** Whether asking again later, without any change, can succeed soon. */
  get busy() {
    return this.code === "rate_limited" || this.code === "overloaded";
  }

  /** Whether every other request would fail as well. */
  get general() {
    return ["network", "unavailable", "unauthenticated", "permission_denied", "not_found"].includes(this.code);
  }
}

/** Elements that tell a failure: its kind in the reader's language, the gateway's own words, the request's id. */
export function tell(failure) {
  const key = `error_${failure.code}`;
  const parts = [say(make("strong"), hasWords(key) ? key : "error_unknown")];
  if (failure.message) parts.push(make("span", { className: "detail", dir: "auto" }, failure.message));
  const { requestId: id } = failure;
  if (id) parts.push(say(make("span", { className: "request-id" }), "requestId", { id }));
  return parts;
}

/** Shows `failure` in `place`; null hides it. */
export function show(place, failure) {
  place.hidden = !failure;
  place.replaceChildren(...(failure ? tell(failure) : []));
}

/** Shows, at a field, why its value cannot be sent; no key says that it can. */
export function refuse(field, place, key, parts) {
  place.hidden = !key;
  say(place, key, parts);
  if (key) field?.setAttribute("aria-invalid", "true");
  else field?.removeAttribute("aria-invalid");
}
