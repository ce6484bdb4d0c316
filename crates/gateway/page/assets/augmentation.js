// The panel of text augmentation: one text, or a batch of pasted lines or a file.

import { Batch } from "./batch.js";
import { countCharacters, showCount } from "./characters.js";
import { copy } from "./clipboard.js";
import { format, formatForPaste } from "./csv.js";
import { byId, make } from "./element.js";
import { Failure, refuse, show } from "./failure.js";
import { post } from "./gateway.js";
import { hasWords, label, language, onLanguage, say, words } from "./language.js";
import { keepDraft, local } from "./memory.js";
import { bars, Results, truncationMark } from "./results.js";
import { unreadableFor } from "./scripts.js";
import { askAgain, onServices, services } from "./services.js";
import { Slider } from "./slider.js";
import { splitTexts, TextsFile } from "./texts_file.js";

const REWRITE = { name: "rewrite", labels: false, answer: false, languages: false };
/** Every other task is greedy and gives one answer, unless the request says otherwise. */
const TASK_DEFAULTS = { num_return_sequences: 1, temperature: 0 };
/** What a gateway without an answer to `/services` takes; its answer replaces them. */
const DEFAULTS = { num_return_sequences: 3, temperature: 0.85, top_p: 0.95, top_k: 50, max_length: 128 };
const SLIDERS = [
  ["sliders", "num_return_sequences", { minimum: 1, maximum: 20, step: 1 }],
  ["sliders", "temperature", { minimum: 0, maximum: 2, step: 0.05 }],
  ["sliders", "max_length", { minimum: 1, maximum: 1024, step: 1 }],
  ["more-sliders", "top_p", { minimum: 0.01, maximum: 1, step: 0.01 }],
  ["more-sliders", "top_k", { minimum: 0, maximum: 1000, step: 1 }],
];
const PREVIEW_TEXTS = 3;
const LARGEST_BATCH_TEXTS = 256;

export class Augmentation {
  #sliders = SLIDERS.map(([place, name, scale]) => new Slider(byId(place), name, scale));
  #results = new Results((index) => this.#runBatch(index));
  #file = null;
  #batch = null;
  /** What the single text gave; a row, see `Batch.rows`. */
  #answer = null;
  #stopping = null;
  #started = 0;

