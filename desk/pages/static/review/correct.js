// Correcting one image: what is drawn, what it is called, what is seen in it; kept once, whatever happens in between.
import { ask, complain, count, json, make, say, typing, words } from "../api.js";
import { Viewer } from "../viewer.js";
import * as drafts from "./drafts.js";
import { Editor } from "./editor.js";
import { Mask } from "./mask.js";

const byId = (id) => document.getElementById(id);
const picture = byId("picture");
const batch = picture.dataset.batch, index = Number(picture.dataset.index);
const here = `/v1/batches/${batch}/images/${index}`;
const context = new URLSearchParams(location.search);
const queue = context.get("queue"), adjudicates = context.has("adjudicate");
const person = document.querySelector(".person").textContent;
const draftName = drafts.key(person, batch, index) + (adjudicates ? " adjudicate" : "");
const LESION = "lesion";
const HELD_EVERY = 45_000, IDLE = 30 * 60_000; // milliseconds: a reader who has left holds nothing

const viewer = new Viewer(byId("canvas"), { onview: ({ zoom }) => { byId("scale").textContent = `${Math.round(zoom * viewer.ratio * 100)} %`; }, onproblem: complain });
const editor = new Editor(byId("drawing"), viewer, { onchange: changed, onview: showTools });
Object.assign(window, { viewer, editor }); // tests look at them

let details = null; // what is known of the image
let known = null; // decisions that may be seen, version, stages
let handed = { blind: false, blank: context.has("blank"), returned: null };
let despite = {};
let stages = {};
let began = Date.now();
let keeping = null;
let pending = null; // a decision that could not be sent, and is sent again as it is
let dirty = false;
let changes = 0; // so far

async function load() {
  // Of a queue first without what models found: the lease tells whether that may be shown.
  const [image, decisions] = await Promise.all([json(here + (queue ? "?findings=false" : "")), json(`${here}/decisions${adjudicates ? "?open=true" : ""}`)]);
  [details, known] = [image, decisions];
  if (details.outcome === "failed") throw new Error(`This image failed: ${words(details.failure.reason)}. There is nothing to correct.`);
  if (queue) await hold(true);
  if (queue && !handed.blind) details = await json(here);
  const { source } = details.result;
  viewer.size = [source.width, source.height];
  viewer.spacing = source.pixel_spacing_mm?.[1] ?? null;
  viewer.fit();
  editor.resize(Math.min(source.width, source.height) / 20);
  stages = known.stages;
  byId("name").textContent = handed.blind ? `Image ${index}` : details.result.name;
  byId("where").textContent = queue ? `Queue ${queue}${handed.blind ? "; what models found is not shown" : ""}` : `${batch}, ${index}`;
  form();
  window.openedVersion = known.next_version;
  await begin();
  await base("original").catch(async (error) => { complain(error); await base("purified"); });
  byId("base").hidden = handed.blind || !details.layers.includes("purified");
  byId("from-model").hidden = handed.blind || !details.result.stages.segment;
  history_();
  if (handed.returned) note("returned", `Returned for correction by ${handed.returned.by}: ${handed.returned.comment || "without a word"}`);
  if (Object.keys(known.newer).length || isBehind()) await conflict();
  ready();
}

