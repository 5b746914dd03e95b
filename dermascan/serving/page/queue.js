/** Sends waiting images in small groups, one request at a time, and waits when it is told to. */
import { Problem, currentModel, predict } from "./api.js";

const GROUP_IMAGES = 4;
const GROUP_BYTES = 24 * 1024 * 1024;
export const FILE_BYTES = 50 * 1024 * 1024; // what the server's decoder takes by default
const WAIT_SECONDS = { rate: 10, busy: 5, model: 15, offline: 5 };
const LONGEST_WAIT = 300;
const MOST_WAITS = 20; // for a server that answers, but never with a result
const MOST_BREAKS = 2;
const SEPARABLE = new Set([400, 411, 413, 415, 422, 504, "slow", "answer"]);

/** Fires `hold` (detail: `{kind, seconds, detail, again}` or null), `answer` (its body) and `idle`. */
export class Queue extends EventTarget {
  #session;
  #running = false;
  #request = null; // AbortController of the request under way
  #release = null; // ends the present wait
  #waits = 0;
  #held = null; // kind of the wait that is shown

  constructor(session) {
    super();
    this.#session = session;
  }

  get running() {
    return this.#running;
  }

  /** Send whatever waits. */
  async wake() {
    if (this.#running) return;
    this.#running = true;
    try {
      for (let group = this.#next(); group.length; group = this.#next()) await this.#send(group);
    } finally {
      this.#running = false;
      this.#waits = 0;
      this.#unhold();
    }
    this.dispatchEvent(new Event("idle"));
  }

  /** End a wait now. */
  resume() {
    this.#release?.();
  }

  /** Give up what is not finished; results stay. */
  cancel() {
    for (const item of this.#session.items) {
      if (item.busy) item.state = item.result ? settledState(item) : "cancelled";
      if (["waiting", "loading"].includes(item.heat)) giveUpHeat(item, null);
      this.#session.changed(item);
    }
    this.#request?.abort();
    this.resume();
  }

  /** The first image that waits, and as many alike as fit into one request. */
  #next() {
    const wanted = this.#session.items.filter((item) => item.wanted);
    const [first] = wanted;
    if (!first) return [];
    if (first.alone) return [first];
    const explain = first.heat === "waiting";
    const alike = wanted.filter((item) => !item.alone && (item.heat === "waiting") === explain);
    let bytes = 0;
    const fits = (item) => (bytes += item.file.size) <= GROUP_BYTES;
    const group = alike.slice(0, GROUP_IMAGES).filter(fits);
    return group.length ? group : [first];
  }

  async #send(group) {
    const tooLarge = group.filter((item) => item.file.size > FILE_BYTES);
    tooLarge.forEach((item) => this.#fail(item, new Problem("toolarge")));
    if (tooLarge.length) return;
    const explain = group[0].heat === "waiting";
    this.#mark(group, explain);
    this.#request = new AbortController();
    try {
      const body = await predict(
        group.map((item) => item.file),
        { explain, signal: this.#request.signal, onProgress: (sent) => this.#progress(group, sent) },
      );
      this.#waits = 0;
      this.#settle(group, body);
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      await this.#handle(problem, this.#present(group));
    } finally {
      this.#request = null;
    }
  }

  #mark(group, explain) {
    for (const item of group) {
      if (explain) item.heat = "loading";
      if (item.state === "waiting") Object.assign(item, { state: "sending", sent: 0 });
      this.#session.changed(item);
    }
  }

  /** Share the bytes sent among the images in the order in which they go. */
  #progress(group, sent) {
    let before = 0;
    for (const item of this.#present(group)) {
      const { size } = item.file;
      item.sent = size ? Math.min(1, Math.max(0, (sent - before) / size)) : 1;
      if (item.state === "sending" && item.sent === 1) item.state = "analysing";
      before += size;
      this.#session.changed(item);
    }
  }

