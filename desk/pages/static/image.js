// One image: its picture in layers, and what is known of it.
import { ask, complain, count, json, make, say, typing, words } from "./api.js";
import { Viewer } from "./viewer.js";

const byId = (id) => document.getElementById(id);
const picture = byId("picture");
const batch = picture.dataset.batch, index = Number(picture.dataset.index);
const here = `/v1/batches/${batch}/images/${index}`;
const BASES = ["original", "purified", "enhanced"];
const context = new URLSearchParams(location.search); // the gallery's query, and the view

const viewer = new Viewer(byId("canvas"), { onview: (view) => { showScale(view); rememberSoon(); }, onproblem: complain });
window.viewer = viewer; // tests look whether all tiles are there

function showScale({ zoom }) {
  byId("scale").textContent = `${Math.round(zoom * viewer.ratio * 100)} %`;
}

let remembering = null;
function rememberSoon() {
  clearTimeout(remembering);
  remembering = setTimeout(() => {
    const params = new URLSearchParams(context);
    for (const name of ["x", "y", "z", "base", "other", "split", "layers"]) params.delete(name);
    const { x, y, zoom } = viewer.view;
    if (Math.abs(zoom - viewer.whole) > 1e-6) { params.set("x", x.toFixed(1)); params.set("y", y.toFixed(1)); params.set("z", zoom.toPrecision(4)); }
    if (viewer.base !== "original") params.set("base", viewer.base);
    if (viewer.other) { params.set("other", viewer.other); params.set("split", viewer.split.toFixed(2)); }
    const on = viewer.bare ? ["none"] : [...viewer.overs].filter(([, over]) => over.on).map(([name, over]) => `${name}:${over.opacity}`);
    if (on.join() !== "outline:1") params.set("layers", on.join() || "none");
    history.replaceState(null, "", `${location.pathname}${params.size ? `?${params}` : ""}`);
  }, 300);
}

async function load() {
  const image = await json(here);
  if (image.outcome === "failed") return failed(image.failure);
  const { result, layers, earlier } = image;
  viewer.size = [result.source.width, result.source.height];
  viewer.spacing = result.source.pixel_spacing_mm?.[1] ?? null;
  about(result, image.files);
  // Once, before layers come: where a person looks then, they stay.
  viewer.fit();
  if (context.has("z")) viewer.look({ x: Number(context.get("x")), y: Number(context.get("y")), zoom: Number(context.get("z")) });
  const base = layers.includes(context.get("base")) ? context.get("base") : "original";
  await useBase(base).catch(async (error) => {
    complain(error);
    if (layers.includes("purified")) await useBase("purified");
  });
  bases(layers.filter((name) => BASES.includes(name)));
  await overs(layers, earlier);
  if (layers.includes(context.get("other"))) await compare(context.get("other"), Number(context.get("split")) || 0.5);
  neighbours();
}

async function layer(name) {
  return { ...(await json(`${here}/layers/${name}`)), address: `${here}/layers/${name}` };
}

async function useBase(name) {
  if (!viewer.bases.has(name)) viewer.bases.set(name, await layer(name));
  viewer.base = name;
  for (const button of byId("bases").children) button.setAttribute("aria-pressed", String(button.dataset.base === name));
  byId("canvas").setAttribute("aria-label", `Image ${index}, ${name}; keys move and zoom it`);
  viewer.draw();
  rememberSoon();
}

function bases(there) {
  byId("bases").replaceChildren(...there.map((name) => make("button", { type: "button", "data-base": name, "aria-pressed": String(name === viewer.base), onclick: () => useBase(name).catch(complain) }, name)));
  byId("other").replaceChildren(...there.map((name) => make("option", {}, name)));
  byId("compare").disabled = there.length < 2;
}