// Where drawing begins: what was not kept the last time, the reader's last decision, the model's mask, or nothing.
async function begin() {
  const [width, height] = viewer.size;
  const draft = await drafts.read(draftName).catch(() => null);
  if (draft && draft.width === width && draft.height === height && Boolean(draft.adjudicates) === adjudicates) {
    editor.begin(new Map(draft.layers.map(([name, rows]) => [name, Mask.ofRows(rows, width, height)])));
    fill(draft.fields);
    [stages, despite, began, handed.blank] = [draft.stages, draft.despite, draft.began, draft.blank];
    window.openedVersion = draft.opened ?? known.next_version;
    dirty = true;
    if (draft.pending) return send(draft.pending).catch(complain);
    return note("draft", `What you drew ${new Date(draft.at).toLocaleString()} was not kept yet: here it is.`, ["Start over", async () => { await drafts.drop(draftName); location.reload(); }]);
  }
  const mine = last(person);
  const masks = new Map([[LESION, mine?.mask ? Mask.ofCounts(mine.mask.counts, width, height) : new Mask(width, height)]]);
  for (const feature of mine?.features ?? []) if (feature.region) masks.set(feature.term, Mask.ofCounts(feature.region.counts, width, height));
  if (mine) fill({ diagnosis: mine.diagnosis, unsure: mine.unsure, comment: mine.comment, seen: mine.features.map((one) => one.term) });
  else if (!handed.blank && !adjudicates && details.result.stages.segment) masks.set(LESION, Mask.ofCounts((await json(`${here}/masks/model`)).counts, width, height));
  editor.begin(masks);
}

const last = (reader) => known.decisions.filter((one) => one.reader === reader && one.kind !== "return").sort((a, b) => b.version - a.version)[0];

async function base(name) {
  if (!viewer.bases.has(name)) viewer.bases.set(name, { ...(await json(`${here}/layers/${name}`)), address: `${here}/layers/${name}` });
  viewer.base = name;
  byId("base").textContent = name === "original" ? "Purified" : "Original";
  viewer.draw();
}

// The form.
function form() {
  const classify = handed.blind ? null : details.result.stages.classify?.output;
  const labels = [...new Set([...(details.labels ?? Object.keys(details.result.stages.classify?.output.probabilities ?? {})), ...JSON.parse(picture.dataset.diagnoses)])];
  byId("diagnoses").replaceChildren(...labels.map((label) => make("label", {}, make("input", { type: "checkbox", name: "diagnosis", value: label, onchange: changed }), make("span", {}, words(label)), make("span", { class: "soft n" }, classify ? classify.probabilities[label]?.toFixed(2) ?? "" : ""))));
  const features = JSON.parse(picture.dataset.features); // pairs of code and title, in order
  const one = (name, title) => make("div", { class: "choice" }, make("label", {}, make("input", { type: "radio", name: "layer", value: name, checked: name === LESION, onchange: () => editor.choose(name) }), make("span", {}, title)), name === LESION ? null : make("label", { class: "soft" }, make("input", { type: "checkbox", name: "seen", value: name, "aria-label": `${title}: seen`, onchange: changed }), "seen"));
  byId("layers").replaceChildren(one(LESION, "Lesion"), ...features.map(([name, title]) => one(name, title)));
  for (const id of ["unsure", "comment"]) byId(id).addEventListener("input", changed);
}

const chosen = (name) => [...byId("decision").querySelectorAll(`input[name=${name}]:checked`)].map((one) => one.value);

function fields() {
  return { diagnosis: chosen("diagnosis"), unsure: byId("unsure").checked, comment: byId("comment").value, seen: chosen("seen") };
}

function fill({ diagnosis, unsure, comment, seen }) {
  for (const one of byId("decision").querySelectorAll("input[name=diagnosis], input[name=seen]")) one.checked = (one.name === "seen" ? seen : diagnosis).includes(one.value);
  byId("unsure").checked = unsure;
  byId("comment").value = comment;
}

// What is not kept yet is in the browser a moment later.
let writing = null;
function changed() {
  dirty = true;
  changes++;
  pending = null;
  byId("state").textContent = "not kept yet";
  if (editor.active && editor.active !== LESION && !editor.mask.empty) byId("layers").querySelector(`input[name=seen][value=${editor.active}]`).checked = true;
  clearTimeout(writing);
  writing = setTimeout(() => (window.requestIdleCallback ?? setTimeout)(() => dirty && !keeping && draft().catch(complain)), 600);
}

async function draft() {
  clearTimeout(writing);
  const [width, height] = viewer.size;
  const layers = [...editor.masks].map(([name, mask]) => [name, mask.rows()]);
  await drafts.write(draftName, { width, height, layers, fields: fields(), stages, despite, began, blank: handed.blank, adjudicates, opened: window.openedVersion, pending });
}

