// Copies text, and says on the button whether that went well.

import { byId, make } from "./element.js";
import { say } from "./language.js";

const SHOWN_MS = 1_500;

export async function copy(text, button, key = "copy") {
  const done = (await written(text)) ? "copied" : "copyFailed";
  say(button, done);
  say(byId("announcement"), done);
  setTimeout(() => {
    say(button, key);
    say(byId("announcement"), null);
  }, SHOWN_MS);
}

async function written(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return writtenByCommand(text);
  }
}

/** Without TLS there is no `navigator.clipboard`; the old command still works. */
function writtenByCommand(text) {
  const focused = document.activeElement;
  const field = make("textarea", { value: text, className: "unseen", readOnly: true });
  document.body.append(field);
  field.select();
  const done = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return done;
}
