// Which texts a model cannot read: those in none of the scripts of its languages. The gateway decides the same way.

/** A letter of one script rather than of all. */
const LETTER = /(?=\p{Alphabetic})[^\p{Script=Common}\p{Script=Inherited}]/u;

/** Tells of a text whether it has letters, and none that `languages` are written in; see `/services`. */
export function unreadableFor(languages) {
  // Where nobody said how a language is written, nothing can be said.
  if (!languages?.length || languages.some(({ scripts }) => !scripts?.length)) return () => false;
  const scripts = new Set(languages.flatMap((language) => language.scripts));
  const classes = [...scripts].map((script) => `\\p{Script=${script}}`).join("");
  const own = new RegExp(`(?=\\p{Alphabetic})[${classes}]`, "u");
  return (text) => LETTER.test(text) && !own.test(text);
}
