// What all pages share: asking the API, saying what went wrong, the list of keys.

const token = document.querySelector('meta[name="csrf-token"]')?.content ?? "";

export class Problem extends Error {
  constructor(status, said) {
    super(said.detail || `The server answered ${status}.`);
    this.status = status;
    this.reason = said.reason;
    this.at = said.at;
  }
}

// Ask the API; throws a Problem where it refuses. A session that has ended leads to the entrance.
export async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}) };
  if (options.method && options.method !== "GET") headers["x-csrf-token"] = token;
  if (options.json !== undefined) headers["content-type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { ...options, headers, body: options.json === undefined ? options.body : JSON.stringify(options.json) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: "The desk does not answer. Is it running?", reason: "unreachable" });
  }
  if (answer.ok) return answer;
  const said = await answer.json().catch(() => ({}));
  if (answer.status === 401) {
    say("Your session has ended: sign in again in another tab, then go on here. Nothing is lost.", true);
  }
  throw new Problem(answer.status, said);
}

export const json = async (path, options) => (await ask(path, options)).json();

// Say something for a moment; what is bad stays longer.
export function say(text, bad = false) {
  const place = document.getElementById("said");
  if ([...place.children].some((one) => one.textContent === text)) return;
  const toast = document.createElement("div");
  toast.className = bad ? "toast bad" : "toast";
  toast.textContent = text;
  place.append(toast);
  setTimeout(() => toast.remove(), bad ? 9000 : 3500);
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

const help = document.getElementById("help");
document.querySelector("[data-help]")?.addEventListener("click", () => help.showModal());
document.addEventListener("keydown", (event) => {
  if (event.key === "?" && !typing(event)) {
    event.preventDefault();
    if (!help.open) help.showModal();
  }
});