async function overs(layers, earlier) {
  const asked = context.get("layers");
  const wanted = new Map((asked ?? "outline:1").split(",").map((one) => one.split(":")));
  const there = ["outline", ...(earlier ? ["earlier outline"] : []), ...(context.has("truth") ? ["true outline"] : []), ...layers.filter((name) => !BASES.includes(name))];
  for (const name of there) {
    const on = wanted.has(name);
    const over = { opacity: Number(wanted.get(name)) || (name.includes("outline") || name === "occlusions" ? 1 : 0.7), on: false };
    if (name === "earlier outline") Object.assign(over, { colour: "#ffb300", address: `/v1/batches/${earlier.batch}/images/${earlier.index}/outline` });
    viewer.overs.set(name, over);
    if (name === "true outline") Object.assign(over, { colour: "#40c4ff", address: `${here}/truth?${new URLSearchParams({ prefix: context.get("truth") })}` });
    const box = make("input", { type: "checkbox", onchange: () => { viewer.bare = false; turn(name, box.checked).catch(complain); } });
    const strength = make("input", { type: "range", min: 5, max: 100, value: Math.round(over.opacity * 100), "aria-label": `Opacity of ${name}`, oninput: () => { over.opacity = strength.value / 100; viewer.draw(); rememberSoon(); } });
    byId("layers").append(make("span", { class: "over" }, make("label", {}, box, words(name)), strength));
    over.box = box;
    if (on) await turn(name, true).catch((error) => { if (error.status !== 404) complain(error); });
  }
}

async function turn(name, on) {
  const over = viewer.overs.get(name);
  over.box.checked = on && !viewer.bare;
  if (on && !over.lines && !over.layer) {
    if (name.endsWith("outline")) over.lines = await json(over.address ?? `${here}/outline`);
    else over.layer = await layer(name);
  }
  over.on = on;
  viewer.draw();
  rememberSoon();
}

async function compare(name, split = viewer.split) {
  if (name && !viewer.bases.has(name)) viewer.bases.set(name, await layer(name));
  viewer.other = name;
  viewer.split = split;
  byId("compare").checked = Boolean(name);
  byId("other").hidden = byId("split").hidden = !name;
  if (name) { byId("other").value = name; byId("split").value = String(Math.round(split * 100)); }
  viewer.draw();
  rememberSoon();
}

const another = () => [...byId("other").options].map((one) => one.value).find((name) => name !== viewer.base) ?? null;

function failed(record) {
  byId("name").textContent = record.name;
  byId("viewer").replaceChildren(make("p", { class: "empty failure" }, `This image failed: ${words(record.reason)}.`));
  document.querySelector(".tools").hidden = true;
  byId("about").replaceChildren(make("p", { class: "bad" }, record.message), pairs({ reason: record.reason, attempts: record.attempts, failed: new Date(record.failed).toLocaleString(), source: record.source ?? "–" }));
  neighbours();
}

function pairs(values) {
  return make("dl", { class: "pairs" }, ...Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "").flatMap(([name, value]) => [make("dt", {}, name), make("dd", { dir: "auto" }, value instanceof Node ? value : String(value))]));
}

function about(result, files) {
  const { stages, source } = result;
  byId("name").textContent = result.name;
  const shown = [];
  if (result.flags.length) shown.push(make("p", { class: "row" }, ...result.flags.map((flag) => make("span", { class: "flag" }, words(flag)))));
  shown.push(...diagnosis(stages.classify), ...assessed(result), ...measures(stages.segment, source));
  if (stages.classify?.output.label) shown.push(make("p", {}, make("a", { class: "button", href: `/similar/${batch}/${index}` }, "Similar cases")));
  shown.push(make("section", {}, make("h2", {}, "Image"), pairs({ size: `${count(source.width)} × ${count(source.height)}`, type: source.media_type, bytes: count(source.bytes), spacing: source.pixel_spacing_mm ? `${source.pixel_spacing_mm.map((mm) => mm.toPrecision(3)).join(" × ")} mm` : "not stated: measures are in pixels", frame: source.frame, notes: source.notes.map(words).join(", "), occluded: stages.purify ? `${(100 * stages.purify.output.occluded_fraction).toFixed(1)} %` : null, enhanced: stages.enhance ? `${words(stages.enhance.output.method)}${stages.enhance.output.scale ? ` × ${stages.enhance.output.scale.toPrecision(3)}` : ""}` : null })));
  const links = files.map((name) => make("a", { class: "button", href: `${here}/files/${name}`, download: `${batch}-${index}-${name}` }, name));
  links.push(make("a", { class: "button", href: `${here}/source` }, "source"));
  for (const kind of Object.keys(result.dicom)) links.push(make("a", { class: "button", href: `${here}/dicom/${kind}` }, `DICOM ${kind}`));
  if (result.dicom.report) links.push(make("a", { class: "button", href: `/image/${batch}/${index}/report` }, "Report to read"));
  shown.push(make("section", {}, make("h2", {}, "Files"), make("p", { class: "row" }, ...links)));
  shown.push(make("div", { id: "others" }), provenance(result));
  byId("about").replaceChildren(...shown);
  if (stages.classify?.output.label) operating(stages.classify).catch(complain);
  others().catch(complain);
}

