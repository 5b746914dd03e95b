/** Says why images wait, for how long, and what can be done about it. */
import { announce } from "./dom.js";
import { t } from "./text.js";

let ticking = 0;

/**
 * Show why images wait, or nothing.
 * @param {object|null} hold `kind` as in queue.js; `seconds` or null; `detail` from the server;
 *   `again` if the same was shown before; `quiet` if nobody waits for it.
 */
export function showHold(hold) {
  clearInterval(ticking);
  const notice = document.getElementById("hold");
  const focused = notice.contains(document.activeElement);
  notice.hidden = hold === null;
  if (hold === null) {
    if (focused) focusResults();
    return;
  }
  const words = wordsOf(hold);
  const find = (selector) => notice.querySelector(selector);
  find(".hold-words").textContent = words;
  find(".hold-detail").textContent = hold.detail ? t("problem.detail", { detail: hold.detail }) : "";
  find("#key-form").hidden = hold.kind !== "key";
  find(".hold-more").hidden = hold.kind === "key";
  if (hold.seconds !== null) countDown(hold, find(".countdown"));
  if (!hold.quiet && (!hold.again || hold.kind === "key")) announce(words, true);
  if (!hold.quiet && hold.kind === "key") find("#key").focus();
}

function focusResults() {
  const results = document.getElementById("results");
  const place = results.hidden ? document.querySelector(`[data-action="choose"]`) : results;
  place.focus({ preventScroll: true });
}

function wordsOf({ kind, again, quiet }) {
  if (kind === "key" && again) return t("hold.key.wrong");
  return quiet ? t(`hold.${kind}`) : `${t(`hold.${kind}`)} ${t("hold.kept")}`;
}

function countDown(hold, place) {
  hold.until ??= Date.now() + hold.seconds * 1000;
  const tick = () => {
    const n = Math.ceil((hold.until - Date.now()) / 1000);
    place.textContent = n > 0 ? t("hold.countdown", { n }) : t("hold.trying");
  };
  tick();
  ticking = setInterval(tick, 1000);
}
