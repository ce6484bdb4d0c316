// The token for gateways with authentication. It is kept in the tab's session alone, and asked for when needed.

import { byId } from "./element.js";
import { refuse } from "./failure.js";
import { session } from "./memory.js";

const KEY = "token";
const listeners = [];

export const token = () => session.get(KEY, "");

/** Calls `listener` when the token has changed. */
export const onToken = (listener) => listeners.push(listener);

/** Shows the field; `refused` when the gateway has just said no. */
export function askForToken(refused = false) {
  const form = byId("token");
  const first = form.hidden;
  form.hidden = false;
  byId("token-forget").hidden = !token();
  if (refused) {
    refuse(byId("token-value"), byId("token-error"), "tokenNeeded");
    if (first) byId("token-value").focus();
  }
}

export function setUpToken() {
  const field = byId("token-value");
  const keep = (value) => {
    if (value) session.set(KEY, value);
    else session.remove(KEY);
    field.value = "";
    byId("token-forget").hidden = !value;
    refuse(field, byId("token-error"), null);
    for (const listener of listeners) listener();
  };
  byId("token").addEventListener("submit", (event) => {
    event.preventDefault();
    if (field.value.trim()) keep(field.value.trim());
  });
  byId("token-forget").addEventListener("click", () => keep(""));
}
