// What the gateway offers. It is asked when the page opens, and again until everything it has is ready.

import { byId } from "./element.js";
import { get } from "./gateway.js";
import { say } from "./language.js";
import { askForToken, onToken } from "./token.js";

const FIRST_WAIT_MS = 1_000;
const LONGEST_WAIT_MS = 15_000;
/** A gateway may be started again with a service more. */
const ABSENT_WAIT_MS = 30_000;

const listeners = [];
let last = null;
let wait = FIRST_WAIT_MS;
let timer = null;
let asking = false;

/** The last answer to `GET /services`, null before the first. */
export const services = () => last;

/** Calls `listener(services)` for every answer, and at once for one that is there. */
export function onServices(listener) {
  listeners.push(listener);
  if (last) listener(last);
}

/** Asks soon: something has failed in a way that a service's state can explain. */
export function askAgain() {
  wait = FIRST_WAIT_MS;
  ask();
}

export function setUpServices() {
  onToken(askAgain);
  window.addEventListener("online", askAgain);
  ask();
}

async function ask() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  let next;
  try {
    last = await get("services");
    byId("offline").hidden = true;
    if (last.auth) askForToken();
    notice("augment", last.augment);
    notice("translate", last.translate);
    for (const listener of listeners) listener(last);
    const offered = [last.augment, last.translate];
    if (offered.some((service) => service && !service.ready)) next = soon();
    else if (offered.includes(null)) next = ABSENT_WAIT_MS;
  } catch {
    byId("offline").hidden = false;
    say(byId("offline"), "offline");
    next = soon();
  } finally {
    asking = false;
  }
  if (next) timer = setTimeout(ask, next);
}

/** Longer each time, and never the same for all the pages that wait. */
function soon() {
  const now = wait;
  wait = Math.min(wait * 1.6, LONGEST_WAIT_MS);
  return now * (0.75 + Math.random() / 2);
}

function notice(panel, service) {
  const place = byId(`${panel}-notice`);
  const key = service === null ? "absent" : service.ready ? null : "notReady";
  place.hidden = !key;
  if (place.dataset.text !== key) say(place, key);
}