// Keeping.
function decision(kind = adjudicates ? "adjudicate" : "read", to = null) {
  const { seen, ...rest } = fields();
  const features = seen.map((term) => ({ term, region: editor.masks.has(term) && !editor.masks.get(term).empty ? region(editor.masks.get(term)) : null }));
  const mask = editor.masks.get(LESION).counts();
  return { version: known.next_version, kind, stages, shown: !handed.blind, blank: Boolean(handed.blank), despite, ...rest, mask: kind === "return" ? null : mask, features, to };
}

const region = (mask) => ({ height: mask.height, width: mask.width, counts: mask.counts() });

async function keep() {
  if (keeping) return;
  editor.finish();
  const pressed = performance.now();
  const body = decision();
  await send(body);
  window.kept = performance.now() - pressed; // tests measure it
}

// Send a decision. What cannot be sent now lies in the browser, and is sent again: the same decision is one, however often.
async function send(body) {
  keeping = pending = body;
  byId("keep").disabled = true;
  byId("state").textContent = "keeping …";
  const laid = draft(), before = changes;
  try {
    const kept = await json(`${here}/decisions`, { method: "POST", json: body });
    await laid.catch(() => {});
    window.openedVersion = kept.version + 1;
    pending = null;
    dirty = changes !== before; // what was drawn meanwhile is not in it
    await (dirty ? draft() : drafts.drop(draftName)).catch(() => {});
    byId("state").textContent = `kept as version ${kept.version}${dirty ? "; what you drew since is not kept yet" : ""}`;
    say(`Kept as version ${kept.version}`);
    document.dispatchEvent(new CustomEvent("kept", { detail: kept }));
  } catch (error) {
    byId("state").textContent = "not kept yet";
    if (error.status === 401 || error.status === 0 || error.status === 503) return later(body, error);
    pending = null;
    await laid.catch(() => {});
    await draft();
    if (error.reason === "newer_results" || error.reason === "decided_meanwhile") { say(error.message, true); return conflict(); }
    throw error;
  } finally {
    keeping = null;
    byId("keep").disabled = false;
  }
  await surely(queue && !dirty ? onward : again);
}

// Something that is asked again where the desk is away or a session has ended: what was kept stays kept.
async function surely(work) {
  try {
    await work();
  } catch (error) {
    if (![0, 401, 503].includes(error.status)) throw error;
    say(error.message, true);
    const retry = () => { clearTimeout(timer); document.removeEventListener("signedin", retry); surely(work).catch(complain); };
    const timer = error.status === 401 ? null : setTimeout(retry, 3000);
    document.addEventListener("signedin", retry, { once: true });
  }
}

function later(body, error) {
  say(error.message, true);
  byId("state").textContent = "not kept yet: sent again as soon as it can be";
  const retry = () => { clearTimeout(timer); document.removeEventListener("signedin", retry); if (!keeping && pending === body) send(body).catch(complain); };
  const timer = error.status === 401 ? null : setTimeout(retry, 3000);
  document.addEventListener("signedin", retry, { once: true });
}

async function again() {
  known = await json(`${here}/decisions`);
  history_();
}

// What lies there now is another one than was shown: both are shown, and nothing is overwritten.
async function conflict() {
  known = await json(`${here}/decisions${adjudicates ? "?open=true" : ""}`);
  const newer = Object.fromEntries(Object.entries(known.newer).filter(([stage, key]) => stages[stage] !== key));
  if (Object.keys(newer).length) {
    const which = Object.keys(newer).join(" and ");
    let newest = null;
    if (newer.segment && !handed.blind) {
      newest = await json(`${here}/masks/model?newer=true`);
      viewer.overs.set("newer", { lines: newest.outline, colour: "#40c4ff", opacity: 1, on: true });
      viewer.draw();
    }
    note("newer", `Run again since this image was shown: ${which}${newest ? ` (${newest.model.name}@${newest.model.version}; its outline is blue)` : ""}. Nothing is overwritten: what do you keep?`,
      ["Keep my drawing anyway", () => { despite = newer; keep().catch(complain); }],
      ...(newest ? [["Begin from the newer mask", () => { editor.choose(LESION); editor.become(Mask.ofCounts(newest.counts, ...viewer.size)); stages = { ...stages, ...newer }; despite = {}; handed.blank = false; drop("newer"); }]] : []));
  }
  if (isBehind()) {
    const mine = last(person);
    note("meanwhile", `You have kept version ${mine.version} in another window since. Nothing of it is lost; this drawing would be version ${known.next_version}.`,
      ["Keep this one, too", () => { drop("meanwhile"); window.openedVersion = known.next_version; keep().catch(complain); }],
      ["Show the other one", async () => { await drafts.drop(draftName); location.reload(); }]);
  }
}

