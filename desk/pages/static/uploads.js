// Files on their way to the desk, in pieces; what broke off goes on where it stopped.
import { ask, complain, count, json, make } from "./api.js";

const AT_A_TIME = 3;
const TRIES = 6;
const SHOWN = 200;
const COMPARED = 4 << 20; // bytes at a time
const attempt = () => [...crypto.getRandomValues(new Uint32Array(4))].map((n) => n.toString(36)).join("");

export class Uploads {
  #files = [];
  #into = null;
  #list;
  #running = null;
  #adding = Promise.resolve();
  #attempt = attempt();

  constructor(list) {
    this.#list = list;
  }

  get some() {
    return this.#files.length > 0;
  }

  add(files) {
    this.#adding = this.#adding.catch(() => {}).then(() => this.#add(files));
    this.#adding.then(() => this.all()).catch(complain);
  }

  async #add(files) {
    for (const file of files) {
      const name = await this.#free(file);
      if (!name) continue;
      const entry = { file, name, done: 0, failed: null };
      if (this.#files.length < SHOWN) entry.item = this.#item(entry);
      this.#files.push(entry);
    }
  }

  // The path that a file goes by: another one's is numbered, as two folders may have files of one name. None where it is
  // the same file, chosen twice.
  async #free(file) {
    const asked = (file.webkitRelativePath || file.path_below || file.name).normalize("NFC");
    for (let n = 1; ; n++) {
      const name = n === 1 ? asked : asked.replace(/(\.[^./]*)?$/, (end) => ` (${n})${end}`);
      const there = this.#files.find((one) => one.name === name);
      if (!there) return name;
      if (await same(there.file, file)) return null;
    }
  }

  #drop(one) {
    one.gone = true;
    this.#files = this.#files.filter((other) => other !== one);
    one.item.remove();
    if (one.id) ask(`/v1/uploads/${one.id}`, { method: "DELETE" }).catch(() => {});
  }

  async drop(data) {
    const entries = [...data.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
    const found = [];
    for (const entry of entries) await walk(entry, found);
    this.add(found);
  }

  // Upload what is not there yet; gives the input of a batch.
  async all() {
    await this.#adding;
    while (this.#files.some((one) => one.done < one.file.size || !one.whole)) {
      this.#running ??= this.#run().finally(() => (this.#running = null));
      await this.#running;
      const failed = this.#files.find((one) => one.failed);
      if (failed) throw new Error(`${failed.name}: ${failed.failed}`);
    }
    return `upload:${this.#into}`;
  }

  // The same for the same files and order, so that a submission whose answer was lost is not made twice.
  key(asked) {
    return `${this.#attempt}-${[...JSON.stringify(asked)].reduce((sum, letter) => (sum * 31 + letter.codePointAt(0)) >>> 0, 7)}`;
  }

  clear() {
    this.#files = [];
    this.#into = null;
    this.#attempt = attempt();
    this.#list.replaceChildren();
  }

  async #run() {
    const waiting = this.#files.filter((one) => !one.whole);
    for (const one of waiting) one.failed = null;
    if (!this.#into && waiting.length) await this.#send(waiting.shift());
    await Promise.all(Array.from({ length: AT_A_TIME }, async () => {
      while (waiting.length) await this.#send(waiting.shift());
    }));
  }

  async #send(one) {
    try {
      if (!one.id) {
        const begun = await json("/v1/uploads", { method: "POST", json: { name: one.name, size: one.file.size, into: this.#into } });
        this.#into ??= begun.into;
        Object.assign(one, { id: begun.id, piece: begun.piece });
      }
      for (let tries = 0; one.done < one.file.size && !one.gone; ) {
        try {
          await this.#piece(one);
          tries = 0;
        } catch (error) {
          if (++tries >= TRIES || [401, 404, 413, 415].includes(error.status)) throw error;
          await new Promise((resolve) => setTimeout(resolve, 300 * 2 ** tries));
          const state = await ask(`/v1/uploads/${one.id}`, { method: "HEAD" }).catch(() => null);
          if (state) one.done = Number(state.headers.get("upload-offset"));
        }
      }
      one.whole = true;
    } catch (error) {
      one.failed = error.message;
    }
    this.#show(one);
  }

  async #piece(one) {
    const body = one.file.slice(one.done, one.done + one.piece);
    const headers = { "upload-offset": String(one.done), "content-type": "application/offset+octet-stream" };
    const answer = await ask(`/v1/uploads/${one.id}`, { method: "PATCH", headers, body });
    one.done = Number(answer.headers.get("upload-offset"));
    this.#show(one);
  }

  #item(one) {
    const out = make("button", { type: "button", class: "plain", "aria-label": `Leave out ${one.name}`, onclick: () => this.#drop(one) }, "×");
    const item = make("li", {}, make("span", { dir: "auto" }, one.name), make("progress", { max: Math.max(1, one.file.size), value: 0, "aria-label": `Upload of ${one.name}` }), make("span", { class: "soft" }, `${count(Math.ceil(one.file.size / 1024))} KiB`), out);
    this.#list.append(item);
    return item;
  }

  #show(one) {
    if (one.gone || (!one.item && !one.failed)) return;
    one.item ??= this.#item(one); // beyond those that are listed, what failed is
    one.item.children[1].value = one.whole ? Math.max(1, one.file.size) : one.done;
    one.item.children[2].textContent = one.failed ?? (one.whole ? "there" : `${Math.round((100 * one.done) / one.file.size)} %`);
    one.item.children[2].className = one.failed ? "bad" : one.whole ? "good" : "soft";
  }
}

// Whether two files have the same bytes: what else is known about them may be the same by chance.
async function same(one, other) {
  if (one.size !== other.size) return false;
  for (let at = 0; at < one.size; at += COMPARED) {
    const [a, b] = await Promise.all([one, other].map(async (file) => new Uint8Array(await file.slice(at, at + COMPARED).arrayBuffer())));
    if (a.some((byte, n) => byte !== b[n])) return false;
  }
  return true;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    file.path_below = entry.fullPath.replace(/^\//, "");
    found.push(file);
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const one of some) await walk(one, found);
  }
}
