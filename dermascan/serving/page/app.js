/** The page: hands files to the queue, shows what comes back. Nothing is stored anywhere. */
import { useKey } from "./api.js";
import { Card } from "./card.js";
import { openComparison } from "./compare.js";
import { announce } from "./dom.js";
import { asCsv, asJson, copy, download, exportName } from "./export.js";
import { showHold } from "./hold.js";
import { listenForFiles } from "./intake.js";
import { Model, showModel } from "./model.js";
import { Queue } from "./queue.js";
import { LIMIT, Session } from "./session.js";
import { language, startLanguage, t, translate, useLanguage } from "./text.js";

const find = (selector) => document.querySelector(selector);
const act = (name) => find(`[data-action="${name}"]`);

const session = new Session();
const queue = new Queue(session);
const model = new Model();
const cards = new Map(); // from item to Card
let hold = null;
let unsaved = false;

const actions = {
  remove: removeItem,
  retry: (item) => restart([item]),
  toggleHeat: (item) => setHeat([item], !item.showHeat),
  enlarge: (item) => openComparison(find("#compare"), [item], model.classesOf(item)),
  choose: (item, chosen) => {
    item.chosen = chosen;
    showTools();
  },
};

function takeFiles(files) {
  if (!files.length) return announce(t("intake.none"));
  const added = session.add(files, find("#heat").checked);
  const left = files.length - added.length;
  const tooMany = left ? t("intake.toomany", { n: left, limit: LIMIT }) : "";
  announce(`${t("intake.added", { n: added.length })} ${tooMany}`, left > 0);
  queue.wake();
  return showTools();
}

function removeItem(item) {
  const next = cards.get(item).element.nextElementSibling ?? cards.get(item).element.previousElementSibling;
  session.remove([item]);
  announce(t("card.removed", { name: item.name }));
  (next ?? act("choose")).focus();
}

function restart(items) {
  for (const item of items) {
    item.restart();
    session.changed(item);
  }
  queue.wake();
  showTools();
}

function setHeat(items, shown) {
  for (const item of items) {
    item.showHeat = shown;
    const askable = item.state === "done" || item.state === "waiting";
    if (shown && askable && (item.heat === null || item.heat === "failed")) item.heat = "waiting";
    if (!shown && item.heat === "waiting") item.heat = null;
    session.changed(item);
  }
  queue.wake();
  showTools();
}

function showList() {
  for (const [item, card] of cards) {
    if (session.has(item)) continue;
    card.element.remove();
    cards.delete(item);
  }
  for (const item of session.items) {
    if (!cards.has(item)) cards.set(item, new Card(item, actions, (of) => model.classesOf(of)));
  }
  arrange();
  showTools();
}

/** Put cards into their order without taking the focus from any. */
function arrange() {
  const focused = document.activeElement;
  const order = session.sorted(find("#sort").value).map((item) => cards.get(item).element);
  const list = find("#cards");
  if (order.some((element, index) => list.children[index] !== element)) {
    list.replaceChildren(...order);
    if (list.contains(focused)) focused.focus({ preventScroll: true });
  }
}

function showTools() {
  const { items } = session;
  const unfinished = items.filter((item) => item.unfinished).length;
  const chosen = chosenItems().length;
  const busy = items.some((item) => item.busy || ["waiting", "loading"].includes(item.heat));
  const answered = items.some((item) => item.result);
  find("#opacity").hidden = !items.some((item) => item.showHeat);
  find("#results").hidden = items.length === 0;
  document.body.classList.toggle("filled", items.length > 0);
  showWords(".drop-title", t(wayIn(items.length > 0)));
  showWords(".summary", summary());
  showButton("cancel", busy);
  showButton("retry-all", unfinished > 0, t("results.retry", { n: unfinished }));
  act("compare").textContent = chosen ? t("results.compare.n", { n: chosen }) : t("results.compare");
  act("compare").disabled = chosen < 2;
  for (const name of ["json", "csv", "copy"]) act(name).disabled = !answered;
  showMixed();
}

let pending = false;

/** Show the tools once for all changes that come together. */
function soon() {
  if (pending) return;
  pending = true;
  queueMicrotask(() => {
    pending = false;
    showTools();
  });
}

/** Who points with a finger has nothing to drop. */
const isTouched = () => matchMedia("(pointer: coarse)").matches;
function wayIn(more) {
  if (isTouched()) return more ? "intake.add.more" : "intake.add";
  return more ? "intake.drop.more" : "intake.drop";
}

function showWords(selector, text) {
  const element = find(selector);
  if (element.textContent !== text) element.textContent = text;
}

/** Show or hide a button; one that goes while it has the focus hands it to the results. */
function showButton(name, shown, text) {
  const element = act(name);
  const focused = document.activeElement === element;
  if (text !== undefined) element.textContent = text;
  element.hidden = !shown;
  if (!shown && focused) find("#results").focus({ preventScroll: true });
}

