// A file of texts: CSV, TSV or one text a line, in UTF-8, UTF-16 or GB18030.

import { parse } from "./csv.js";
import { Failure } from "./failure.js";
import { words } from "./language.js";

const MEBIBYTE = 2 ** 20;
const LARGEST_BYTES = 32 * MEBIBYTE;
/** Titles of columns that most likely hold the texts. */
const TITLE = /^(text|texts|sentence|source|content|input|question|文本|原文|内容|句子|正文|文案|问题)$/i;

export class TextsFile {
  /** Reads a `File`; throws a `Failure` whose message says what is wrong with it. */
  static async read(file) {
    if (file.size > LARGEST_BYTES) {
      const parts = { name: file.name, size: Math.ceil(file.size / MEBIBYTE), limit: LARGEST_BYTES / MEBIBYTE };
      throw new Failure("too_large", words("fileTooLarge", parts));
    }
    let bytes;
    try {
      bytes = new Uint8Array(await file.arrayBuffer());
    } catch {
      throw new Failure("invalid_argument", words("fileUnreadable", { name: file.name }));
    }
    const { text, encoding } = decode(bytes);
    if (text.includes("\0")) throw new Failure("invalid_argument", words("notText", { name: file.name }));
    if (!text.trim()) throw new Failure("invalid_argument", words("fileEmpty", { name: file.name }));
    return new TextsFile(file.name, text, encoding);
  }

  constructor(name, text, encoding) {
    this.name = name;
    this.encoding = encoding;
    this.table = /\.(csv|tsv)$/i.test(name);
    this.text = text;
    this.rows = this.table ? parse(text) : [];
    this.width = this.rows.reduce((widest, row) => Math.max(widest, row.length), 0);
    this.titled = this.rows[0]?.some((cell) => TITLE.test(cell.trim())) ?? false;
    this.column = this.#likelyColumn();
  }

  /** A name for each column: its title, or an empty string. */
  get titles() {
    return Array.from({ length: this.width }, (_, column) => (this.titled ? (this.rows[0][column] ?? "").trim() : ""));
  }

  /** The cells of the chosen column. */
  get cells() {
    return this.rows
      .slice(this.titled ? 1 : 0)
      .map((row) => (row[this.column] ?? "").trim())
      .filter(Boolean);
  }

  /** The one whose title says so, else the one with the longest texts. */
  #likelyColumn() {
    const named = this.titled ? this.rows[0].findIndex((cell) => TITLE.test(cell.trim())) : -1;
    if (named >= 0) return named;
    const lengths = Array(this.width).fill(0);
    for (const row of this.rows.slice(0, 100)) row.forEach((cell, column) => (lengths[column] += cell.length));
    return Math.max(0, lengths.indexOf(Math.max(...lengths)));
  }
}

/** By the byte order mark; without one UTF-8 if it is, else GB18030, which Chinese spreadsheets write. */
function decode(bytes) {
  const marked = { "239,187": "utf-8", "255,254": "utf-16le", "254,255": "utf-16be" }[bytes.slice(0, 2).join()];
  if (marked) return { text: new TextDecoder(marked).decode(bytes), encoding: marked.toUpperCase() };
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(bytes), encoding: "UTF-8" };
  } catch {
    return { text: new TextDecoder("gb18030").decode(bytes), encoding: "GB18030" };
  }
}

/** The texts of pasted lines; `split` also at the marks that separate items of a list. */
export const splitTexts = (text, split) =>
  text
    .split(split ? /[\n\r、，,]+/ : /[\n\r]+/)
    .map((item) => item.trim())
    .filter(Boolean);