// Whether this drawing began before what its reader has kept in another window.
function isBehind() {
  return dirty && (last(person)?.version ?? 0) >= window.openedVersion;
}

function note(name, text, ...choices) {
  drop(name);
  byId("notes").append(make("div", { class: "note", "data-note": name }, make("p", {}, text), make("p", { class: "row" }, ...choices.map(([title, work]) => make("button", { type: "button", onclick: work }, title)))));
}

const drop = (name) => byId("notes").querySelector(`[data-note=${name}]`)?.remove();

// What others and oneself decided, as far as it may be seen.
const COLOURS = ["#ff8a80", "#40c4ff", "#ea80fc", "#ffd54f"];
function history_() {
  const shown = known.decisions.filter((one) => one.kind !== "return" || one.to === person || adjudicates);
  const readers = [...new Set(shown.filter((one) => one.kind !== "return").map((one) => one.reader))];
  const rows = readers.filter((reader) => reader !== person || shown.length).map((reader, n) => {
    const one = last(reader), address = `${here}/decisions/${one.version}`, whose = `?reader=${encodeURIComponent(reader)}`;
    const isDicom = details.result.source.media_type === "application/dicom";
    const files = [...(one.mask ? ["mask.png", "mask.json"] : []), ...(isDicom ? [...(one.mask ? ["segmentation.dcm"] : []), "report.dcm"] : [])];
    const sends = isDicom ? JSON.parse(picture.dataset.pacs).map((name) => make("button", { type: "button", onclick: () => sent(`${address}/send${whose}`, name) }, `Send to ${name}`)) : [];
    const links = files.map((file) => make("a", { href: `${address}/${file}${whose}`, download: `${batch}-${index}-${file}` }, { "mask.png": "PNG", "mask.json": "COCO", "segmentation.dcm": "DICOM SEG", "report.dcm": "SR" }[file]));
    const show = one.mask ? make("label", {}, make("input", { type: "checkbox", onchange: ({ target }) => outline(one, COLOURS[n % COLOURS.length], target.checked) }), make("span", { class: `dot dot-${n % COLOURS.length}` }), "outline") : null;
    const others = reader !== person && adjudicates ? [make("button", { type: "button", onclick: () => { editor.choose(LESION); editor.become(Mask.ofCounts(one.mask?.counts ?? [viewer.size[0] * viewer.size[1]], ...viewer.size)); fill({ diagnosis: one.diagnosis, unsure: one.unsure, comment: byId("comment").value, seen: one.features.map((feature) => feature.term) }); } }, "Begin from this"), make("button", { type: "button", onclick: () => returned(reader) }, "Return")] : [];
    return make("li", {}, make("b", { dir: "auto" }, reader), ` ${one.kind === "adjudicate" ? "adjudicated" : `version ${one.version}`}: ${one.diagnosis.map(words).join(", ") || "no diagnosis"}${one.unsure ? ", not sure" : ""}`, one.comment ? make("p", { class: "soft", dir: "auto" }, one.comment) : null, make("p", { class: "row" }, show, ...others, ...links, ...sends));
  });
  const hidden = known.hidden && !queue ? make("p", { class: "soft" }, `${count(known.hidden)} other${known.hidden > 1 ? "s have" : " has"} decided; you see it once you have.`) : null;
  byId("history").replaceChildren(...(rows.length || hidden ? [make("h2", {}, "Decisions")] : []), make("ul", { class: "decided" }, ...rows), hidden ?? "");
}