function summary() {
  const parts = Object.entries(session.counts()).filter(([, n]) => n > 0);
  return parts.map(([kind, n]) => t(`results.count.${kind}`, { n })).join(", ");
}

/** Offer to analyse again what an older version of the model scored. */
function showMixed() {
  const versions = session.versions();
  const old = outdated(versions).length;
  find("#mixed").hidden = versions.length < 2;
  showButton("renew", old > 0, t("results.renew", { n: old }));
}

const outdated = (versions) =>
  session.items.filter((item) => item.state === "done" && item.model.version !== versions.at(-1));
const chosenItems = () =>
  session.sorted(find("#sort").value).filter((item) => item.chosen && item.state === "done");

function showWholeModel() {
  showModel(model, find("#model .model"), find("#model .line"));
  for (const card of cards.values()) card.update();
  if (!hold) showHold(wantedKey());
  if (model.state === "ready" && hold?.kind === "model") queue.resume();
}

function onHold(event) {
  hold = event.detail;
  showHold(hold ?? wantedKey());
}

/** A server that keeps even its model's description behind the key wants it before any image. */
function wantedKey() {
  return model.state === "locked" ? { kind: "key", seconds: null, detail: "", quiet: true } : null;
}

function onAnswer({ detail: body }) {
  unsaved = true;
  model.notice(body.model);
}

function onIdle() {
  arrange();
  showTools();
  if (session.items.length) announce(t("results.finished", { summary: summary() }));
}

function save(ending, type, text) {
  const name = exportName(ending);
  download(name, text, type);
  unsaved = false;
  announce(t("results.saved", { name }));
}

const shownItems = () => session.sorted(find("#sort").value);
const csv = () => asCsv(shownItems(), model.classesOf(shownItems().find((item) => item.model)).map(({ code }) => code));
const json = () => asJson(shownItems(), t("page.disclaimer.long"));

async function copyCsv() {
  try {
    await copy(csv());
    announce(t("results.copied"));
    unsaved = false;
  } catch {
    announce(t("results.copy.failed"), true);
  }
}

function cancelAll() {
  queue.cancel();
  announce(t("results.cancelled"));
  showTools();
}

function clearAll() {
  queue.cancel();
  session.remove(session.items);
  unsaved = false;
  announce(t("results.cleared"));
  act("choose").focus();
}

function speak() {
  document.documentElement.lang = language();
  document.title = t("page.title");
  translate(document);
  const keys = /Mac|iPhone|iPad/.test(navigator.userAgent) ? "⌘V" : "Ctrl+V";
  find(".how").textContent = t(isTouched() ? "intake.add.how" : "intake.how", { keys });
  for (const each of document.querySelectorAll("[data-language]")) {
    each.setAttribute("aria-pressed", String(each.dataset.language === language()));
  }
  for (const card of cards.values()) card.translate();
  showModel(model, find("#model .model"), find("#model .line"));
  showHold(hold ?? wantedKey());
  showTools();
}

function listenToControls() {
  const clicks = {
    cancel: cancelAll,
    "retry-all": () => restart(session.items.filter((item) => item.unfinished)),
    clear: clearAll,
    renew: () => restart(outdated(session.versions())),
    compare: () => openComparison(find("#compare"), chosenItems(), model.classesOf(chosenItems()[0])),
    close: () => find("#compare").close(),
    json: () => save("json", "application/json", json()),
    csv: () => save("csv", "text/csv", csv()),
    copy: copyCsv,
    now: () => queue.resume(),
  };
  for (const [name, listener] of Object.entries(clicks)) act(name).addEventListener("click", listener);
  find("#sort").addEventListener("change", arrange);
  find("#heat").addEventListener("change", (event) => setHeat(session.items, event.target.checked));
  find("#opacity").addEventListener("input", showOpacity);
  find("#key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    useKey(find("#key").value.trim());
    find("#key").value = "";
    model.refresh();
    queue.resume();
  });
  for (const each of document.querySelectorAll("[data-language]")) {
    each.addEventListener("click", () => {
      useLanguage(each.dataset.language);
      speak();
    });
  }
}

function showOpacity() {
  find("#results").style.setProperty("--heat", find("#opacity").value / 100);
}

function fitToScreen() {
  const wide = matchMedia("(min-width: 68rem)");
  const fit = () => document.querySelectorAll("aside details").forEach((each) => (each.open = wide.matches));
  wide.addEventListener("change", fit);
  fit();
}

function start() {
  startLanguage();
  session.addEventListener("list", showList);
  session.addEventListener("change", ({ detail: item }) => {
    cards.get(item)?.update();
    soon();
  });
  queue.addEventListener("hold", onHold);
  queue.addEventListener("answer", onAnswer);
  queue.addEventListener("idle", onIdle);
  model.addEventListener("change", showWholeModel);
  window.addEventListener("beforeunload", (event) => unsaved && session.items.length && event.preventDefault());
  listenToControls();
  listenForFiles(takeFiles);
  fitToScreen();
  showOpacity();
  speak();
  model.keepUpToDate();
}

start();
