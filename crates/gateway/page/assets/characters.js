// How long a text is, as the gateway counts: in code points, not in JavaScript's halves of them.

import { say } from "./language.js";

export function countCharacters(text) {
  let count = text.length;
  for (let at = 0; at < text.length - 1; at++) {
    const high = text.charCodeAt(at);
    const low = text.charCodeAt(at + 1);
    if (high >= 0xd800 && high < 0xdc00 && low >= 0xdc00 && low < 0xe000) {
      count -= 1;
      at += 1;
    }
  }
  return count;
}

/** Shows the length at `place`, beside the limit where it is known; returns it. */
export function showCount(place, text, limit) {
  const count = countCharacters(text);
  say(place, limit ? "characterCount" : "characterCountOnly", { count, limit });
  place.classList.toggle("over", Boolean(limit) && count > limit);
  return count;
}