function diagnosis(stage) {
  if (!stage) return [];
  const { probabilities, label, distance } = stage.output;
  if (!label) return [make("section", {}, make("h2", {}, "Classes"), make("p", { class: "note" }, `No dermoscopic image, as far as the model can tell (distance ${distance?.toFixed(2)}): no class is given.`))];
  const bars = Object.entries(probabilities).sort((a, b) => b[1] - a[1]).flatMap(([name, p]) => [make("span", {}, words(name)), make("meter", { min: 0, max: 1, value: p, "aria-label": words(name) }), make("span", { class: "n" }, p.toFixed(3))]);
  return [make("section", {}, make("h2", {}, "Probabilities"), make("div", { class: "bars" }, ...bars), make("p", { class: "soft" }, "Of this model, for research and triage support; no diagnosis. ", make("a", { href: `/models#${stage.model.name}` }, "The model's card")), make("div", { id: "operating" }))];
}

// What the probabilities mean at the model's operating points, and which labels they leave open.
function assessed({ risk, possible }) {
  const lines = {};
  if (risk) {
    lines[`Risk of ${words(risk.of)}`] = risk.level + (risk.reached.length ? `: called from the operating point of ${Math.round(100 * risk.reached[0])} % sensitivity on` : "");
    lines.Signs = risk.signs.map(words).join(", ");
    lines.Cautions = risk.cautions.map(words).join(", ");
  }
  if (possible) lines[`Possible at ${Math.round(100 * possible.coverage)} %`] = possible.labels.map(words).join(", ") || "none of the labels";
  return Object.keys(lines).length ? [make("section", {}, make("h2", {}, "Risk"), pairs(lines), make("p", { class: "soft" }, "At operating points that were set for this model; for triage support, no diagnosis."))] : [];
}

// What the model's card says of its probabilities: calibration, and where thresholds may lie.
async function operating(stage) {
  const place = byId("operating");
  if (!place) return;
  const { name, version } = stage.model;
  const model = await json(`/v1/models/${encodeURIComponent(name)}`);
  const value = (figure) => model.figures[figure] ?? "–";
  if (!model.card) return place.replaceChildren(make("p", { class: "soft" }, `${name} has no card here: how well its probabilities hold is not known.`));
  const labels = Object.keys(stage.output.probabilities);
  const figures = { auc: "AUC", sensitivity: "Sensitivity at 0.5", specificity: "Specificity at 0.5", ...Object.fromEntries(["82", "89", "95"].map((share) => [`specificity at ${share}`, `Specificity where ${share} % are found`])) };
  const rows = Object.entries(figures).map(([figure, title]) => make("tr", {}, make("th", { scope: "row" }, title), ...labels.map((label) => make("td", { class: "n" }, value(`${figure} ${words(label)}`).split(" ")[0]))));
  const table = make("table", {}, make("thead", {}, make("tr", {}, make("td"), ...labels.map((label) => make("th", { class: "n", scope: "col" }, words(label))))), make("tbody", {}, ...rows));
  const error = model.figures["expected calibration error"];
  place.replaceChildren(make("details", {}, make("summary", {}, "Calibration and operating points"),
    model.card_version !== version && make("p", { class: "note" }, `The card is of version ${model.card_version}, and this image was processed by version ${version}.`) || null,
    make("p", {}, error ? `Expected calibration error ${error}: so far are probabilities from the shares of right answers, in the mean, on validation data.` : "The card states no calibration error."),
    make("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": "Operating points" }, table),
    make("p", { class: "soft" }, "Of the model's card, on validation data; at 0.5: where a probability of one half calls the class.")));
}

