/** The images of this visit and what is known about each. They live in memory only. */

export const LIMIT = 500;

/**
 * One image.
 * `state`: waiting, sending, analysing, done, rejected, failed or cancelled.
 * `heat`: null (not asked for), waiting, loading, ready, none (the model has none) or failed.
 */
export class Item {
  state = "waiting";
  sent = 0; // share of its bytes, 0 to 1
  result = null; // as the server gave it
  model = null;
  threshold = null;
  problem = null; // api.js
  heat = null;
  heatProblem = null;
  showHeat = false;
  chosen = false; // for the comparison
  alone = false; // not to be sent together with others
  broken = 0; // times that the connection broke

  constructor(order, file, name) {
    this.order = order;
    this.id = `image-${order}`;
    this.file = file;
    this.name = name;
    this.url = URL.createObjectURL(file);
  }

  get busy() {
    return ["waiting", "sending", "analysing"].includes(this.state);
  }

  get unfinished() {
    return this.state === "failed" || this.state === "cancelled";
  }

  /** Whether a request should carry it. */
  get wanted() {
    return this.state === "waiting" || this.heat === "waiting";
  }

  /** Take in an answer. */
  settle(result, body) {
    this.result = result;
    this.model = body.model;
    this.threshold = body.threshold;
    this.problem = null;
    this.state = result.status === "ok" ? "done" : "rejected";
    if (this.heat === "loading") this.heat = result.explanation ? "ready" : "none";
    if (this.showHeat && this.heat === null && this.state === "done") this.heat = "waiting";
  }

  /** Ask for an analysis anew; a result that is there stays until the next one comes. */
  restart() {
    Object.assign(this, { state: "waiting", sent: 0, problem: null, broken: 0 });
    this.heat = this.showHeat ? "waiting" : null;
  }
}

const byRisk = (a, b) => (b.result?.p_malignant ?? -1) - (a.result?.p_malignant ?? -1);
const ORDERS = {
  order: (a, b) => a.order - b.order,
  risk: (a, b) => byRisk(a, b) || a.order - b.order,
  name: (a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }) || a.order - b.order,
};

/** All images; fires `change` (detail: the item) and `list` (some came or went). */
export class Session extends EventTarget {
  items = [];
  #next = 1;

  /**
   * Add files as far as there is room.
   * @param {{file: Blob, name: string}[]} files
   * @param {boolean} showHeat ask for their heat maps at once.
   * @returns {Item[]} what was added.
   */
  add(files, showHeat) {
    const room = Math.max(0, LIMIT - this.items.length);
    const added = files.slice(0, room).map(({ file, name }) => {
      const item = new Item(this.#next++, file, name);
      if (showHeat) Object.assign(item, { showHeat, heat: "waiting" });
      return item;
    });
    this.items.push(...added);
    this.dispatchEvent(new Event("list"));
    return added;
  }

  remove(items) {
    const gone = new Set(items);
    this.items = this.items.filter((item) => !gone.has(item));
    for (const item of gone) URL.revokeObjectURL(item.url);
    this.dispatchEvent(new Event("list"));
  }

  has(item) {
    return this.items.includes(item);
  }

  changed(item) {
    this.dispatchEvent(new CustomEvent("change", { detail: item }));
  }

  /** @param {"order"|"risk"|"name"} order; images without a score come last. */
  sorted(order) {
    return [...this.items].sort(ORDERS[order]);
  }

  /** How many images there are of each kind. */
  counts() {
    const count = (test) => this.items.filter(test).length;
    return {
      total: this.items.length,
      above: count((item) => item.state === "done" && isAbove(item)),
      below: count((item) => item.state === "done" && !isAbove(item)),
      rejected: count((item) => item.state === "rejected"),
      failed: count((item) => item.state === "failed"),
      cancelled: count((item) => item.state === "cancelled"),
      pending: count((item) => item.busy),
    };
  }

  /** The versions that the shown scores come from, oldest first. */
  versions() {
    const scored = this.items.filter((item) => item.state === "done");
    return [...new Set(scored.map((item) => item.model.version))].sort((a, b) => a - b);
  }
}

/** Whether the model's label is "malignant": decided by the server, at its threshold. */
export const isAbove = (item) => item.result.label === "malignant";
