/** Probabilities as bars, each also in figures and words. */
import { el } from "./dom.js";
import { percent, t, tOr } from "./text.js";
import { isAbove } from "./session.js";

/** The probability of malignancy with the threshold marked on its bar. */
export function riskBar(item) {
  const { p_malignant: risk } = item.result;
  const spoken = { value: percent(risk), threshold: percent(item.threshold) };
  const vars = { "--value": risk, "--threshold": item.threshold };
  const label = t("card.risk.spoken", spoken);
  return el(
    "div",
    { class: "risk-bar", vars, role: "img", "aria-label": label, data: { side: side(item) } },
    el("span", { class: "fill" }),
    el("span", { class: "mark" }),
    el("span", { class: "mark-name", text: t("card.threshold", { value: percent(item.threshold) }) }),
  );
}

/** "At or above the threshold", with a sign that does not need colour. */
export function verdict(item) {
  const words = t(isAbove(item) ? "card.above" : "card.below");
  return el("p", { class: "verdict", data: { side: side(item) } }, sign(item), words);
}

const side = (item) => (isAbove(item) ? "above" : "below");
const sign = (item) =>
  el("span", { class: "sign", "aria-hidden": "true", text: isAbove(item) ? "▲" : "▽" });

/** One class as figure and thin bar. */
export function classBar(probability, kind) {
  const vars = { "--value": probability };
  const fill = el("span", { class: "fill" });
  const bar = el("span", { class: "class-bar", vars, data: { kind: kind ?? "unknown" } }, fill);
  return [el("span", { class: "figure", text: percent(probability) }), bar];
}

/** All classes: those that count as malignant first, last those of which it is not known. */
export function classList(item, classes) {
  const groups = KINDS.flatMap((kind) => {
    const members = classes.filter((each) => kindOf(each) === kind);
    const rows = members.map(({ code, name }) => {
      const bar = classBar(item.result.probabilities[code] ?? 0, kind);
      return el("div", {}, el("dt", { text: className(code, name) }), el("dd", {}, ...bar));
    });
    const heading = kind ? [el("p", { class: "group", text: t(`card.kind.${kind}`) })] : [];
    return rows.length ? [...heading, el("dl", { class: "classes" }, ...rows)] : [];
  });
  return el("div", { class: "class-list", role: "group", "aria-label": t("card.classes") }, ...groups);
}

const KINDS = ["malignant", "benign", undefined];

/** Classes in the order in which they are shown. */
export const arranged = (classes) =>
  KINDS.flatMap((kind) => classes.filter((each) => kindOf(each) === kind));

/** "malignant", "benign", or undefined where the server did not say. */
export function kindOf({ malignant }) {
  if (malignant === undefined) return undefined;
  return malignant ? "malignant" : "benign";
}

/** A class's full name in the page's language. */
export const className = (code, name) => tOr(`class.${code}`, name || code);
