/** Files that come by drop, paste, file chooser or camera. */
import { t } from "./text.js";

const IMAGE_NAME = /\.(jpe?g|png)$/i;

/**
 * Take in files wherever they come from.
 * @param {(files: {file: File, name: string}[]) => void} take
 */
export function listenForFiles(take) {
  listenForDrops(take);
  document.addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length) return;
    event.preventDefault();
    take(files.map(pasted));
  });
  for (const [action, id] of [["choose", "files"], ["camera", "camera"]]) {
    const input = document.getElementById(id);
    document.querySelector(`[data-action="${action}"]`).addEventListener("click", () => input.click());
    input.addEventListener("change", () => {
      take([...input.files].map(named));
      input.value = "";
    });
  }
}

const named = (file) => ({ file, name: file.name });

let pastes = 0;

/** A browser calls every picture that is copied from a page image.png. */
function pasted(file) {
  if (file.name && file.name !== "image.png") return named(file);
  pastes += 1;
  return { file, name: t("intake.pasted", { n: pastes }) };
}

function listenForDrops(take) {
  let depth = 0; // enters less leaves: both are also fired for the elements inside
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const show = (change) => {
    depth = Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  const listeners = {
    dragenter: () => show(1),
    dragleave: () => show(-1),
    dragover: (event) => Object.assign(event.dataTransfer, { dropEffect: "copy" }),
    drop: async (event) => {
      show(-depth);
      take(await droppedFiles(event.dataTransfer));
    },
  };
  for (const [name, listener] of Object.entries(listeners)) {
    window.addEventListener(name, (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      listener(event);
    });
  }
}

/** Dropped files as they are, and from dropped folders those named like images. */
async function droppedFiles(transfer) {
  const items = [...transfer.items].filter((item) => item.kind === "file");
  const roots = items.map((item) => ({ entry: item.webkitGetAsEntry?.(), file: item.getAsFile() }));
  const found = await Promise.all(
    roots.map(({ entry, file }) => (entry?.isDirectory ? filesIn(entry) : file ? [named(file)] : [])),
  );
  return found.flat();
}

async function filesIn(folder) {
  const found = [];
  for (const entry of await entriesOf(folder)) {
    if (entry.isDirectory) found.push(...(await filesIn(entry)));
    else if (IMAGE_NAME.test(entry.name)) found.push(named(await fileOf(entry)));
  }
  return found;
}

/** A folder's entries by name; a reader gives about a hundred at a time. */
async function entriesOf(folder) {
  const reader = folder.createReader();
  const entries = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    entries.push(...some);
  }
  return entries.sort((a, b) => a.name.localeCompare(b.name, undefined, { numeric: true }));
}

const fileOf = (entry) => new Promise((resolve, reject) => entry.file(resolve, reject));
