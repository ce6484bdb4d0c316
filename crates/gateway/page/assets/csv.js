// Tables as spreadsheets read and write them.

const DELIMITERS = [",", "\t", ";"];
/** A spreadsheet takes a cell that begins so for a formula, and runs it. */
const FORMULA = /^[=+\-@\t\r]/;

/** The rows of `text`, each a list of cells. Quotes hold delimiters, line breaks and doubled quotes. */
export function parse(text) {
  const delimiter = guessDelimiter(text);
  const rows = [];
  let row = [];
  let cell = "";
  let quoted = false;
  const endRow = () => {
    row.push(cell);
    if (row.some((content) => content.trim())) rows.push(row);
    row = [];
    cell = "";
  };
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (quoted) {
      if (character !== '"') cell += character;
      else if (text[at + 1] === '"') cell += text[++at];
      else quoted = false;
    } else if (character === '"' && cell === "") {
      quoted = true;
    } else if (character === delimiter) {
      row.push(cell);
      cell = "";
    } else if (character === "\n" || character === "\r") {
      if (character === "\r" && text[at + 1] === "\n") at += 1;
      endRow();
    } else {
      cell += character;
    }
  }
  endRow();
  return rows;
}

/** `rows` for a spreadsheet: with a byte order mark, so that it reads UTF-8, and without formulas. */
export const format = (rows) =>
  "\uFEFF" + rows.map((row) => row.map((cell) => quote(guarded(cell))).join(",") + "\r\n").join("");

/** `rows` to be pasted into a spreadsheet. */
export const formatForPaste = (rows) =>
  rows.map((row) => row.map((cell) => guarded(cell).replace(/[\t\r\n]+/g, " ")).join("\t")).join("\n");

function guarded(cell) {
  const text = String(cell);
  // A number of ours is no formula, whatever its sign.
  return typeof cell === "string" && FORMULA.test(text) ? `'${text}` : text;
}

const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/** The delimiter that is most frequent in the first row, outside quotes. */
function guessDelimiter(text) {
  const counts = new Map(DELIMITERS.map((delimiter) => [delimiter, 0]));
  let quoted = false;
  for (const character of text) {
    if (character === '"') quoted = !quoted;
    else if (quoted) continue;
    else if (character === "\n" || character === "\r") break;
    else if (counts.has(character)) counts.set(character, counts.get(character) + 1);
  }
  return DELIMITERS.reduce((best, other) => (counts.get(other) > counts.get(best) ? other : best));
}
