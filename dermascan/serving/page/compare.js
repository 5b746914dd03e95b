/** Several images side by side in a dialog: one column an image, one row a figure. */
import { arranged, className, classBar, kindOf, riskBar, verdict } from "./bars.js";
import { heatCaption, photograph, shownExplanation, warnings } from "./card.js";
import { el, fileName } from "./dom.js";
import { heatCanvas } from "./heat.js";
import { percent, t } from "./text.js";

/**
 * Show scored images next to each other. The browser keeps the focus inside the dialog and
 * gives it back when it closes.
 * @param {HTMLDialogElement} dialog
 * @param {Item[]} items
 * @param {object[]} classes
 */
export function openComparison(dialog, items, classes) {
  const heading = t(items.length > 1 ? "compare.heading" : "compare.single");
  dialog.querySelector("h2").textContent = heading;
  const region = dialog.querySelector(".side-by-side");
  region.replaceChildren(table(items, classes));
  region.setAttribute("aria-label", t("compare.region"));
  region.style.setProperty("--columns", items.length);
  dialog.showModal();
}

function table(items, classes) {
  const row = (name, cell, options = {}) =>
    el("tr", options, header(name), ...items.map((item) => el("td", {}, ...cell(item))));
  const rows = [
    row(t("compare.image"), (item) => [stage(item), caption(item, classes)]),
    row(t("compare.risk"), (item) => [
      el("strong", { class: "risk-figure", text: percent(item.result.p_malignant) }),
      riskBar(item),
    ]),
    row(t("compare.threshold"), (item) => [verdict(item)]),
    ...arranged(classes).map(({ code, name, malignant }) =>
      row(className(code, name), (item) =>
        classBar(item.result.probabilities[code] ?? 0, kindOf({ malignant })), { class: "class-row" }),
    ),
    row(t("compare.quality"), (item) => [warnings(item.result.quality) ?? t("compare.none")]),
    row(t("compare.model"), (item) => [String(item.model.version)]),
  ];
  const names = items.map((item) => el("th", { scope: "col", title: item.name }, fileName(item.name)));
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, el("td"), ...names)),
    el("tbody", {}, ...rows),
  );
}

const header = (name) => el("th", { scope: "row", text: name });

function stage(item) {
  const place = el("div", { class: "stage" }, photograph(item));
  const explanation = shownExplanation(item);
  if (explanation) {
    heatCanvas(item.result.quality, explanation.png).then((canvas) => place.append(canvas));
  }
  return place;
}

function caption(item, classes) {
  const text = shownExplanation(item) ? heatCaption(item, classes) : "";
  return el("p", { class: "small", text });
}
