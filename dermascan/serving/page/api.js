/** The server's answers: the model that serves, and predictions. See docs/api.md. */

const PREDICT = "v1/predict";
const CURRENT = "v1/models/current";
const PATIENCE_MS = 180_000;
const MODEL_PATIENCE_MS = 15_000;

let apiKey = "";

/** Send this key with every request from now on; it lives as long as the page. */
export function useKey(key) {
  apiKey = key;
}

/** Why there is no answer. `status` is HTTP's, or "offline", "slow", "answer", "cancelled". */
export class Problem extends Error {
  /**
   * @param {number|string} status
   * @param {string} [detail] the server's own words.
   * @param {number|null} [retryAfter] seconds.
   */
  constructor(status, detail = "", retryAfter = null) {
    super(detail || String(status));
    this.status = status;
    this.detail = detail;
    this.retryAfter = retryAfter;
  }
}

/** Ask which model serves. @throws {Problem} */
export async function currentModel() {
  const signal = AbortSignal.timeout(MODEL_PATIENCE_MS);
  const headers = apiKey ? { "X-API-Key": apiKey } : {};
  let answer;
  try {
    answer = await fetch(CURRENT, { headers, signal, cache: "no-store" });
  } catch {
    throw new Problem("offline");
  }
  const body = await answer.text();
  if (!answer.ok) throw problemOf(answer.status, body, answer.headers.get("Retry-After"));
  return parsed(body);
}

/**
 * Send images for prediction. Names stay here: the server gets numbers, and answers in order.
 * @param {Blob[]} files
 * @param {{explain: boolean, signal: AbortSignal, onProgress: (bytes: number) => void}} options
 *   `onProgress` gets the bytes sent, headers between the images included.
 * @returns {Promise<object>} the body of the answer, with one result for each file.
 * @throws {Problem}
 */
export async function predict(files, { explain, signal, onProgress }) {
  const form = new FormData();
  files.forEach((file, index) => form.append("images", file, `image-${index + 1}`));
  const answer = await send(`${PREDICT}?explain=${explain}`, form, signal, onProgress);
  if (answer.status !== 200) {
    throw problemOf(answer.status, answer.responseText, answer.getResponseHeader("Retry-After"));
  }
  const body = parsed(answer.responseText);
  if (body?.results?.length !== files.length) throw new Problem("answer");
  return body;
}

/** XMLHttpRequest, because fetch does not tell how much was sent. */
function send(address, form, signal, onProgress) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", address);
    request.timeout = PATIENCE_MS;
    if (apiKey) request.setRequestHeader("X-API-Key", apiKey);
    request.upload.onprogress = (event) => onProgress(event.loaded);
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Problem("offline"));
    request.ontimeout = () => reject(new Problem("slow"));
    request.onabort = () => reject(new Problem("cancelled"));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    if (signal.aborted) reject(new Problem("cancelled"));
    else request.send(form);
  });
}

function parsed(body) {
  try {
    return JSON.parse(body);
  } catch {
    throw new Problem("answer");
  }
}

function problemOf(status, body, retryAfter) {
  let detail = "";
  try {
    const problem = JSON.parse(body);
    detail = [problem.detail, problem.title].find((text) => typeof text === "string") ?? "";
  } catch {
    // A proxy's page instead of a problem: its status has to do.
  }
  return new Problem(status, detail.slice(0, 500), secondsOf(retryAfter));
}

/** `Retry-After` is a number of seconds or a date. */
function secondsOf(value) {
  if (!value) return null;
  const seconds = /^\d+$/.test(value) ? Number(value) : (Date.parse(value) - Date.now()) / 1000;
  return Number.isFinite(seconds) ? Math.max(0, Math.ceil(seconds)) : null;
}
