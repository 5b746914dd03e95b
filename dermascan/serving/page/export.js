/** Results as files, made in the browser. */
import { el } from "./dom.js";

const FORMULA_START = /^[\s\u0000-\u001f]*[=+\-@＝＋－＠]/u;

/**
 * Results as CSV, with the columns of batch inference's table where there is such a column.
 * @param {Item[]} items
 * @param {string[]} codes the classes.
 */
export function asCsv(items, codes) {
  const columns = [
    "filename", "sha256", "status", "reason", "p_malignant", "label", "threshold",
    ...codes.map((code) => `p_${code}`),
    "model_version", "width", "height", "quality_warnings",
  ];
  const lines = [columns, ...answered(items).map((item) => csvRow(item, codes))];
  return lines.map((line) => `${line.map(csvCell).join(",")}\r\n`).join("");
}

/** Results as JSON in the API's form, with the file names of this browser. */
export function asJson(items, disclaimer) {
  const results = answered(items).map(({ name, model, threshold, result }) => {
    const { explanation, ...figures } = result;
    return { ...figures, filename: name, threshold, model };
  });
  return `${JSON.stringify({ disclaimer, exported: new Date().toISOString(), results }, null, 2)}\n`;
}

/** Hand a text to the browser as a download. The CSV's mark tells spreadsheets that it is UTF-8. */
export function download(name, text, type) {
  const mark = type === "text/csv" ? "\ufeff" : "";
  const url = URL.createObjectURL(new Blob([mark, text], { type: `${type};charset=utf-8` }));
  el("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Copy, also where the page was not loaded over TLS and has no clipboard. */
export async function copy(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = el("textarea", { class: "unseen", readonly: true });
  field.value = text;
  const focused = document.activeElement;
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  focused?.focus();
  if (!copied) throw new Error("the browser refused to copy");
}

/** A name such as dermascan-2026-11-23-0915.csv. */
export function exportName(ending, now = new Date()) {
  const time = now.toISOString().slice(0, 16).replace("T", "-").replace(":", "");
  return `dermascan-${time}.${ending}`;
}

const answered = (items) => items.filter(({ state }) => state === "done" || state === "rejected");

function csvRow({ name, model, threshold, result }, codes) {
  const { sha256, status, reason, p_malignant: risk, label, probabilities, quality } = result;
  const warnings = (quality?.warnings ?? []).map(({ code }) => code).join(" ");
  return [
    name, sha256, status, reason, risk, label, threshold,
    ...codes.map((code) => probabilities?.[code]),
    model.version, quality?.width, quality?.height, warnings,
  ];
}

/** Quote a cell; a text that a spreadsheet would run as a formula gets an apostrophe before it. */
function csvCell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return String(value);
  const text = FORMULA_START.test(value) ? `'${value}` : String(value);
  return /[",\r\n\t]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}
