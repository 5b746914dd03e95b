/** The model that serves now: what the server says of it, kept up to date and shown. */
import { currentModel } from "./api.js";
import { className } from "./bars.js";
import { announce, button, el, rebuild } from "./dom.js";
import { moment, number, percent, t, tOr, wholePercent } from "./text.js";

const ASK_AGAIN_MS = 60_000;
const STATES = { 401: "locked", 503: "none" };

/** Fires `change` when something did. `state`: loading, ready, none (no model yet), locked (key) or unknown. */
export class Model extends EventTarget {
  state = "loading";
  info = null;

  /** Ask the server. What it said before stays if it does not answer. */
  async refresh() {
    const before = JSON.stringify([this.state, this.info]);
    const version = this.info?.version;
    try {
      this.info = await currentModel();
      this.state = "ready";
    } catch (problem) {
      this.state = STATES[problem.status] ?? "unknown";
    }
    if (JSON.stringify([this.state, this.info]) === before) return;
    if (version && version !== this.info.version) {
      announce(t("model.changed", { version: String(this.info.version) }));
    }
    this.dispatchEvent(new Event("change"));
  }

  /** Ask now and then while the page is looked at. */
  keepUpToDate() {
    const ask = () => document.visibilityState === "visible" && this.refresh();
    setInterval(ask, ASK_AGAIN_MS);
    document.addEventListener("visibilitychange", ask);
    window.addEventListener("online", ask);
    this.refresh();
  }

  /** Notice from an answer that another version serves by now. */
  notice(model) {
    if (this.info?.version !== model.version || this.state !== "ready") this.refresh();
  }

  /** Classes of an image's result, with names and kinds where the server told them. */
  classesOf(item) {
    const known = new Map((this.info?.classes ?? []).map((each) => [each.code, each]));
    const codes = item?.model?.classes ?? [...known.keys()];
    return codes.map((code) => known.get(code) ?? { code, name: code });
  }
}

/** Show the model in its box, and in one line for narrow screens. */
export function showModel(model, box, line) {
  line.textContent = summary(model);
  rebuild(box, model.state === "ready" ? described(model.info) : missing(model));
}

function summary({ state, info }) {
  if (state !== "ready") return t(state === "loading" ? "model.loading" : `model.state.${state}`);
  const { name, version, threshold } = info;
  return t("model.summary", { name, version: String(version), threshold: percent(threshold) });
}

function missing(model) {
  if (model.state === "loading") return [el("p", { text: t("model.loading") })];
  return [
    el("p", { class: "outcome", text: t(`model.state.${model.state}`) }),
    el("p", { class: "small", text: tOr(`model.state.${model.state}.how`, t("hold.key")) }),
    button("ask", t("model.again"), () => model.refresh()),
  ];
}

function described(info) {
  const { operating_specificity: specificity, image_size: size, published_by: by } = info;
  const aimed = { value: wholePercent(specificity ?? 0) };
  const facts = [
    ["model.name", info.name],
    ["model.version", String(info.version)],
    ["model.since", info.since && moment(info.since)],
    ["model.by", by],
    ["model.threshold", percent(info.threshold)],
    ["model.specificity", specificity && t("model.specificity.value", aimed)],
    ["model.input", size && `${size.width} × ${size.height}`],
  ];
  const known = facts.filter(([, value]) => value);
  return [
    list(known.map(([key, value]) => [t(key), value])),
    el("h3", { text: t("model.metrics") }),
    measured(info.metrics),
    el("h3", { text: t("model.classes") }),
    classes(info.classes ?? []),
  ];
}

function list(entries, names = "pairs") {
  const rows = entries.map(([name, value]) =>
    el("div", {}, el("dt", { text: name }), el("dd", { text: value })),
  );
  return el("dl", { class: names }, ...rows);
}

function measured(metrics) {
  const entries = Object.entries(metrics ?? {}).filter(([, value]) => isFigure(value));
  if (!entries.length) return el("p", { class: "small", text: t("model.metrics.none") });
  const named = ([key, value]) => [tOr(`metric.${key}`, key.replaceAll("_", " ")), figure(value)];
  return list(entries.map(named), "pairs figures");
}

const isFigure = (value) => value === null || typeof value === "number" || "value" in Object(value);

/** A figure, with its interval if it has one; what is undefined is not zero. */
function figure(value) {
  const { value: middle, low, high } = typeof value === "object" ? (value ?? {}) : { value };
  if (typeof middle !== "number") return t("metric.missing");
  if (typeof low !== "number" || typeof high !== "number") return number(middle);
  return t("model.interval", { value: number(middle), low: number(low), high: number(high) });
}

function classes(all) {
  const entries = all.map(({ code, name, malignant }) => {
    const kind = malignant ? el("span", { class: "tag", text: t("model.malignant") }) : null;
    return el("li", {}, `${className(code, name)} `, kind);
  });
  return el("ul", { class: "plain" }, ...entries);
}
