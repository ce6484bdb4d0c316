// Requests to the gateway. Addresses are relative to the page, which a proxy may serve below a prefix.

import { Failure } from "./failure.js";
import { askForToken, token } from "./token.js";

export const address = (path) => new URL(path, document.baseURI);

/** The answer to `GET path`, decoded. */
export const get = async (path) => decoded(await ask(path, {}));

/** The answer to `POST path` with a JSON body, decoded. */
export const post = async (path, body, signal) => decoded(await send(path, body, signal));

/** The events that answer `POST path`, as they come. */
export async function* events(path, body, signal) {
  const answer = await send(path, body, signal, "text/event-stream");
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let pending = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const lines = (pending + value).split(/\r\n|\n|\r(?!$)/);
      pending = lines.pop();
      // Each event is one line of data; what else the format knows (comments, ids) carries nothing here.
      for (const line of lines) {
        if (line.startsWith("data:")) yield JSON.parse(line.slice(5));
      }
    }
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure("lost");
  } finally {
    reader.cancel().catch(() => {});
  }
}

function send(path, body, signal, accept = "application/json") {
  const headers = { "Content-Type": "application/json", Accept: accept };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body), signal });
}

async function ask(path, request) {
  const headers = { ...request.headers };
  if (token()) headers.Authorization = `Bearer ${token()}`;
  let answer;
  try {
    answer = await fetch(address(path), { ...request, headers, cache: "no-store", credentials: "same-origin" });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure("network");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) askForToken(true);
  throw await refusal(answer);
}

async function decoded(answer) {
  try {
    return await answer.json();
  } catch (error) {
    throw error.name === "AbortError" ? error : new Failure("lost");
  }
}

/** What a status means that comes without the gateway's error object. */
const CODES = {
  401: "unauthenticated",
  413: "too_large",
  429: "rate_limited",
  503: "unavailable",
  504: "deadline_exceeded",
};

/** An answer that says no, be it the gateway's or, without its error object, that of a proxy before it. */
async function refusal(answer) {
  const seconds = Number(answer.headers.get("Retry-After"));
  const more = { retryAfter: seconds > 0 ? seconds : null };
  let body = null;
  try {
    body = await answer.json();
  } catch {
    // No JSON: the status has to do.
  }
  if (body?.error?.code) return Failure.of(body.error, more);
  more.requestId = answer.headers.get("X-Request-Id");
  return new Failure(CODES[answer.status] ?? "unknown", `HTTP ${answer.status} ${answer.statusText}`.trim(), more);
}