  constructor() {
    for (const id of ["augment-text", "batch-text"]) keepDraft(byId(id));
    byId("split").checked = local.get("split", false);
    this.#setDefaults();
    this.#listen();
    this.#showMode();
    onServices(() => this.#showServices());
    onLanguage(() => {
      this.#showTasks();
      this.#showFile();
      this.#showCounts();
      if (this.#answer?.probabilities) byId("bars").replaceChildren(...bars(this.#answer.probabilities));
    });
  }

  /** The panel is seen. */
  opened() {
    this.#showCounts();
  }

  #listen() {
    const on = (id, event, listener) => byId(id).addEventListener(event, listener);
    on("augment-form", "submit", (event) => {
      event.preventDefault();
      this.#start();
    });
    on("augment-stop", "click", () => (this.#batch?.running ? this.#batch.stop() : this.#stopping?.abort()));
    on("augment-text", "input", () => this.#showCounts());
    on("batch-text", "input", () => this.#showCounts());
    on("split", "change", () => {
      local.set("split", byId("split").checked);
      this.#showFile();
      this.#showCounts();
    });
    for (const radio of document.getElementsByName("mode")) radio.addEventListener("change", () => this.#showMode());
    on("task", "change", () => this.#showTask());
    on("defaults", "click", () => this.#setDefaults());
    on("seed", "input", () => this.#seed());
    on("retry", "click", () => this.#runBatch());
    on("copy-all", "click", () => this.#copyAll());
    on("download", "click", () => this.#download());
    on("file", "change", () => {
      this.#take(byId("file").files[0]);
      // So that the same file can be chosen again.
      byId("file").value = "";
    });
    on("file-remove", "click", () => {
      this.#file = null;
      this.#showFile();
      this.#showCounts();
      byId("batch-text").focus();
    });
    on("column", "change", () => this.#choose({ column: Number(byId("column").value) }));
    on("header", "change", () => this.#choose({ titled: byId("header").checked }));
    this.#acceptDrops(byId("augment"));
  }

  /** A file may be dropped anywhere on the panel; it begins a batch. */
  #acceptDrops(panel) {
    const holdsFile = (event) => event.dataTransfer?.types.includes("Files");
    panel.addEventListener("dragover", (event) => {
      if (!holdsFile(event)) return;
      event.preventDefault();
      byId("augment-form").classList.add("dropping");
    });
    panel.addEventListener("dragleave", (event) => {
      if (!panel.contains(event.relatedTarget)) byId("augment-form").classList.remove("dropping");
    });
    panel.addEventListener("drop", (event) => {
      if (!holdsFile(event)) return;
      event.preventDefault();
      byId("augment-form").classList.remove("dropping");
      document.querySelector("[name=mode][value=batch]").checked = true;
      this.#showMode();
      this.#take(event.dataTransfer.files[0]);
    });
  }

  get #isBatch() {
    return document.querySelector("[name=mode]:checked").value === "batch";
  }

  get #limits() {
    return services()?.augment?.limits ?? {};
  }

  get #tasks() {
    const tasks = services()?.augment?.tasks ?? [];
    return tasks.length ? tasks : [REWRITE];
  }

  get #task() {
    return this.#tasks.find((task) => task.name === byId("task").value) ?? this.#tasks[0];
  }

  // What the gateway offers.

  #showServices() {
    const offered = services().augment;
    byId("augment-start").disabled = offered === null;
    if (!offered) return;
    this.#slider("num_return_sequences").setMaximum(offered.limits.max_variants);
    if (!this.#touched) this.#setDefaults();
    const languages = services().translate?.languages ?? [];
    byId("language-names").replaceChildren(
      ...languages.map(({ code, native }) => make("option", { value: code, label: native })),
    );
    this.#showTasks();
    this.#showCounts();
  }

  #showTasks() {
    const chosen = byId("task").value;
    byId("task-row").hidden = this.#tasks.length === 1;
    byId("task").replaceChildren(
      ...this.#tasks.map(({ name }) => {
        const key = `task_${name}`;
        return make("option", { value: name }, hasWords(key) ? words(key) : name.replaceAll("_", " "));
      }),
    );
    byId("task").value = this.#tasks.some((task) => task.name === chosen) ? chosen : this.#tasks[0].name;
    if (byId("task").value !== chosen) this.#showTask();
  }

  #showTask() {
    const task = this.#task;
    byId("labels-row").hidden = !task.labels;
    byId("answer-row").hidden = !task.answer;
    byId("languages-row").hidden = !task.languages;
    // The answer is one of the labels: there is nothing to sample.
    byId("sampling").hidden = task.labels;
    this.#showUnreadable();
    // What suits one kind of task does not suit the other; the rest stays as it was set.
    for (const name of Object.keys(TASK_DEFAULTS)) {
      this.#put[name] = this.#defaults[name];
      this.#slider(name).set(this.#put[name]);
    }
  }

  #slider(name) {
    return this.#sliders.find((slider) => slider.name === name);
  }

  get #defaults() {
    const own = this.#task.name === REWRITE.name ? {} : TASK_DEFAULTS;
    return { ...DEFAULTS, ...services()?.augment?.defaults, ...own };
  }

  /** Whether a slider or the seed stands elsewhere than it was put. */
  get #touched() {
    return this.#put && this.#sliders.some((slider) => slider.value !== this.#put[slider.name]);
  }

  #put = null;

  #setDefaults() {
    this.#put = this.#defaults;
    for (const slider of this.#sliders) slider.set(this.#put[slider.name]);
    byId("seed").value = "";
    this.#seed();
  }

  /** The seed, undefined when none is wanted, null when what stands there is none. */
  #seed() {
    const text = byId("seed").value.trim();
    const seed = /^\d{1,16}$/.test(text) && Number.isSafeInteger(Number(text)) ? Number(text) : null;
    const bad = text && seed === null;
    refuse(byId("seed"), byId("seed-error"), bad ? "notWhole" : null, { minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
    return text ? seed : undefined;
  }

  // What is to be sent.

  #showMode() {
    byId("single").hidden = this.#isBatch;
    byId("batch").hidden = !this.#isBatch;
    this.#showCounts();
  }

  #texts() {
    if (!this.#file) return splitTexts(byId("batch-text").value, byId("split").checked);
    return this.#file.table ? this.#file.cells : splitTexts(this.#file.text, byId("split").checked);
  }

  /** Counts, and says at once what is too long. */
  #showCounts() {
    this.#showUnreadable();
    const limit = this.#limits.max_text_chars;
    const place = byId("augment-error");
    refuse(byId("augment-text"), place, null);
    refuse(byId("batch-text"), place, null);
    if (!this.#isBatch) {
      const count = showCount(byId("augment-count"), byId("augment-text").value, limit);
      if (limit && count > limit) refuse(byId("augment-text"), place, "tooLong", { count, limit });
      return;
    }
    const texts = this.#texts();
    for (const id of ["batch-count", "file-count"]) say(byId(id), "itemCount", { count: texts.length });
    if (!limit) return;
    // Only what has more halves of characters than the limit can have more characters.
    const long = texts.findIndex((text) => text.length > limit && countCharacters(text) > limit);
    if (long < 0) return;
    const field = this.#file ? null : byId("batch-text");
    refuse(field, place, "itemTooLong", { number: long + 1, count: countCharacters(texts[long]), limit });
  }

  /** Says before anything is sent what the model cannot read. */
  #showUnreadable() {
    // A task may have another model, of which the gateway says no languages.
    const languages = this.#task.model ? null : services()?.augment?.languages;
    const unreadable = unreadableFor(languages);
    const texts = this.#isBatch ? this.#texts() : [byId("augment-text").value];
    const first = texts.findIndex(unreadable);
    byId("augment-warning").hidden = first < 0;
    if (first < 0) return;
    const isChinese = language() === "zh";
    const names = languages.map(({ name, chinese }) => (isChinese ? chinese : name)).join(isChinese ? "、" : ", ");
    const count = this.#isBatch ? texts.filter(unreadable).length : 1;
    const key = this.#isBatch ? "unreadableItems" : "unreadable";
    say(byId("augment-warning"), key, { names, count, total: texts.length, number: first + 1 });
  }

