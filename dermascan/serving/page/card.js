/** One image as a card: photograph, progress, and what the model makes of it. */
import { classList, className, riskBar, verdict } from "./bars.js";
import { announce, button, el, fileName, rebuild } from "./dom.js";
import { heatCanvas, isCropped } from "./heat.js";
import { isAbove } from "./session.js";
import { percent, t, wholePercent } from "./text.js";
import { problemWords, rejection, warningText } from "./words.js";

export class Card {
  #item;
  #actions; // {remove, retry, toggleHeat, enlarge, choose}
  #classes; // () => the model's classes with names
  #head = el("header");
  #stage;
  #body = el("div", { class: "body" });
  #explained = null; // the explanation that #canvas shows
  #canvas = null;

  constructor(item, actions, classes) {
    this.#item = item;
    this.#actions = actions;
    this.#classes = classes;
    const enlarge = () => actions.enlarge(item);
    this.#stage = button("enlarge", "", enlarge, { class: "stage" });
    const parts = [this.#head, this.#stage, this.#body];
    this.element = el("li", { class: "card", id: item.id, tabindex: "-1" }, ...parts);
    this.#stage.append(photograph(item));
    this.translate();
  }

  /** Say everything anew, in the page's language. */
  translate() {
    const { name } = this.#item;
    const remove = t("card.of", { action: t("card.remove"), name });
    rebuild(this.#head, [
      el("h3", { title: name }, fileName(name)),
      button("remove", "×", () => this.#actions.remove(this.#item), {
        class: "quiet icon",
        "aria-label": remove,
        title: t("card.remove"),
      }),
    ]);
    const enlarge = t("card.of", { action: t("card.enlarge"), name });
    this.#stage.setAttribute("aria-label", enlarge);
    this.#stage.title = t("card.enlarge");
    this.#stage.querySelector("img")?.setAttribute("alt", t("card.alt", { name }));
    this.#stage.querySelector(".no-preview")?.replaceChildren(t("card.preview"));
    this.element.dataset.state = "";
    this.update();
  }

  /** Show what is known of the image now. */
  update() {
    const { state } = this.#item;
    if (this.element.dataset.state === state && state === "sending") return this.#advance();
    this.element.dataset.state = state;
    this.element.setAttribute("aria-busy", String(this.#item.busy));
    this.#stage.disabled = state !== "done";
    rebuild(this.#body, this.#parts(), this.element);
    this.#showHeat();
  }

  #parts() {
    if (this.#item.busy) return [this.#progress()];
    if (this.#item.unfinished) return this.#unfinished();
    return this.#item.state === "rejected" ? this.#rejected() : this.#result();
  }

  #progress() {
    const { name, sent, state } = this.#item;
    const value = state === "analysing" ? null : sent;
    const label = t("state.progress", { name });
    const bar = el("progress", { max: "1", value, "aria-label": label });
    return el("div", { class: "progress" }, el("p", { text: this.#progressWords() }), bar);
  }

  #progressWords() {
    return t(`state.${this.#item.state}`, { percent: wholePercent(this.#item.sent) });
  }

  #advance() {
    this.#body.querySelector("progress").value = this.#item.sent;
    this.#body.querySelector(".progress p").textContent = this.#progressWords();
  }

  #unfinished() {
    const { problem, file, state } = this.#item;
    const [words, detail] = problem ? problemWords(problem, file) : ["", ""];
    return [
      el("p", { class: "outcome", text: t(`state.${state}`) }),
      ...paragraphs(words, detail),
      this.#buttons(this.#button("retry", t("card.again"), this.#actions.retry)),
    ];
  }

  #rejected() {
    const [words, detail] = rejection(this.#item.result.reason);
    return [el("p", { class: "outcome", text: t("state.rejected") }), ...paragraphs(words, detail)];
  }

  #result() {
    const item = this.#item;
    return [
      el("p", { class: "risk" }, t("card.risk"), el("strong", { text: percent(item.result.p_malignant) })),
      riskBar(item),
      verdict(item),
      el("p", { class: "small", text: t(isAbove(item) ? "card.above.how" : "card.below.how") }),
      warnings(item.result.quality),
      this.#buttons(this.#heatButton(), this.#choice()),
      this.#heatWords(),
      classList(item, this.#classes(item)),
      el("p", { class: "small facts", text: facts(item) }),
    ];
  }

  #buttons(...buttons) {
    return el("div", { class: "buttons" }, ...buttons);
  }

  #button(action, text, act, options = {}) {
    const label = t("card.of", { action: text, name: this.#item.name });
    return button(action, text, () => act(this.#item), { "aria-label": label, ...options });
  }

  #heatButton() {
    const { heat, showHeat } = this.#item;
    const waiting = heat === "waiting" || heat === "loading";
    const text = t(waiting ? "card.heat.waiting" : "card.heat");
    return this.#button("heat", text, this.#actions.toggleHeat, { "aria-pressed": String(showHeat) });
  }

  #choice() {
    const box = el("input", {
      type: "checkbox",
      checked: this.#item.chosen,
      data: { action: "choose" },
      "aria-label": t("card.of", { action: t("card.compare"), name: this.#item.name }),
      on: { change: (event) => this.#actions.choose(this.#item, event.target.checked) },
    });
    return el("label", { class: "choice" }, box, t("card.compare"));
  }

  #heatWords() {
    const { heat, heatProblem, file, showHeat } = this.#item;
    const say = (text) => el("p", { class: "small heat-words", text });
    if (heat === "failed") {
      return say(t("card.heat.failed", { problem: problemWords(heatProblem, file)[0] }));
    }
    if (!showHeat) return null;
    if (heat === "none") return say(t("card.heat.none"));
    return heat === "ready" ? say(heatCaption(this.#item, this.#classes(this.#item))) : null;
  }

  #nameOf({ image_class: code }) {
    return this.#classes(this.#item).find((each) => each.code === code)?.name;
  }

  async #showHeat() {
    const explanation = shownExplanation(this.#item);
    if (explanation === this.#explained) return;
    this.#explained = explanation;
    this.#canvas?.remove();
    if (!explanation) return;
    const canvas = await heatCanvas(this.#item.result.quality, explanation.png);
    if (this.#explained !== explanation) return;
    this.#canvas = canvas;
    this.#stage.append(canvas);
    announce(t("card.heat.shown", { name: className(explanation.image_class, this.#nameOf(explanation)) }));
  }
}

/** The explanation that is to be seen now, or null. */
export function shownExplanation({ heat, result, showHeat }) {
  return (showHeat && heat === "ready" && result?.explanation) || null;
}

/** Which class a heat map is about, and whether edges were cropped away. */
export function heatCaption(item, classes) {
  const { explanation, quality } = item.result;
  const known = classes.find(({ code }) => code === explanation.image_class);
  const name = className(explanation.image_class, known?.name);
  const unseen = isCropped(quality, explanation.png) ? ` ${t("card.heat.unseen")}` : "";
  return t("card.heat.class", { name }) + unseen;
}

/** The image itself; a file that no browser can show gets a sentence instead. */
export function photograph(item) {
  const image = el("img", { src: item.url, loading: "lazy", decoding: "async" });
  image.alt = t("card.alt", { name: item.name });
  const missing = () => el("p", { class: "no-preview", text: t("card.preview") });
  image.addEventListener("error", () => image.replaceWith(missing()), { once: true });
  return image;
}

/** Quality warnings as a list, null if there is none. */
export function warnings(quality) {
  if (!quality?.warnings?.length) return null;
  const entries = quality.warnings.map((each) => el("li", { text: warningText(each) }));
  return el("ul", { class: "warnings", "aria-label": t("card.quality") }, ...entries);
}

function facts({ model, result: { quality } }) {
  const { width, height, format } = quality;
  return t("card.facts", {
    width: String(width),
    height: String(height),
    format,
    version: String(model.version),
  });
}

const paragraphs = (words, detail) => [
  el("p", { text: words }),
  detail ? el("p", { class: "small detail", text: detail }) : null,
];
