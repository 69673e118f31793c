// Batches as they stand, steering, and new ones.
import { ask, complain, count, json, make, say, typing, words } from "./api.js";
import { Uploads } from "./uploads.js";

const list = document.getElementById("batches");
const AGAIN = 5000; // milliseconds until progress is asked for again

const seconds = (s) => (s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`);

function steer(name, what, sure) {
  return async () => {
    if (sure && !confirm(sure)) return;
    try {
      const answer = await json(`/v1/batches/${name}/${what}`, { method: "POST" });
      if (what.startsWith("retry")) say(`${count(answer.images)} images are tried again`);
      draw(what.startsWith("retry") ? await json(`/v1/batches/${name}`) : answer);
    } catch (error) {
      complain(error);
    }
  };
}

function actions(one) {
  const found = [make("a", { class: "button", href: `/gallery?batch=${one.name}` }, "Results")];
  const steers = "steers" in list.dataset;
  const open = steers && one.closed === null && one.state !== "planning" && one.state !== "cancelled";
  const button = (text, what, sure) => make("button", { type: "button", "aria-label": `${text} ${one.name}`, onclick: steer(one.name, what, sure) }, text);
  if (open && one.state === "open") found.push(button("Pause", "pause"));
  if (open && one.state === "paused") found.push(button("Resume", "resume"));
  if (open) found.push(button("Cancel", "cancel", `End batch ${one.name}? What has a result stays; the rest is not run.`));
  if (steers && one.failed && one.state !== "cancelled") found.push(button("Retry failed", "retry"));
  if (one.closed !== null) found.push(make("a", { class: "button", href: `/v1/batches/${one.name}/files/report.html` }, "Report"));
  return make("div", { class: "row" }, ...found);
}

function draw(one) {
  const place = [...list.children].find((item) => item.dataset.batch === one.name) ?? make("li", { class: "card batch", "data-batch": one.name });
  if (!place.isConnected) list.prepend(place);
  document.getElementById("none").hidden = true;
  const text = JSON.stringify(one);
  if (place.dataset.drawn === text) return;
  const focused = place.contains(document.activeElement) ? document.activeElement.textContent : null;
  place.dataset.drawn = text;
  place.dataset.standing = text;
  const kind = one.closed !== null && one.state === "finished" ? "good" : one.state === "cancelled" || one.state === "paused" ? "warn" : "soft";
  const share = one.images ? (one.done + one.failed) / one.images : 0;
  const figures = [`${count(one.done)} of ${count(one.images)} done`];
  if (one.failed) figures.push(`${count(one.failed)} failed`);
  if (one.in_flight) figures.push(`${count(one.in_flight)} in work`);
  if (one.rate) figures.push(`${one.rate.toFixed(one.rate < 10 ? 1 : 0)} images/s`);
  if (one.seconds_left !== null) figures.push(`${seconds(one.seconds_left)} left`);
  else if (one.state === "open" && !one.growing && one.done + one.failed < one.images) figures.push("time left unknown");
  if (one.closed) figures.push(`closed ${new Date(one.closed).toLocaleString()}`);
  place.replaceChildren(...[
    make("h3", { dir: "auto" }, make("a", { href: `/gallery?batch=${one.name}` }, one.name), make("span", { class: `state ${kind}` }, one.growing ? "growing" : one.closed ? one.state : one.state === "finished" ? "closing" : one.state)),
    actions(one),
    make("div", { class: "meter" }, make("progress", { max: 1, value: share, "aria-label": `Progress of ${one.name}` }), make("div", { class: "soft" }, figures.join(" · ")), one.why ? make("div", { class: "warn" }, one.why) : null),
    Object.keys(one.reasons).length ? make("ul", { class: "reasons", "aria-label": "Failures by reason" }, ...Object.entries(one.reasons).map(([reason, n]) => make("li", {}, make("a", { href: `/gallery?batch=${one.name}&q=${encodeURIComponent(`reason:${reason}`)}` }, words(reason)), ` ${count(n)}`))) : null,
  ].filter(Boolean));
  if (focused) [...place.querySelectorAll("a, button")].find((item) => item.textContent === focused)?.focus();
}

function follow() {
  const events = new EventSource("/v1/events");
  // Where it is refused, a browser asks no more: a session has ended, and another one may begin.
  events.onerror = () => {
    if (events.readyState === EventSource.CLOSED) setTimeout(() => ask("/v1/session").catch(() => {}).finally(follow), AGAIN);
  };
  events.addEventListener("open_batches", (event) => {
    const open = JSON.parse(event.data);
    const names = new Set(open.map((one) => one.name));
    open.forEach(draw);
    for (const item of list.children) {
      const last = JSON.parse(item.dataset.standing);
      if (last.closed === null && !names.has(last.name)) json(`/v1/batches/${last.name}`).then(draw, () => {});
    }
  });
}

for (const item of [...list.children]) draw(JSON.parse(item.dataset.standing));
follow();

// A new batch.
const form = document.getElementById("submission");
const panel = document.getElementById("new");
const field = (id) => document.getElementById(id);
const uploads = new Uploads(field("uploads"));
const shown = field("estimated");

function order() {
  const prefix = field("prefix").value.trim();
  const asked = { stages: [...form.querySelectorAll("[name=stage]:checked")].map((one) => one.value), lane: field("lane").value, dicom: field("dicom").checked };
  if (field("max-failed").value) asked.max_failed_share = Number(field("max-failed").value);
  if (field("deadline").value) asked.deadline = new Date(field("deadline").value).toISOString();
  if (field("name").value) asked.batch = field("name").value;
  if (prefix) asked.inputs = [prefix];
  return asked;
}

async function ready(asked) {
  if (asked.inputs) return asked;
  if (!uploads.some) throw new Error("Choose files first, or name a prefix of the object store.");
  return { ...asked, inputs: [await uploads.all()] };
}

field("files").addEventListener("change", (event) => uploads.add([...event.target.files]));
field("folder").addEventListener("change", (event) => uploads.add([...event.target.files]));
const drop = field("drop");
for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, (event) => { event.preventDefault(); drop.classList.add("over"); });
for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => { event.preventDefault(); uploads.drop(event.dataTransfer); });
window.addEventListener("dragover", (event) => event.preventDefault());
window.addEventListener("drop", (event) => { event.preventDefault(); if (!panel.hidden && !event.target.closest("#drop")) { panel.open = true; uploads.drop(event.dataTransfer); } });

// Who leaves the page leaves files behind that are no batch yet.
window.addEventListener("beforeunload", (event) => uploads.some && event.preventDefault());

async function during(what, work) {
  const buttons = form.querySelectorAll("button");
  buttons.forEach((one) => (one.disabled = true));
  shown.textContent = what;
  try {
    await work();
  } catch (error) {
    shown.replaceChildren(make("p", { class: "bad" }, error.message));
  } finally {
    buttons.forEach((one) => (one.disabled = false));
  }
}

field("estimate").addEventListener("click", () => during("Looking at the inputs …", async () => {
  const found = await json("/v1/estimates", { method: "POST", json: await ready(order()) });
  const pairs = { images: count(found.images), "done already": count(found.done), "refused at once": count(found.refused), "passed over": count(found.skipped), duplicates: count(found.duplicates), bytes: count(found.bytes), time: found.seconds === null ? "not known yet: nothing was measured here" : `about ${seconds(found.seconds)}` };
  if (found.deadline) pairs.deadline = found.deadline.sentence;
  shown.replaceChildren(make("dl", { class: "pairs" }, ...Object.entries(pairs).flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])));
}));

form.addEventListener("submit", (event) => {
  event.preventDefault();
  during("Uploading and planning …", async () => {
    const asked = await ready(order());
    const planned = await json("/v1/batches", { method: "POST", json: asked, headers: { "idempotency-key": uploads.key(asked) } });
    uploads.clear();
    shown.replaceChildren();
    panel.open = false;
    say(`Batch ${planned.name} is planned`);
    draw(planned);
    [...list.children].find((item) => item.dataset.batch === planned.name)?.querySelector("a")?.focus();
  });
});

// Rules, tried with files as they would be called.
const effect = (value) => (Array.isArray(value) ? value.join(", ") : typeof value === "object" ? Object.entries(value).map((pair) => pair.join(" ")).join(", ") : value);
const effects = (done) => Object.entries(done).filter(([name, value]) => name !== "name" && value !== false && effect(value) !== "").map(([name, value]) => `${words(name)}: ${effect(value)}`).join("; ");

function verdicts({ object, rules, done }) {
  const rows = rules.map((one) => make("tr", {}, make("td", {}, one.rule), make("td", { class: one.fires ? "good" : "" }, one.fires ? "takes it" : "no"), make("td", {}, one.why)));
  return make("section", {}, make("h3", { dir: "auto" }, object), make("div", { class: "scrolls", tabindex: "0", role: "group", "aria-label": `Rules and ${object}` }, make("table", {}, make("thead", {}, make("tr", {}, ...["Rule", "", "Why"].map((title) => make("th", {}, title)))), make("tbody", {}, ...rows))), make("p", {}, done ? `Done: ${effects(done)}.` : "No rule takes it; it would be left where it is."));
}

field("rules-try").addEventListener("click", async () => {
  const place = field("rules-verdicts"), [file] = field("rules-file").files, files = [...field("rules-objects").files];
  const prefix = field("rules-prefix").value.trim();
  try {
    if (!file || !files.length || !prefix.startsWith("s3://")) throw new Error("Choose a file of rules and files to try, and say where they would lie: s3://bucket/prefix/");
    const objects = files.slice(0, 100).map((one) => `${prefix.replace(/\/*$/, "/")}${one.name}`);
    const tried = await json("/v1/rules/trial", { method: "POST", json: { rules: await file.text(), objects } });
    place.replaceChildren(...tried.objects.map(verdicts));
  } catch (error) {
    place.replaceChildren(make("p", { class: "bad" }, error.message));
  }
});

document.addEventListener("keydown", (event) => {
  if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "n" && !panel.hidden) { event.preventDefault(); panel.open = true; field("files").focus(); }
  if (event.key === "g") location.href = "/gallery";
});