function measures(stage, source) {
  if (!stage) return [];
  const lesion = stage.output.lesion;
  if (!lesion) return [make("section", {}, make("h2", {}, "Lesion"), make("p", {}, "None was found."))];
  const px = (value) => `${count(Math.round(value))} px`;
  const found = {
    area: lesion.area_mm2 === null ? `${px(lesion.area_px)}, ${(100 * lesion.area_fraction).toFixed(1)} % of the image` : `${lesion.area_mm2.toFixed(1)} mm², ${(100 * lesion.area_fraction).toFixed(1)} % of the image`,
    "A: asymmetry": lesion.asymmetry.toFixed(3),
    "B: border irregularity": lesion.border_irregularity.toFixed(2),
    "C: colours of six": lesion.colour.colours,
    "D: diameter": lesion.diameter_mm === null ? px(lesion.diameter_px) : `${lesion.diameter_mm.toFixed(1)} mm`,
    perimeter: lesion.perimeter_mm === null ? px(lesion.perimeter_px) : `${lesion.perimeter_mm.toFixed(1)} mm`,
    "lesions found": lesion.components,
    confidence: stage.output.confidence.toFixed(3),
  };
  const shown = [make("h2", {}, "Measures"), pairs(found)];
  if (stage.output.touches_frame) shown.push(make("p", { class: "note" }, "The lesion reaches the edge: part of it may be outside, and measures are too small."));
  if (source.pixel_aspect) shown.push(make("p", { class: "note" }, "Pixels of this image are not square."));
  return [make("section", {}, ...shown)];
}

// The same person's other pictures, where images are called by pseudonyms.
async function others() {
  const { pseudonym, pictures } = await json(`${here}/others`);
  if (!pseudonym) return;
  const card = (one) => make("li", {}, make("a", { href: `/image/${one.batch}/${one.index}` }, one.outcome === "done" ? make("span", { class: "shot" }, make("img", { alt: "", loading: "lazy", src: `/v1/batches/${one.batch}/images/${one.index}/preview.jpg` })) : make("span", { class: "shot" }, "failed"), make("span", {}, one.taken ?? `no date; processed ${String(one.finished ?? "").slice(0, 10)}`), make("span", { class: "soft" }, one.label ? `${words(one.label)} ${one.probability.toFixed(2)}` : words(one.reason ?? "no class"))));
  byId("others").replaceChildren(make("section", {}, make("h2", {}, "Other pictures of the same person"), make("p", { class: "soft" }, "Pseudonym ", make("a", { href: `/gallery?batch=${batch}&q=${encodeURIComponent(`pseudonym:"${pseudonym}"`)}` }, pseudonym)), pictures.length ? make("ul", { class: "others" }, ...pictures.map(card)) : make("p", {}, "There are none.")));
}

function provenance(result) {
  const rows = Object.values(result.stages).map((stage) => make("tr", {}, make("td", {}, stage.stage), make("td", {}, `${stage.model.name}@${stage.model.version}`), make("td", { class: "n" }, result.cached.includes(stage.stage) ? "reused" : `${(result.seconds[stage.stage] ?? 0).toFixed(2)} s`)));
  const table = make("table", {}, make("thead", {}, make("tr", {}, make("th", {}, "Stage"), make("th", {}, "Model"), make("th", { class: "n" }, "Time"))), make("tbody", {}, ...rows));
  return make("details", {}, make("summary", {}, "Provenance"), table, pairs({ batch: result.batch, index: result.index, source: result.source.uri, sha256: make("code", {}, result.source.sha256), finished: new Date(result.finished).toLocaleString(), worker: result.worker, attempt: result.attempt, software: result.software, sent: result.sent ? `to ${result.sent.to}` : null, "no DICOM": result.no_dicom }));
}

