/** The language of the page, and numbers, dates and sentences in it. */
import en from "./text.en.js";
import fr from "./text.fr.js";

export const LANGUAGES = { en, fr };
const PARAMETER = "lang";
let current = "en";

/** Choose by `?lang=`, else by what the browser prefers, else English. */
export function startLanguage() {
  const asked = new URLSearchParams(location.search).get(PARAMETER);
  const preferred = [asked, ...navigator.languages].map((tag) => (tag ?? "").slice(0, 2));
  current = preferred.find((tag) => Object.hasOwn(LANGUAGES, tag)) ?? "en";
}

/** @returns {string} "en" or "fr". */
export const language = () => current;

/** Use another language; the address keeps it, so that a bookmark does, and nothing else. */
export function useLanguage(tag) {
  current = tag;
  const address = new URL(location.href);
  address.searchParams.set(PARAMETER, tag);
  history.replaceState(null, "", address);
}

/**
 * Say a sentence.
 * @param {string} key as in `text.en.js`.
 * @param {Record<string, string|number>} [values] for its `{places}`; `n` decides one or other.
 */
export function t(key, values = {}) {
  const entry = LANGUAGES[current][key] ?? "";
  const sentence = typeof entry === "string" ? entry : entry[plural(values.n)];
  return sentence.replace(/\{(\w+)\}/g, (_, name) => shown(values[name]));
}

/** Say a sentence if there is one for the key, else what is given instead. */
export function tOr(key, fallback, values = {}) {
  return Object.hasOwn(LANGUAGES[current], key) ? t(key, values) || fallback : fallback;
}

const plural = (n) => (new Intl.PluralRules(current).select(n) === "one" ? "one" : "other");
const shown = (value) => (typeof value === "number" ? number(value) : String(value ?? ""));

/** The browser's own flavour of the language decides how figures and days are written. */
const flavour = () => navigator.languages.find((tag) => tag.startsWith(current)) ?? current;

/** A whole number as it is, any other with `digits` decimals. */
export function number(value, digits = 3) {
  const shown = Number.isInteger(value) ? 0 : digits;
  const format = { minimumFractionDigits: shown, maximumFractionDigits: shown };
  return new Intl.NumberFormat(flavour(), format).format(value);
}

/** A probability as a percentage with one decimal; never a rounded 0 % or 100 %. */
export function percent(share) {
  if (share > 0 && share < 0.001) return `< ${share100(0.001, 1)}`;
  if (share < 1 && share > 0.999) return `> ${share100(0.999, 1)}`;
  return share100(share, 1);
}

/** A share as a percentage without decimals. */
export const wholePercent = (share) => share100(share, 0);

function share100(share, digits) {
  const format = { style: "percent", minimumFractionDigits: digits, maximumFractionDigits: digits };
  return new Intl.NumberFormat(flavour(), format).format(share);
}

/** Bytes as MB with one decimal. */
export const megabytes = (bytes) => `${number(bytes / 1e6, 1)} ${current === "fr" ? "Mo" : "MB"}`;

/** A time as day and minute, in the browser's time zone. */
export function moment(iso) {
  const time = new Date(iso);
  if (Number.isNaN(time.getTime())) return String(iso);
  return new Intl.DateTimeFormat(flavour(), { dateStyle: "medium", timeStyle: "short" }).format(time);
}

/** Fill every element that names its sentence in `data-text` or `data-label`. */
export function translate(root) {
  for (const element of root.querySelectorAll("[data-text]")) {
    element.textContent = t(element.dataset.text);
  }
  for (const element of root.querySelectorAll("[data-label]")) {
    element.setAttribute("aria-label", t(element.dataset.label));
  }
}
