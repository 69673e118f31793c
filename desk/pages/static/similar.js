// Cases like one image: both pictures with the regions that match, and what each of them counted.
import { complain, count, json, make, typing, words } from "./api.js";

const byId = (id) => document.getElementById(id);
const place = byId("similar"), form = byId("refine");
const batch = place.dataset.batch, index = Number(place.dataset.index);
const SVG = "http://www.w3.org/2000/svg";
const TILE = 224;
const COLOURS = 5;
let chosen = [];

function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// A tile of the preview, and where its pixels are in the image.
function picture(batch, index, size, label, ...over) {
  const preview = draw("image", { href: `/v1/batches/${batch}/images/${index}/preview.jpg`, width: 4 * TILE, height: TILE, preserveAspectRatio: "none" });
  return draw("svg", { viewBox: `0 0 ${TILE} ${TILE}`, class: "matched", role: "group", "aria-label": label }, preview, ...over);
}

function place_of(box, [width, height]) {
  const scale = TILE / Math.max(width, height);
  const x = (TILE - width * scale) / 2, y = (TILE - height * scale) / 2;
  return { x: x + box.left * scale, y: y + box.top * scale, width: (box.right - box.left) * scale, height: (box.bottom - box.top) * scale };
}

function region(box, size, at, text) {
  const where = place_of(box, size);
  const name = draw("text", { x: where.x + 2, y: where.y + 11, class: `region-name region-${at % COLOURS}` }, text);
  return [draw("rect", { ...where, class: `region region-${at % COLOURS}` }), name];
}

function question() {
  const params = new URLSearchParams([...new FormData(form)].filter(([, value]) => value !== ""));
  for (const number of chosen) params.append("region", number);
  return params;
}

async function look() {
  const params = question();
  history.replaceState(null, "", `${location.pathname}${params.size ? `?${params}` : ""}`);
  const cases = byId("cases");
  cases.setAttribute("aria-busy", "true");
  try {
    show(await json(`/v1/batches/${batch}/images/${index}/similar?${params}`));
  } catch (error) {
    byId("why").hidden = false;
    byId("why").textContent = error.message;
    cases.replaceChildren();
  }
  cases.removeAttribute("aria-busy");
}

function show(answer) {
  const { image } = answer;
  byId("asked").replaceChildren(asked(image));
  byId("probabilities").replaceChildren(...Object.entries(image.probabilities).sort((a, b) => b[1] - a[1]).flatMap(([label, p]) => [make("dt", {}, words(label)), make("dd", {}, p.toFixed(3))]));
  byId("chosen").textContent = chosen.length ? `Only region ${chosen.join(", ")} and the whole lesion count.` : "All regions count. Choose some, and only these do.";
  const { version, model, cases, not_held_yet: missing } = answer.index;
  byId("index").textContent = `Index ${version === null ? "" : `version ${version} `}of ${model.name} ${model.version}: ${count(cases)} cases; not held yet: ${count(missing)} images.`;
  byId("why").hidden = answer.sure;
  byId("why").textContent = answer.why ? `${answer.why[0].toUpperCase()}${answer.why.slice(1)}.` : "";
  byId("cases").replaceChildren(...answer.cases.map((one) => shown(one, image)));
}

// The image's own regions, to choose from.
function asked(image) {
  const regions = image.regions.map(({ region: number, box, weight }) => {
    const turn = () => {
      chosen = chosen.includes(number) ? chosen.filter((one) => one !== number) : [...chosen, number].sort((a, b) => a - b);
      look().then(() => document.querySelector(`[data-region="${number}"]`)?.focus()).catch(complain);
    };
    const key = (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); turn(); } };
    const where = place_of(box, image.size);
    // Regions overlap by half: a knob in the middle of each.
    return draw("circle", { cx: where.x + where.width / 2, cy: where.y + where.height / 2, r: 3 + 40 * weight, class: "knob", "data-region": number, tabindex: 0, role: "checkbox", "aria-checked": String(chosen.includes(number)), "aria-label": `Region ${number}, weight ${weight.toFixed(2)}`, onclick: turn, onkeydown: key });
  });
  const boxes = image.regions.filter(({ region: number }) => chosen.includes(number)).flatMap(({ region: number, box }, at) => region(box, image.size, at, String(number)));
  return picture(batch, index, image.size, "The image, its regions to choose from", ...boxes, ...regions);
}

function shown(one, image) {
  const ours = one.matches.flatMap((match, at) => region(match.box, image.size, at, String(match.region)));
  const theirs = one.matches.flatMap((match, at) => region(match.other, one.size, at, String(match.region)));
  const known = one.facts.diagnosis;
  const facts = [known ? `${words(known)}, known` : `${words(one.label ?? "no class")}, most probable${one.probability === null ? "" : ` (${one.probability.toFixed(2)})`}`, one.facts.site, one.facts.taken].filter(Boolean).join(" · ");
  const counted = one.matches.map((match) => make("li", {}, `region ${match.region}: ${match.counted.toFixed(3)} of likeness ${match.likeness.toFixed(2)}`));
  const rest = one.similarity - one.whole_counted - one.matches.reduce((sum, match) => sum + match.counted, 0);
  return make("li", { class: "card case" },
    make("div", { class: "pair" }, picture(batch, index, image.size, "The image, regions that match", ...ours), picture(one.batch, one.index, one.size, "The case, regions that match", ...theirs)),
    make("div", {}, make("h3", {}, make("a", { dir: "auto", href: `/image/${one.batch}/${one.index}` }, one.name)),
      make("p", {}, make("strong", {}, `Similarity ${one.similarity.toFixed(2)}`), ` · ${facts}`),
      make("ul", { class: "plain-list soft" }, make("li", {}, `whole lesion: ${one.whole_counted.toFixed(3)}`), ...counted, make("li", {}, `other regions: ${rest.toFixed(3)}`)),
      make("a", { class: "button", href: `/similar/${one.batch}/${one.index}` }, "Cases like this one")));
}

form.addEventListener("submit", (event) => { event.preventDefault(); look().catch(complain); });
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || typing(event)) return;
  if (chosen.length) { chosen = []; look().catch(complain); } else location.href = `/image/${batch}/${index}`;
});
const before = new URLSearchParams(location.search);
for (const [name, value] of before) {
  if (name === "region") { if (/^\d+$/.test(value)) chosen.push(Number(value)); }
  else if (name === "same") form.elements.same.checked = value === "true";
  else if (form.elements[name]) form.elements[name].value = value;
}
look().catch(complain);