async function sent(address, to) {
  try {
    const taken = await json(address, { method: "POST", json: { to } });
    say(`${to} has taken ${taken.kinds.map(words).join(" and ")}`);
  } catch (error) {
    complain(error);
  }
}

function outline(one, colour, on) {
  const [width, height] = viewer.size, name = `of ${one.reader}`;
  if (on) viewer.overs.set(name, { layer: null, lines: edges(Mask.ofCounts(one.mask.counts, width, height)), colour, opacity: 1, on: true });
  else viewer.overs.delete(name);
  viewer.draw();
}

// A mask's outline as short lines for the viewer, a pixel's side each.
function edges({ width, height, data }) {
  const lines = [];
  const at = (x, y) => x >= 0 && y >= 0 && x < width && y < height && data[y * width + x] === 1;
  for (let here_ = data.indexOf(1), end = data.lastIndexOf(1); here_ >= 0 && here_ <= end; here_++) {
    if (!data[here_]) continue;
    const x = here_ % width, y = (here_ - x) / width;
    if (!at(x - 1, y)) lines.push([[x - 0.5, y - 0.5], [x - 0.5, y + 0.5]]);
    if (!at(x + 1, y)) lines.push([[x + 0.5, y - 0.5], [x + 0.5, y + 0.5]]);
    if (!at(x, y - 1)) lines.push([[x - 0.5, y - 0.5], [x + 0.5, y - 0.5]]);
    if (!at(x, y + 1)) lines.push([[x - 0.5, y + 0.5], [x + 0.5, y + 0.5]]);
  }
  return lines;
}

async function returned(reader) {
  const comment = byId("comment").value.trim();
  if (!comment) return say("Say in the comment what is to be corrected", true);
  try {
    await ask(`${here}/decisions`, { method: "POST", json: decision("return", reader) });
    await drafts.drop(draftName).catch(() => {});
    dirty = false;
    say(`Returned to ${reader}`);
    known = await json(`${here}/decisions?open=true`);
    history_();
  } catch (error) {
    complain(error);
  }
}

// The queue.
let touched = Date.now();
async function hold(first = false) {
  try {
    const found = await json(`/v1/queues/${queue}/leases`, { method: "POST", json: { batch, index } });
    if (first) handed = found;
    drop("lease");
  } catch (error) {
    if (error.reason !== "not_leased") { if (first) throw error; return; }
    if (first) handed = { blind: false, blank: false, returned: null, ...Object.fromEntries(Object.entries(await stand()).filter(([name]) => name === "blind")) };
    if (!dirty && last(person)) return;
    note("lease", "Others have this image by now, or you have decided it. What you draw can be kept anyway.");
  }
}

const stand = async () => (await json(`/v1/queues?name=${encodeURIComponent(queue)}`))[0];

async function onward(passing = false) {
  if (passing) await ask(`/v1/queues/${queue}/leases/${batch}/${index}`, { method: "DELETE" });
  const next = await json(`/v1/queues/${queue}/next`, { method: "POST", json: passing ? { after: { batch, index } } : {} });
  location.href = next.none_left ? `/review?none=${encodeURIComponent(queue)}` : `/correct/${next.case.batch}/${next.case.index}?queue=${encodeURIComponent(queue)}`;
}

function ready() {
  byId("skip").hidden = !queue;
  byId("drawing").focus({ preventScroll: true });
  window.ready = true;
  drafts.tidy().catch(() => {});
  if (!queue) return;
  setInterval(() => { if (Date.now() - touched < IDLE) hold().catch(() => {}); }, HELD_EVERY);
  for (const kind of ["pointerdown", "keydown"]) document.addEventListener(kind, () => { if (Date.now() - touched > HELD_EVERY) hold().catch(() => {}); touched = Date.now(); });
}

