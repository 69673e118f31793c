// What all pages share: asking the API, saying what went wrong, the list of keys.

document.querySelector(".late")?.remove(); // modules run once all that they import is there
const meta = document.querySelector('meta[name="csrf-token"]');
const person = document.querySelector(".person")?.textContent;
let token = meta?.content ?? "";
let ended = null; // says that the session has ended, until one holds again
const ENDED = "Your session has ended. Sign in again in another tab, then go on here: nothing is lost.";

export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || `The server answered ${status}.`);
    this.status = status;
    this.reason = body.reason;
    this.at = body.at;
  }
}

// Ask the API; throws a Problem where it refuses. Where a session has ended, what is on the page stays, and goes on with
// the next one of the same person.
export async function ask(path, options = {}, again = false) {
  const headers = { ...(options.headers ?? {}) };
  if (options.method && options.method !== "GET") headers["x-csrf-token"] = token;
  if (options.json !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, redirect: "manual", body: options.json === undefined ? options.body : JSON.stringify(options.json) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The desk does not answer. Is it running?", reason: "unreachable" });
  }
  if (answer.ok) {
    if (ended) signedIn();
    return answer;
  }
  const body = await answer.json().catch(() => ({}));
  // A proxy leads to its own page of signing in, which we are not shown.
  if (answer.status === 401 || answer.type === "opaqueredirect") {
    ended ??= entrance(say(ENDED, true, true));
    throw new Problem(401, { detail: ENDED, reason: "unauthorized" });
  }
  if (answer.status === 403 && body.reason === "csrf" && !again) {
    await renew();
    return ask(path, options, true);
  }
  throw new Problem(answer.status, body);
}

// With the way to sign in again, in another tab: this page stays as it is.
function entrance(toast) {
  toast.append(" ", make("a", { href: "/enter", target: "_blank", rel: "noopener" }, "Sign in"));
  return toast;
}

// The token of the session that holds now; throws where it is another person's.
async function renew() {
  const now = await json("/v1/session");
  if (now.name !== person) throw new Problem(403, { detail: `${now.name} is signed in now, and this page is ${person}'s. Reload it.`, reason: "csrf" });
  token = now.csrf;
}

function signedIn() {
  ended.remove();
  ended = null;
  document.dispatchEvent(new Event("signedin"));
}

// Who comes back from the tab in which they signed in finds this page as it was, and at work.
window.addEventListener("focus", () => ended && renew().catch(() => {}));

// Download what a link leads to, once it is known that there is something: a download that fails tells nobody why.
export async function download(address) {
  const peek = new AbortController();
  await ask(address, { signal: peek.signal });
  peek.abort();
  location.href = address;
}

export const json = async (path, options) => (await ask(path, options)).json();

// Say something for a moment; what is bad stays longer, and some of it until it is taken away.
export function say(text, bad = false, stays = false) {
  const place = document.getElementById("messages");
  const there = [...place.children].find((one) => one.dataset.text === text);
  if (there) return there;
  const toast = document.createElement("div");
  toast.className = bad ? "toast bad" : "toast";
  toast.textContent = text;
  toast.dataset.text = text; // whatever is put beside it
  place.append(toast);
  if (!stays) setTimeout(() => toast.remove(), bad ? 9000 : 3500);
  return toast;
}

export const complain = (error) => {
  if (error.name !== "AbortError") say(error.message, true);
};

// An element with attributes, listeners (on...) and children.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const count = (number) => Number(number).toLocaleString("en-US");
export const words = (code) => String(code).replaceAll("_", " ");

export const typing = (event) =>
  event.target.closest?.("input:not([type=checkbox]):not([type=radio]):not([type=range]), textarea, select, dialog[open]") !== null;

async function signOut() {
  try {
    location.href = (await json("/v1/sign-out", { method: "POST" })).to;
  } catch (error) {
    complain(error);
  }
}
for (const button of document.querySelectorAll("[data-sign-out]")) button.addEventListener("click", signOut);

const help = document.getElementById("help");
document.querySelector("[data-help]")?.addEventListener("click", () => help.showModal());
document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !typing(event)) {
    event.preventDefault();
    if (!help.open) help.showModal();
  }
});
