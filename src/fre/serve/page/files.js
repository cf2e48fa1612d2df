// Files out of a drop, a folder or a file picker, with the names to show.

import { t } from "./language.js";
import { message } from "./messages.js";

const IMAGE = /\.(jpe?g|jpe|jfif|png|bmp|dib|tiff?|webp)$/i;
const SUFFIX = /\.[A-Za-z][A-Za-z0-9]{0,9}$/;
const NAMED = 5;

/** Images of a drop, folders read to their end: `{file, name}` with the folder in the name. */
export async function fromDrop(transfer) {
  // Entries must be taken before the first await: the browser empties the transfer then.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (entries.length === 0) return images([...transfer.files].map(named));
  const found = [];
  for (const entry of entries) await collect(entry, "", found);
  return images(found);
}

/** Images of an `<input type="file">`, emptied so that the same files can be chosen again. */
export function fromInput(input) {
  const found = images([...input.files].map(named));
  input.value = "";
  return found;
}

function named(file) {
  return { file, name: file.webkitRelativePath || file.name };
}

/** The first names of a list, and how many more there are. */
export function some(names) {
  const shown = names.slice(0, NAMED).join(", ");
  return names.length > NAMED ? t("app.and_more", { names: shown, n: names.length - NAMED }) : shown;
}

/** The images among files. Files of another type are left out, and the page names them. */
function images(found) {
  // Hidden files of a folder, such as .DS_Store, were not chosen by anybody.
  const chosen = found.filter(({ name }) => !(name.includes("/") && name.split("/").at(-1).startsWith(".")));
  const kept = chosen.filter(isImage);
  const others = chosen.filter((item) => !isImage(item)).map(({ name }) => name);
  if (others.length) {
    message(t("files.left_out", { names: some(others), accepted: t("files.accepted") }), { kind: "error" });
  } else if (kept.length === 0) {
    message(t("files.none", { accepted: t("files.accepted") }), { kind: "error" });
  }
  return kept;
}

// A file without a suffix may be an image: the service looks into it and says if it is not.
function isImage({ name }) {
  return IMAGE.test(name) || !SUFFIX.test(name);
}

async function collect(entry, folder, found) {
  const name = folder ? `${folder}/${entry.name}` : entry.name;
  if (entry.isFile) {
    found.push({ file: await new Promise((done, failed) => entry.file(done, failed)), name });
    return;
  }
  if (folder && entry.name.startsWith(".")) return;
  const reader = entry.createReader();
  for (;;) {
    // A reader gives at most a hundred entries at a time.
    const entries = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (entries.length === 0) return;
    for (const inner of entries) await collect(inner, name, found);
  }
}
