// The gallery: of any number of results, only what is visible is there.
import { ask, complain, count, download, json, make, say, typing, words } from "./api.js";

const CARDS = 3000; // rows that are kept at hand
const CAPTION = 46; // pixels below a picture
const PATIENCE = 1000; // milliseconds that facets wait for pictures
const HIGHEST = 15_000_000; // pixels; browsers end at some 33 million

const byId = (id) => document.getElementById(id);
const grid = byId("grid"), sized = byId("sized"), empty = byId("empty");
const state = { batches: JSON.parse(byId("ask").dataset.batches), q: "", sort: "", tile: 0, size: 170 };
let order = new Uint32Array(0); // pairs: number of the batch, index
let here = 0; // position of the image that keys act on
let chosen = new Set(); // "batch:index"
let selecting = false; // whether a click selects, and opens nothing
let from = null; // where a selection by Shift began
let tags = new Map(); // "batch:index" -> digits
let columns = 1, cell = 180, row = 220, ratio = 1;
const cards = new Map(); // id -> row of the table
const cells = new Map(); // position -> element
let asked = 0, pictures = null, rowsTimer = null;
let ownSets = null; // names; none until they are known

const total = () => order.length / 2;
const idAt = (position) => `${order[2 * position]}:${order[2 * position + 1]}`;
const parts = (id) => { const [batch, index] = id.split(":"); return [state.batches[Number(batch)], Number(index)]; };
const short = (name) => name.split("/").pop() || name;

function query(extra = {}) {
  const found = new URLSearchParams();
  for (const batch of state.batches) found.append("batch", batch);
  if (state.q) found.set("q", state.q);
  if (state.sort) found.set("sort", state.sort);
  for (const [name, value] of Object.entries(extra)) found.set(name, value);
  return found;
}

function remember(push = false) {
  const extra = {};
  if (state.tile) extra.tile = state.tile;
  if (state.size !== 170) extra.size = state.size;
  if (total() && here) extra.at = idAt(here);
  const address = `/gallery?${query(extra)}`;
  byId("to-review").href = `/review?${new URLSearchParams({ batch: state.batches[0] ?? "", q: state.q })}`;
  if (address !== location.pathname + location.search) history[push ? "pushState" : "replaceState"](null, "", address);
}

let remembering = null;
const rememberSoon = () => { clearTimeout(remembering); remembering = setTimeout(remember, 300); };

function restore() {
  const params = new URLSearchParams(location.search);
  state.batches = params.getAll("batch");
  state.q = params.get("q") ?? "";
  state.sort = params.get("sort") ?? "";
  state.tile = Math.min(3, Math.max(0, Number(params.get("tile")) || 0));
  state.size = Math.min(420, Math.max(90, Number(params.get("size")) || 170));
  byId("q").value = state.q;
  byId("tile").value = String(state.tile);
  return params.get("at");
}

// Ask for what is meant.
async function load(at = null) {
  const mine = ++asked;
  showTile();
  if (!state.batches.length) return;
  try {
    const answer = await ask(`/v1/results/order?${query()}`);
    const found = new Uint32Array(await answer.arrayBuffer());
    if (mine !== asked) return;
    wrong(null);
    foreign();
    const same = found.length === order.length;
    order = found;
    cards.clear();
    here = Math.max(0, at === null ? 0 : find(at));
    byId("found").textContent = `${count(total())} results`;
    const pending = Number(answer.headers.get("x-pending"));
    if (pending) byId("found").textContent += ` (${count(pending)} more are being read)`;
    empty.hidden = total() > 0;
    empty.textContent = "Nothing is like this.";
    if (!same || at === null) grid.scrollTop = 0;
    clearCells();
    measure();
    reveal(here);
    draw();
    await firstPictures();
    if (mine !== asked) return;
    facets(mine);
    if (pending) setTimeout(() => mine === asked && load(total() ? idAt(here) : null), 1000);
  } catch (error) {
    if (mine !== asked) return;
    if (error.at?.parameter === "q") wrong(error);
    else { empty.textContent = error.message; empty.hidden = total() > 0; complain(error); }
  }
}