  async #take(file) {
    if (!file) return;
    try {
      this.#file = await TextsFile.read(file);
    } catch (failure) {
      byId("augment-error").hidden = false;
      delete byId("augment-error").dataset.text;
      byId("augment-error").textContent = failure.message;
      return;
    }
    this.#showFile();
    this.#showCounts();
  }

  #choose(change) {
    Object.assign(this.#file, change);
    this.#showFile();
    this.#showCounts();
  }

  #showFile() {
    const file = this.#file;
    byId("file-card").hidden = !file;
    byId("drop").hidden = Boolean(file);
    if (!file) return;
    byId("file-name").textContent = file.name;
    say(byId("file-encoding"), "encoding", { encoding: file.encoding });
    byId("columns").hidden = !file.table;
    byId("header").checked = file.titled;
    const nameOf = (title, column) => title || words("columnName", { number: column + 1 });
    byId("column").replaceChildren(
      ...file.titles.map((title, value) => make("option", { value }, nameOf(title, value))),
    );
    byId("column").value = file.column;
    const texts = this.#texts().slice(0, PREVIEW_TEXTS);
    byId("preview").replaceChildren(...texts.map((text) => make("li", { dir: "auto" }, text.slice(0, 300))));
  }

  /** The options of a request; null, with the reason shown, where something cannot be sent. */
  #options() {
    const task = this.#task;
    const refused = (id, key) => {
      refuse(byId(id), byId("augment-error"), key);
      byId(id).focus();
      return null;
    };
    const options = {};
    if (task.name !== REWRITE.name) options.task = task.name;
    if (task.labels) {
      options.labels = [...new Set(splitTexts(byId("labels").value, true))];
      options.return_probabilities = true;
      if (options.labels.length < 2) return refused("labels", "emptyLabels");
    } else {
      for (const slider of this.#sliders) {
        if (slider.value === null) {
          slider.focus();
          return null;
        }
        options[slider.name] = slider.value;
      }
      options.seed = this.#seed();
      if (options.seed === null) {
        byId("seed").focus();
        return null;
      }
    }
    if (task.answer) {
      options.answer = byId("answer").value.trim();
      if (!options.answer) return refused("answer", "emptyAnswer");
    }
    if (task.languages) {
      options.src_lang = byId("task-source").value.trim() || undefined;
      options.tgt_lang = byId("task-target").value.trim();
      if (!options.tgt_lang) return refused("task-target", "emptyLanguages");
    }
    return options;
  }

  async #start() {
    if (this.#stopping || this.#batch?.running) return;
    for (const id of ["labels", "answer", "task-target"]) byId(id).removeAttribute("aria-invalid");
    this.#showCounts();
    const field = byId(this.#isBatch ? "batch-text" : "augment-text");
    const texts = this.#isBatch ? this.#texts() : [byId("augment-text").value];
    if (!texts.some((text) => text.trim())) refuse(field, byId("augment-error"), "emptyText");
    if (!byId("augment-error").hidden) return field.focus();
    const options = this.#options();
    if (!options) return;
    if (this.#isBatch) this.#startBatch(texts, options);
    else await this.#runSingle(texts[0], options);
  }

  // One text.

  async #runSingle(text, options) {
    this.#begin();
    this.#stopping = new AbortController();
    say(byId("augment-state"), "generating");
    try {
      const answer = await post("augment", { text, ...options }, this.#stopping.signal);
      this.#answer = {
        text,
        variants: answer.augmented_texts,
        finishReasons: answer.finish_reasons ?? [],
        exhausted: answer.exhausted ?? false,
        probabilities: answer.probabilities ?? null,
      };
      this.#batch = null;
      this.#showAnswer();
      const parts = { count: answer.augmented_texts.length, wanted: options.num_return_sequences ?? 1 };
      say(byId("augment-state"), answer.exhausted ? "generatedFewer" : "generated", { ...parts, seconds: this.#seconds });
    } catch (error) {
      if (error.name === "AbortError") {
        say(byId("augment-state"), "generationStopped");
      } else {
        say(byId("augment-state"), null);
        this.#fail(error);
      }
    } finally {
      this.#stopping = null;
      this.#end();
    }
  }

  #showAnswer() {
    const { variants, finishReasons, probabilities } = this.#answer;
    byId("results-empty").hidden = true;
    byId("batch-results").hidden = true;
    byId("progress").hidden = true;
    byId("variants").hidden = false;
    byId("variants").replaceChildren(
      ...variants.map((variant, place) => {
        const button = say(make("button", { type: "button", className: "quiet" }), "copy");
        label(button, "copyVariant", { number: place + 1 });
        button.addEventListener("click", () => copy(variant, button));
        const shown = make("p", { dir: "auto", className: "variant" }, variant);
        return make("li", {}, shown, button, ...truncationMark(finishReasons[place]));
      }),
    );
    byId("bars").hidden = !probabilities;
    byId("bars").replaceChildren(...bars(probabilities ?? []));
    byId("results-tools").hidden = false;
    byId("retry").hidden = true;
  }

  // A batch.

  #startBatch(texts, options) {
    this.#answer = null;
    const batch = new Batch(texts, options, this.#limits.max_batch_texts ?? LARGEST_BATCH_TEXTS);
    this.#batch = batch;
    this.#results.set(batch.rows, options.num_return_sequences ?? 1);
    batch.addEventListener("change", ({ detail }) => {
      this.#results.update(detail);
      this.#showProgress();
    });
    for (const id of ["results-empty", "variants", "bars"]) byId(id).hidden = true;
    for (const id of ["batch-results", "results-tools", "progress"]) byId(id).hidden = false;
    byId("progress").max = texts.length;
    this.#runBatch();
  }

  async #runBatch(only = null) {
    if (this.#batch.running || this.#stopping) return;
    this.#begin();
    byId("retry").hidden = true;
    await this.#batch.run(only);
    this.#showProgress();
    const { failed, unfinished } = this.#batch;
    byId("retry").hidden = unfinished === 0;
    say(byId("retry"), failed === unfinished ? "retryFailed" : "continue", { count: failed });
    const general = this.#batch.rows.find((row) => row.failure?.general);
    if (general) this.#fail(general.failure);
    this.#end();
  }

  #showProgress() {
    const { done, failed, pause, running, stopped, rows } = this.#batch;
    const parts = { done, failed, total: rows.length, seconds: pause || this.#seconds };
    let key = failed ? "batchFailing" : "batchRunning";
    if (running && pause) key = "batchPaused";
    else if (!running && done === rows.length) key = "batchDone";
    else if (!running && failed) key = "batchFailed";
    else if (!running && stopped) key = "batchStopped";
    byId("progress").value = done;
    say(byId("augment-state"), key, parts);
  }

  // Both.

  #begin() {
    this.#started = performance.now();
    show(byId("augment-failure"), null);
    byId("augment-start").disabled = true;
    byId("augment-stop").hidden = false;
    byId("augment-form").setAttribute("aria-busy", "true");
  }

  #end() {
    const focused = document.activeElement === byId("augment-stop");
    byId("augment-start").disabled = services()?.augment === null;
    byId("augment-stop").hidden = true;
    byId("augment-form").removeAttribute("aria-busy");
    // Who pressed the button that is gone must not lose the place.
    if (focused) byId("augment-start").focus();
  }

  #fail(error) {
    const failure = error instanceof Failure ? error : new Failure("unknown", error.message);
    show(byId("augment-failure"), failure);
    if (failure.general) askAgain();
  }

  get #seconds() {
    return Math.max(1, Math.round((performance.now() - this.#started) / 100)) / 10;
  }

  /** Rows for a spreadsheet, with titles: one for each variant that there is. */
  #rows() {
    const done = this.#batch ? this.#batch.rows : [this.#answer];
    const shares = done.some((row) => row.probabilities);
    const titles = ["source_index", "source", "variant_index", "variant", "finish_reason"];
    if (shares) titles.push("probability");
    const rows = done.flatMap(({ text, variants, finishReasons, probabilities }, index) =>
      variants.map((variant, place) => {
        const share = probabilities?.find((entry) => entry.label === variant)?.probability ?? "";
        return [index + 1, text, place + 1, variant, finishReasons[place] ?? "", ...(shares ? [share] : [])];
      }),
    );
    return [titles, ...rows];
  }

  /** A single text's variants go one a line, with an empty line between those that have lines; a batch as a table. */
  #copyAll() {
    const variants = this.#answer?.variants ?? [];
    const between = variants.some((variant) => variant.includes("\n")) ? "\n\n" : "\n";
    const text = this.#batch ? formatForPaste(this.#rows()) : variants.join(between);
    copy(text, byId("copy-all"), "copyAll");
  }

  #download() {
    const blob = new Blob([format(this.#rows())], { type: "text/csv;charset=utf-8" });
    const link = make("a", { href: URL.createObjectURL(blob), download: `textgen-${stamp()}.csv` });
    link.click();
    URL.revokeObjectURL(link.href);
  }
}

/** The local time, for names of files. */
function stamp() {
  const now = new Date();
  const two = (number) => String(number).padStart(2, "0");
  const day = `${now.getFullYear()}${two(now.getMonth() + 1)}${two(now.getDate())}`;
  return `${day}-${two(now.getHours())}${two(now.getMinutes())}${two(now.getSeconds())}`;
}
