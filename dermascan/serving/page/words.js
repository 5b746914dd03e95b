/** What the server says in codes, said in sentences that tell what to do. */
import { FILE_BYTES } from "./queue.js";
import { megabytes, t, tOr } from "./text.js";

/** Why an image was rejected: the sentence, and the server's own words if it has any. */
export function rejection(reason) {
  const [code, ...rest] = String(reason ?? "").split(": ");
  const detail = rest.join(": ");
  return [tOr(`reason.${code}`, t("reason.other")), detail || (code ? code : "")];
}

/** What is wrong with a photograph; an unknown warning in the server's words. */
export const warningText = ({ code, message }) => tOr(`warning.${code}`, message);

/** What a failed request means: the sentence, and the server's own words if it has any. */
export function problemWords(problem, file) {
  const values = {
    status: String(problem.status),
    size: megabytes(file.size),
    limit: megabytes(FILE_BYTES),
  };
  const detail = problem.detail ? t("problem.detail", { detail: problem.detail }) : "";
  return [tOr(`problem.${problem.status}`, t("problem.other", values), values), detail];
}