// The images before and after, of the gallery's query.
async function neighbours() {
  const query = new URLSearchParams([...context].filter(([name]) => ["batch", "q", "sort"].includes(name)));
  if (!query.has("batch")) query.append("batch", batch);
  byId("back").href = `/gallery?${query}&at=${Math.max(0, query.getAll("batch").indexOf(batch))}:${index}`;
  try {
    const order = new Uint32Array(await (await ask(`/v1/results/order?${query}`)).arrayBuffer());
    const names = query.getAll("batch"), mine = names.indexOf(batch);
    let at = -1;
    for (let n = 0; n < order.length; n += 2) if (order[n + 1] === index && order[n] === mine) at = n / 2;
    byId("where").textContent = at < 0 ? "" : `${count(at + 1)} of ${count(order.length / 2)}`;
    const go = (to) => () => {
      const kept = new URLSearchParams(context);
      for (const name of ["x", "y", "z"]) kept.delete(name);
      location.href = `/image/${names[order[2 * to]]}/${order[2 * to + 1]}?${kept}`;
    };
    for (const [id, to] of [["previous", at - 1], ["next", at + 1]]) {
      byId(id).disabled = at < 0 || to < 0 || to >= order.length / 2;
      if (!byId(id).disabled) byId(id).onclick = go(to);
    }
  } catch (error) {
    complain(error);
  }
}

let tags = "";
async function tag(digit) {
  const has = tags.includes(digit);
  await ask(`/v1/sets/tag-${digit}`, { method: "PATCH", json: { [has ? "remove" : "add"]: { [batch]: [index] } } });
  tags = has ? tags.replace(digit, "") : tags + digit;
  say(has ? `Tag ${digit} taken away` : `Tagged ${digit}`);
}
json("/v1/sets").then((sets) => { tags = sets.filter((one) => (one.images[batch] ?? []).includes(index)).map((one) => one.name.match(/^tag-(\d)$/)?.[1] ?? "").join(""); }, () => {});

byId("compare").addEventListener("change", (event) => compare(event.target.checked ? another() : null).catch(complain));
byId("other").addEventListener("change", (event) => compare(event.target.value).catch(complain));
byId("split").addEventListener("input", (event) => { viewer.split = event.target.value / 100; viewer.draw(); rememberSoon(); });
byId("closer").addEventListener("click", () => viewer.zoom(1.5));
byId("farther").addEventListener("click", () => viewer.zoom(1 / 1.5));
byId("fit").addEventListener("click", () => viewer.fit());
byId("native").addEventListener("click", () => viewer.native());

document.addEventListener("keydown", (event) => {
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=range]") && event.key.startsWith("Arrow")) return;
  const step = 60;
  const keys = {
    ArrowLeft: () => viewer.pan(step, 0), ArrowRight: () => viewer.pan(-step, 0), ArrowUp: () => viewer.pan(0, step), ArrowDown: () => viewer.pan(0, -step),
    "+": () => viewer.zoom(1.5), "-": () => viewer.zoom(1 / 1.5), 0: () => viewer.fit(), n: () => viewer.native(),
    o: () => { const there = [...byId("bases").children].map((one) => one.dataset.base); useBase(there[(there.indexOf(viewer.base) + 1) % there.length]).catch(complain); },
    l: () => { viewer.bare = !viewer.bare; for (const over of viewer.overs.values()) over.box.checked = !viewer.bare && over.on; viewer.draw(); rememberSoon(); },
    c: () => compare(viewer.other ? null : another()).catch(complain),
    "[": () => { viewer.split = Math.max(0, viewer.split - 0.05); byId("split").value = String(viewer.split * 100); viewer.draw(); },
    "]": () => { viewer.split = Math.min(1, viewer.split + 0.05); byId("split").value = String(viewer.split * 100); viewer.draw(); },
    j: () => byId("next").click(), k: () => byId("previous").click(),
    Escape: () => { location.href = byId("back").href; },
  };
  if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  else if (/^[1-9]$/.test(event.key)) tag(event.key).catch(complain);
});

load().catch((error) => { byId("about").replaceChildren(make("p", { class: "bad" }, error.message)); complain(error); });
