// Files out of a drop, a folder or a file picker, with the names to show.

const IMAGE = /\.(jpe?g|png|bmp|tiff?|webp)$/i;

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

// A single file is taken whatever its name is, so that a wrong one gets a clear answer;
// a folder may hold other things, which are passed over.
function images(found) {
  const kept = found.filter(({ name }) => IMAGE.test(name));
  return kept.length === 0 && found.every(({ name }) => !name.includes("/")) ? found : kept;
}

async function collect(entry, folder, found) {
  if (entry.name.startsWith(".")) return;
  const name = folder ? `${folder}/${entry.name}` : entry.name;
  if (entry.isFile) {
    found.push({ file: await new Promise((done, failed) => entry.file(done, failed)), name });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives at most a hundred entries at a time.
    const entries = await new Promise((done, failed) => reader.readEntries(done, failed));
    if (entries.length === 0) return;
    for (const inner of entries) await collect(inner, name, found);
  }
}
