// What is drawn and not kept yet lies in this browser, by person and image: it outlives a session, a reload and a crash.

const DATABASE = "dermbatch-review", STORE = "drafts";
const OLDEST = 30 * 24 * 3600 * 1000; // milliseconds

let opened = null;

function database() {
  opened ??= new Promise((resolve, reject) => {
    const asked = indexedDB.open(DATABASE, 1);
    asked.onupgradeneeded = () => asked.result.createObjectStore(STORE);
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
  });
  return opened;
}

async function with_(mode, work) {
  const store = (await database()).transaction(STORE, mode).objectStore(STORE);
  return new Promise((resolve, reject) => {
    const asked = work(store);
    asked.transaction.oncomplete = () => resolve(asked.result);
    asked.transaction.onerror = asked.transaction.onabort = () => reject(asked.transaction.error ?? asked.error);
  });
}

export const key = (person, batch, index) => JSON.stringify([person, batch, index]);
export const read = (name) => with_("readonly", (store) => store.get(name));
export const write = (name, draft) => with_("readwrite", (store) => store.put({ ...draft, at: Date.now() }, name));
export const drop = (name) => with_("readwrite", (store) => store.delete(name));

// Those that nobody came back to.
export async function tidy() {
  const [names, all] = await Promise.all([with_("readonly", (store) => store.getAllKeys()), with_("readonly", (store) => store.getAll())]);
  for (let n = 0; n < all.length; n++) if (Date.now() - all[n].at > OLDEST) await drop(names[n]);
}