  #settle(group, body) {
    this.#unhold();
    group.forEach((item, index) => {
      if (!this.#session.has(item) || item.state === "cancelled") return;
      item.settle(body.results[index], body);
      this.#session.changed(item);
    });
    this.dispatchEvent(new CustomEvent("answer", { detail: body }));
  }

  #present(group) {
    return group.filter((item) => this.#session.has(item));
  }

  async #handle(problem, group) {
    if (problem.status === "cancelled") return undefined;
    const kind = await waitFor(problem);
    if (kind === "broken") return this.#broken(group);
    if (kind && (kind === "offline" || kind === "key" || this.#waits++ < MOST_WAITS)) {
      this.#putBack(group);
      return this.#hold(kind, problem);
    }
    if (group.length > 1 && SEPARABLE.has(problem.status)) return this.#separate(group);
    group.forEach((item) => this.#fail(item, problem));
  }

  #putBack(group) {
    for (const item of group) {
      if (item.heat === "loading") item.heat = "waiting";
      if (item.busy) Object.assign(item, { state: "waiting", sent: 0 });
      this.#session.changed(item);
    }
  }

  /** One image may spoil a request for the others: send each by itself. */
  #separate(group) {
    for (const item of group) item.alone = true;
    this.#putBack(group);
  }

  /** The server lives but did not take the request: it may have cut off what is too large. */
  async #broken(group) {
    for (const item of group) {
      item.broken += 1;
      if (!(await readable(item.file))) this.#fail(item, new Problem("gone"));
      else if (item.broken > MOST_BREAKS) this.#fail(item, new Problem("offline"));
    }
    this.#separate(group.filter((item) => item.busy || item.heat === "loading"));
  }

  #fail(item, problem) {
    if (["waiting", "loading"].includes(item.heat)) giveUpHeat(item, problem);
    if (item.busy) Object.assign(item, { state: "failed", problem });
    this.#session.changed(item);
  }

  /**
   * Wait until the time is over, someone is impatient, or the network is back. The wait stays
   * shown until something else comes of the next try.
   */
  async #hold(kind, { retryAfter, detail }) {
    const seconds = kind === "key" ? null : (retryAfter ?? WAIT_SECONDS[kind]);
    const bounded = seconds === null ? null : Math.min(LONGEST_WAIT, Math.max(1, seconds));
    const hold = { kind, seconds: bounded, detail, again: kind === this.#held };
    this.#held = kind;
    this.dispatchEvent(new CustomEvent("hold", { detail: hold }));
    await new Promise((resolve) => {
      this.#release = resolve;
      if (bounded !== null) setTimeout(resolve, bounded * 1000);
      if (kind === "offline") window.addEventListener("online", resolve, { once: true });
    });
    this.#release = null;
  }

  #unhold() {
    if (this.#held === null) return;
    this.#held = null;
    this.dispatchEvent(new CustomEvent("hold", { detail: null }));
  }
}

const settledState = (item) => (item.result.status === "ok" ? "done" : "rejected");

function giveUpHeat(item, problem) {
  const cancelled = problem === null;
  Object.assign(item, { heat: cancelled ? null : "failed", heatProblem: problem, showHeat: false });
}

/**
 * Decide what a problem asks for.
 * @returns {Promise<string|null>} "rate", "busy", "model", "offline" and "key" mean to wait and
 *   send again, "broken" that only this request failed, null that waiting does not help.
 */
async function waitFor(problem) {
  if (problem.status === 429) return "rate";
  if (problem.status === 401) return "key";
  if (problem.status === 503) return (await modelStatus()) === 503 ? "model" : "busy";
  if (problem.status === "offline") return (await modelStatus()) === "offline" ? "offline" : "broken";
  return null;
}

async function modelStatus() {
  try {
    await currentModel();
    return 200;
  } catch (problem) {
    return problem.status;
  }
}

async function readable(file) {
  try {
    await file.slice(0, 1).arrayBuffer();
    return true;
  } catch {
    return false;
  }
}