// Tools.
function showTools() {
  for (const button of document.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === editor.tool));
  byId("size").value = String(editor.size);
  byId("size-shown").textContent = `${editor.size} px`;
  byId("undo").disabled = !editor.done.length;
  byId("redo").disabled = !editor.undone.length;
  byId("hide").setAttribute("aria-pressed", String(editor.hidden));
  const radio = editor.active && byId("layers").querySelector(`input[name=layer][value=${editor.active}]`);
  if (radio) radio.checked = true;
}

const by = () => Math.max(1, Math.min(100, Math.round(Number(byId("by").value) || 1)));
const hide = () => { editor.hidden = !editor.hidden; editor.draw(); showTools(); };
for (const button of document.querySelectorAll("[data-tool]")) button.addEventListener("click", () => editor.use(button.dataset.tool));
byId("size").addEventListener("input", ({ target }) => editor.resize(Number(target.value)));
for (const [id, work] of Object.entries({
  grow: () => editor.grow(by()), shrink: () => editor.grow(-by()), undo: () => editor.undo(), redo: () => editor.redo(), hide,
  closer: () => viewer.zoom(1.5), farther: () => viewer.zoom(1 / 1.5), fit: () => viewer.fit(), native: () => viewer.native(),
  base: () => base(viewer.base === "original" ? "purified" : "original").catch(complain),
  clear: () => { editor.become(new Mask(...viewer.size)); handed.blank = true; },
  "from-model": async () => { try { editor.become(Mask.ofCounts((await json(`${here}/masks/model`)).counts, ...viewer.size)); handed.blank = false; } catch (error) { complain(error); } },
  skip: () => surely(() => onward(true)).catch(complain),
})) byId(id).addEventListener("click", work);
byId("file").addEventListener("change", async ({ target }) => {
  try {
    const [file] = target.files;
    if (file) editor.become(Mask.ofCounts((await json(`${here}/masks`, { method: "POST", body: file })).counts, ...viewer.size));
  } catch (error) {
    complain(error);
  }
  target.value = "";
});
byId("decision").addEventListener("submit", (event) => { event.preventDefault(); keep().catch(complain); });
window.addEventListener("pagehide", () => dirty && !keeping && draft().catch(() => {}));

document.addEventListener("keydown", (event) => {
  const command = event.ctrlKey || event.metaKey;
  if (command && (event.key === "Enter" || event.key === "s")) { event.preventDefault(); return keep().catch(complain); }
  if (typing(event) || event.altKey || !window.ready) return;
  if (command && !["z", "y", "Z"].includes(event.key)) return;
  const inDrawing = event.target === editor.canvas || event.target === document.body;
  const step = event.shiftKey ? 1 : Math.max(1, Math.round(8 / viewer.view.zoom));
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  if (inDrawing && moves[event.key]) { event.preventDefault(); return editor.move(...moves[event.key]); }
  if (inDrawing && event.key === " ") { event.preventDefault(); return editor.press(); }
  if (inDrawing && event.key === "Enter") { event.preventDefault(); return editor.close(); }
  if (event.target.matches("input[type=radio], input[type=range]") && event.key.startsWith("Arrow")) return;
  const keys = {
    b: () => editor.use("brush"), e: () => editor.use("eraser"), p: () => editor.use("polygon"), x: () => editor.use("cut"), m: () => editor.use("hand"),
    "[": () => editor.larger(-1), "]": () => editor.larger(1), g: () => editor.grow(by()), s: () => editor.grow(-by()),
    z: () => (event.shiftKey ? editor.redo() : editor.undo()), Z: () => editor.redo(), y: () => editor.redo(), h: hide, o: () => !byId("base").hidden && byId("base").click(),
    "+": () => viewer.zoom(1.5), "-": () => viewer.zoom(1 / 1.5), 0: () => viewer.fit(), n: () => viewer.native(), Escape: () => editor.cancel(),
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
});

load().catch((error) => { note("failed", error.message); complain(error); });