// Pictures come first: facets count all results, which may take longer.
async function firstPictures() {
  clearTimeout(rowsTimer);
  await fillNow();
  const shown = [...grid.querySelectorAll("img[src]")].filter((image) => !image.complete);
  const loaded = shown.map((image) => new Promise((resolve) => { image.onload = image.onerror = resolve; }));
  if (loaded.length) await Promise.race([Promise.all(loaded), new Promise((resolve) => setTimeout(resolve, PATIENCE))]);
}

function find(id) {
  const [batch, index] = id.split(":").map(Number);
  for (let position = 0; position < total(); position++) {
    if (order[2 * position + 1] === index && order[2 * position] === batch) return position;
  }
  return 0;
}

function wrong(error) {
  const field = byId("q");
  byId("wrong").textContent = error?.message ?? "";
  field.setAttribute("aria-invalid", error ? "true" : "false");
  if (error && document.activeElement === field && error.at) field.setSelectionRange(error.at.position, field.value.length);
}

// Whoever is sent an address with a set of somebody else sees nothing by it, and is told why.
function foreign() {
  const named = [...state.q.matchAll(/\bset:"?([\p{L}\p{N}_-]+)/gu)].map(([, name]) => name);
  const none = ownSets && named.filter((name) => !ownSets.has(name));
  if (none?.length) byId("wrong").textContent = `You have no set ${none.join(", ")}: sets are each person's own, and addresses do not share them.`;
}

// Geometry.
function measure() {
  const width = grid.clientWidth;
  columns = Math.max(1, Math.floor(width / state.size));
  cell = Math.floor(width / columns);
  row = cell + CAPTION - 6;
  const high = Math.ceil(total() / columns) * row;
  ratio = Math.max(1, (high - grid.clientHeight) / (HIGHEST - grid.clientHeight));
  sized.style.height = `${Math.min(high, HIGHEST)}px`;
}

const top_ = () => grid.scrollTop * ratio; // where the view begins, in pixels of the whole

function reveal(position) {
  const start = Math.floor(position / columns) * row;
  if (start < top_()) grid.scrollTop = start / ratio;
  else if (start + row > top_() + grid.clientHeight) grid.scrollTop = (start + row - grid.clientHeight) / ratio;
}

let drawing = false;
grid.addEventListener("scroll", () => {
  if (!drawing) { drawing = true; requestAnimationFrame(() => { drawing = false; draw(); }); }
}, { passive: true });

function clearCells() {
  for (const element of cells.values()) element.remove();
  cells.clear();
}

function draw() {
  const first = Math.max(0, Math.floor(top_() / row) - 1) * columns;
  const last = Math.min(total(), (Math.ceil((top_() + grid.clientHeight) / row) + 1) * columns);
  for (const [position, element] of cells) {
    if (position < first || position >= last) {
      element.querySelector("img")?.removeAttribute("src");
      element.remove();
      cells.delete(position);
    }
  }
  const shift = ratio > 1 ? grid.scrollTop - top_() : 0;
  for (let position = first; position < last; position++) {
    let element = cells.get(position);
    if (!element) {
      element = blank(position);
      cells.set(position, element);
      sized.append(element);
    }
    const x = (position % columns) * cell, y = Math.floor(position / columns) * row + shift;
    element.style.transform = `translate(${x}px, ${y}px)`;
  }
  fillSoon();
}

function blank(position) {
  const id = idAt(position);
  const element = make("div", { class: "cell", role: "option", id: `cell-${position}`, "aria-setsize": total(), "aria-posinset": position + 1, "aria-label": `Image ${id.split(":")[1]}`, "data-id": id, "data-position": position });
  element.style.width = `${cell}px`;
  element.style.height = `${row}px`;
  element.append(make("div", { class: "shot" }), make("div", { class: "line" }), make("div", { class: "line soft" }));
  mark(element, id, position);
  const card = cards.get(id);
  if (card) fill(element, card);
  return element;
}

function mark(element, id, position) {
  element.setAttribute("aria-selected", chosen.has(id) ? "true" : "false");
  element.classList.toggle("here", position === here && document.activeElement === grid);
}

function fill(element, card) {
  element.dataset.filled = "1";
  const [shot, line, soft] = element.children;
  const name = short(card.name ?? "");
  const picture = card.outcome === "done";
  shot.replaceChildren(picture ? make("img", { alt: "", decoding: "async", draggable: "false", onerror: (event) => lost(event.target, card), "data-src": `/v1/batches/${card.batch}/images/${card.index}/preview.jpg` }) : make("div", { class: "why" }, words(card.reason ?? "failed")));
  const own = tags.get(element.dataset.id) ?? "";
  shot.append(make("div", { class: "marks" }, ...[...own].map((digit) => make("b", { class: "tag" }, digit)), ...(card.flags ?? []).map((flag) => make("b", {}, words(flag)))));
  const p = card.probability;
  line.replaceChildren(make("span", {}, card.label ? words(card.label) : picture ? "no class" : "failed"), make("span", {}, p === null || p === undefined ? "" : p.toFixed(2)));
  soft.replaceChildren(make("span", { dir: "auto", title: card.name }, name), make("span", {}, `#${card.index}`));
  element.setAttribute("aria-label", `${name}, ${card.label ? `${words(card.label)} ${p?.toFixed(2) ?? ""}` : words(card.reason ?? "no class")}${(card.flags ?? []).length ? `, ${card.flags.map(words).join(", ")}` : ""}`);
}

// A picture that does not come: why not. That of a session that has ended comes with the next one.
async function lost(image, card) {
  if (!image.getAttribute("src")) return;
  const why = (text) => image.replaceWith(make("div", { class: "why" }, text));
  try {
    await ask(image.src);
    why("its picture is damaged");
  } catch (error) {
    why(error.status === 404 ? "its result is not there any more" : "its picture does not come");
  }
}
document.addEventListener("signedin", () => { clearCells(); draw(); });

// Rows and pictures are asked for once the view stands still for a moment.
function fillSoon() {
  clearTimeout(rowsTimer);
  rowsTimer = setTimeout(fillNow, 40);
}

async function fillNow() {
  const missing = [...cells.values()].map((element) => element.dataset.id).filter((id) => !cards.has(id));
  showPictures();
  if (!missing.length) return;
  const mine = asked;
  pictures?.abort();
  pictures = new AbortController();
  try {
    const wanted = missing.slice(0, 400);
    const found = await json(`/v1/results/rows?${query({ ids: wanted.join(",") })}`, { signal: pictures.signal });
    if (mine !== asked) return;
    found.forEach((card, n) => card && cards.set(wanted[n], card));
    while (cards.size > CARDS) cards.delete(cards.keys().next().value);
    for (const element of cells.values()) {
      const card = cards.get(element.dataset.id);
      if (card && !element.dataset.filled) fill(element, card);
    }
    showPictures();
  } catch (error) {
    complain(error);
  }
}

function showPictures() {
  const low = top_() - row, high = top_() + grid.clientHeight + row;
  for (const [position, element] of cells) {
    const y = Math.floor(position / columns) * row;
    const image = element.querySelector("img[data-src]");
    if (image && !image.getAttribute("src") && y + row >= low && y <= high) image.src = image.dataset.src;
  }
}

// Facets: a click narrows the query.
async function facets(mine) {
  try {
    const found = await json(`/v1/results/facets?${query()}`);
    if (mine !== asked) return;
    sorts(found);
    const list = byId("facet-list");
    const titles = { outcome: "Outcome", label: "Most probable class", flags: "Flags", reason: "Failed for", batch: "Batch", segment_model: "Segmentation", classify_model: "Classification", pseudonym: "Pseudonym" };
    const shown = [];
    for (const [name, title] of Object.entries(titles)) {
      const values = Object.entries(found.values[name] ?? {});
      if (!values.length || (values.length === 1 && ["batch", "outcome", "segment_model", "classify_model"].includes(name) && values[0][1] === found.total)) continue;
      shown.push(make("h2", {}, title), ...values.map(([value, n]) => make("button", { type: "button", class: "facet", onclick: () => narrow(term(name, value)) }, make("span", {}, words(value)), make("span", { class: "n" }, count(n)))));
    }
    const spreads = { probability: "Probability", uncertainty: "Uncertainty", pixels: "Pixels" };
    for (const [name, title] of Object.entries(spreads)) if (found.spreads[name]) shown.push(make("h2", {}, title), ...spread(name, title, found.spreads[name]));
    const ownTags = new Set([...tags.values()].join(""));
    if (ownTags.size) shown.push(make("h2", {}, "Tags"), ...[...ownTags].sort().map((digit) => make("button", { type: "button", class: "facet", onclick: () => narrow(`tag:${digit}`) }, make("span", {}, `tag ${digit}`), make("span", { class: "n" }, ""))));
    list.replaceChildren(...shown);
    exports_();
  } catch (error) {
    complain(error);
  }
}

const term = (name, value) => `${{ flags: "flag", label: "class" }[name] ?? name}:${/^[\w-]+$/.test(value) ? value : `"${value.replaceAll('"', '\\"')}"`}`;

function narrow(text) {
  set({ q: state.q ? (state.q.includes(text) ? state.q : `${/ OR /.test(state.q) ? `(${state.q})` : state.q} AND ${text}`) : text });
}

function spread(name, title, { low, high, counts }) {
  const NS = "http://www.w3.org/2000/svg", most = Math.max(...counts), step = (high - low) / counts.length;
  const figure = document.createElementNS(NS, "svg");
  figure.setAttribute("class", "spread");
  figure.setAttribute("viewBox", `0 0 ${counts.length * 10} 40`);
  figure.setAttribute("preserveAspectRatio", "none");
  figure.setAttribute("role", "img");
  figure.setAttribute("aria-label", `${title}: ${counts.join(", ")} from ${low} to ${high}`);
  counts.forEach((n, at) => {
    const bar = document.createElementNS(NS, "rect");
    const h = n ? Math.max(1.5, (40 * n) / most) : 0;
    for (const [key, value] of Object.entries({ x: at * 10 + 1, y: 40 - h, width: 8, height: h })) bar.setAttribute(key, value);
    figure.append(bar);
  });
  const digits = high <= 1 ? 2 : 0;
  const least = make("input", { type: "number", class: "from", step: "any", value: low.toFixed(digits), "aria-label": `${title} from` });
  const greatest = make("input", { type: "number", class: "to", step: "any", value: high.toFixed(digits), "aria-label": `${title} to` });
  const go = make("button", { type: "button", "aria-label": `Only ${title.toLowerCase()} in this range`, onclick: () => narrow(`${name}:[${least.value} TO ${greatest.value}]`) }, "Only");
  return [figure, make("div", { class: "row range" }, least, greatest, go)];
}

function sorts(found) {
  const select = byId("sort");
  const there = ["probability", "uncertainty", ...found.labels.map((label) => `probability_${label}`), "confidence", "area_fraction", "diameter_mm", "asymmetry", "border_irregularity", "occluded_fraction", "pixels", "name", "finished"].filter((name) => found.columns.includes(name));
  const wanted = [["", "index"], ...there.flatMap((name) => [[`-${name}`, `${words(name)} ↓`], [name, `${words(name)} ↑`]])];
  if (state.sort && !wanted.some(([value]) => value === state.sort)) wanted.push([state.sort, words(state.sort)]);
  if (select.options.length !== wanted.length) select.replaceChildren(...wanted.map(([value, text]) => make("option", { value }, text)));
  select.value = state.sort;
}

function exports_() {
  const kinds = { csv: "CSV: the table", parquet: "Parquet: the table", coco: "COCO: masks (RLE), areas, boxes", fiftyone: "FiftyOne dataset (zip)", dicom: "DICOM objects (zip)" };
  const list = byId("export-list");
  if (chosen.size > 400) {
    list.replaceChildren(make("p", {}, `Put the ${count(chosen.size)} selected into a set, and ask for set:its-name: then all of this view is what you export.`));
    return;
  }
  const ids = [...chosen].join(",");
  list.replaceChildren(make("p", { class: "soft" }, chosen.size ? `The ${count(chosen.size)} selected:` : `All ${count(total())} of this view:`), ...Object.entries(kinds).map(([kind, text]) => make("a", { href: `/v1/exports/${kind}?${query(ids ? { ids } : {})}`, onclick: fetched }, text)));
}

function fetched(event) {
  event.preventDefault();
  download(event.currentTarget.href).catch(complain);
}

// What people do.
function set(changes, at = null) {
  Object.assign(state, changes);
  byId("q").value = state.q;
  chosen.clear();
  showChosen();
  here = 0;
  remember(true);
  load(at);
}

function move(to, select = false) {
  if (!total()) return;
  to = Math.min(total() - 1, Math.max(0, to));
  if (select) {
    from ??= here;
    for (let at = Math.min(from, to); at <= Math.max(from, to); at++) chosen.add(idAt(at));
    showChosen();
  } else from = null;
  here = to;
  reveal(here);
  draw();
  for (const [position, element] of cells) mark(element, element.dataset.id, position);
  grid.setAttribute("aria-activedescendant", `cell-${here}`);
  rememberSoon();
}

function toggle(position) {
  const id = idAt(position);
  if (!chosen.delete(id)) chosen.add(id);
  showChosen();
}

function showChosen() {
  byId("chosen-tools").hidden = !chosen.size;
  byId("chosen").textContent = `${count(chosen.size)} selected`;
  for (const [position, element] of cells) mark(element, element.dataset.id, position);
  if (byId("export").open) exports_();
}

function open(position) {
  if (!total()) return;
  here = position;
  remember();
  const [batch, index] = parts(idAt(position));
  location.href = `/image/${batch}/${index}?${query()}`;
}

const grouped = (ids) => ids.reduce((found, id) => { const [batch, index] = parts(id); (found[batch] ??= []).push(index); return found; }, {});

async function tag(digit) {
  const ids = chosen.size ? [...chosen] : total() ? [idAt(here)] : [];
  if (!ids.length) return;
  const has = ids.every((id) => (tags.get(id) ?? "").includes(digit));
  try {
    await ask(`/v1/sets/tag-${digit}`, { method: "PATCH", json: { [has ? "remove" : "add"]: grouped(ids) } });
    for (const id of ids) {
      const others = [...(tags.get(id) ?? "")].filter((one) => one !== digit);
      tags.set(id, (has ? others : [...others, digit]).sort().join(""));
    }
    for (const element of cells.values()) {
      const card = cards.get(element.dataset.id);
      if (card) fill(element, card);
    }
    showPictures();
    say(has ? `Tag ${digit} taken away from ${count(ids.length)}` : `${count(ids.length)} tagged ${digit}`);
  } catch (error) {
    complain(error);
  }
}

async function readTags() {
  const sets = await json("/v1/sets").catch(() => null);
  if (!sets) return;
  const numbers = new Map(state.batches.map((name, at) => [name, at]));
  for (const one of sets) {
    const digit = one.name.match(/^tag-(\d)$/)?.[1];
    if (!digit) continue;
    for (const [batch, indices] of Object.entries(one.images)) {
      if (!numbers.has(batch)) continue;
      for (const index of indices) tags.set(`${numbers.get(batch)}:${index}`, `${tags.get(`${numbers.get(batch)}:${index}`) ?? ""}${digit}`);
    }
  }
  ownSets = new Set(sets.map((one) => one.name));
  byId("sets").replaceChildren(...sets.map((one) => make("option", { value: one.name })));
}

function showTile() {
  grid.className = `grid view-${state.tile}`;
  byId("tile").value = String(state.tile);
}

function resize(size) {
  state.size = Math.min(420, Math.max(90, size));
  clearCells();
  measure();
  reveal(here);
  draw();
  rememberSoon();
}

byId("ask").addEventListener("submit", (event) => { event.preventDefault(); set({ q: byId("q").value.trim() }); });
byId("q").addEventListener("search", () => { if (byId("q").value.trim() !== state.q) set({ q: byId("q").value.trim() }); });
byId("sort").addEventListener("change", (event) => set({ sort: event.target.value }, total() ? null : null));
byId("tile").addEventListener("change", (event) => { state.tile = Number(event.target.value); showTile(); remember(); });
byId("batch").addEventListener("change", (event) => { if (event.target.value) { state.batches = event.target.value.split(","); tags.clear(); readTags(); set({ q: "" }); } });
byId("none").addEventListener("click", () => { chosen.clear(); showChosen(); grid.focus(); });
byId("export").addEventListener("toggle", exports_);
byId("keep").addEventListener("click", () => byId("set").showModal());
byId("set-cancel").addEventListener("click", () => byId("set").close());
byId("set-form").addEventListener("submit", async () => {
  const name = byId("set-name").value;
  try {
    await ask(`/v1/sets/${encodeURIComponent(name)}`, { method: "PATCH", json: { add: grouped([...chosen]) } });
    say(`${count(chosen.size)} put into ${name}`);
    readTags();
  } catch (error) {
    complain(error);
  }
});

// Where there are no keys, a press of the button has each touch select instead of open.
byId("selecting").addEventListener("click", () => { selecting = !selecting; byId("selecting").setAttribute("aria-pressed", String(selecting)); });
byId("tag-chosen").addEventListener("change", ({ target }) => { if (target.value) tag(target.value); target.value = ""; });

grid.addEventListener("click", (event) => {
  const element = event.target.closest(".cell");
  if (!element) return;
  const position = Number(element.dataset.position);
  if (selecting) { move(position); toggle(position); }
  else if (event.shiftKey) move(position, true);
  else if (event.ctrlKey || event.metaKey) { move(position); toggle(position); }
  else open(position);
});
grid.addEventListener("focus", () => move(here));
grid.addEventListener("blur", () => { for (const [position, element] of cells) mark(element, element.dataset.id, position); });

document.addEventListener("keydown", (event) => {
  if (typing(event)) {
    if (event.key === "Escape" && event.target === byId("q")) { event.preventDefault(); grid.focus(); } // else the browser empties the field, and with it the query
    return;
  }
  if (event.key === "a" && (event.ctrlKey || event.metaKey) && document.activeElement === grid) {
    event.preventDefault();
    for (let at = 0; at < total(); at++) chosen.add(idAt(at));
    showChosen();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("button, a, summary") && ["Enter", " "].includes(event.key)) return;
  const screen = Math.max(1, Math.floor(grid.clientHeight / row)) * columns;
  const moves = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, j: 1, k: -1, PageDown: screen, PageUp: -screen, Home: -here, End: total() - 1 - here };
  if (event.key in moves) { event.preventDefault(); if (document.activeElement !== grid) grid.focus({ preventScroll: true }); move(here + moves[event.key], event.shiftKey); }
  else if (event.key === "/") { event.preventDefault(); byId("q").focus(); byId("q").select(); }
  else if (event.key === "Enter") open(here);
  else if (event.key === " ") { event.preventDefault(); if (total()) toggle(here); }
  else if (event.key === "Escape") { chosen.clear(); showChosen(); }
  else if (event.key === "v") { state.tile = (state.tile + 1) % 4; showTile(); remember(); }
  else if (event.key === "+") resize(state.size + 40);
  else if (event.key === "-") resize(state.size - 40);
  else if (/^[1-9]$/.test(event.key)) tag(event.key);
});

new ResizeObserver(() => { if (total()) resize(state.size); }).observe(grid);
window.addEventListener("popstate", () => load(restore()));
if (matchMedia("(max-width: 900px)").matches) byId("facets").open = false;
const at = restore();
readTags().then(() => load(at)).then(() => { if (document.activeElement === document.body) grid.focus({ preventScroll: true }); });
