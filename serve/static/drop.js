// Files from a drop, with those in folders, in the order of their names.

export const MEDIA = /\.(3gp|aac|ac3|aif+|amr|au|avi|caf|flac|gsm|m4[abv]|mka|mkv|mov|mp[234]|mpe?g|oga|ogg|ogv|opus|ra|spx|ts|wav|weba|webm|wma|wmv)$/i;

// To be called within the event, which a browser empties afterwards.
export function dropped(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return Promise.resolve([...transfer.files]);
  return Promise.all(entries.map(filesIn)).then((found) => found.flat());
}

async function filesIn(entry) {
  if (entry.isFile) return [await new Promise((done, failed) => entry.file(done, failed))];
  const reader = entry.createReader(), found = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed)); // a hundred at a time
    if (!some.length) break;
    found.push(...some);
  }
  return (await Promise.all(found.map(filesIn))).flat();
}

// Those that may be speech, in order.  A file chosen by itself is always tried: its name may say nothing.
export function media(files) {
  const found = files.length === 1 ? files : files.filter((file) => /^(audio|video)\//.test(file.type) || MEDIA.test(file.name));
  const path = (file) => file.webkitRelativePath || file.name;
  return found.sort((a, b) => path(a).localeCompare(path(b), undefined, { numeric: true }));
}
