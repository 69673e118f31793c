// Queues: begin where one is, and make new ones.
import { complain, json } from "../api.js";

for (const button of document.querySelectorAll("[data-begin]")) {
  button.addEventListener("click", async () => {
    const name = button.dataset.begin;
    try {
      const next = await json(`/v1/queues/${name}/next`, { method: "POST", json: {} });
      location.href = next.none_left ? `/review?none=${encodeURIComponent(name)}` : `/correct/${next.case.batch}/${next.case.index}?queue=${encodeURIComponent(name)}`;
    } catch (error) {
      complain(error);
    }
  });
}

document.getElementById("new")?.addEventListener("submit", async (event) => {
  event.preventDefault();
  const asked = new FormData(event.target), number = (name) => Number(asked.get(name));
  const wrong = document.getElementById("wrong");
  wrong.textContent = "";
  try {
    await json("/v1/queues", { method: "POST", json: { name: asked.get("name"), batches: asked.get("plan") ? [] : [asked.get("batch")], plan: asked.get("plan") || null, q: asked.get("q"), order: asked.get("order"), most: number("most"), readers: number("readers"), blind: asked.has("blind"), blank_share: number("blank") / 100, seed: Math.floor(Math.random() * 2 ** 31), known: asked.get("known") || null } });
    location.href = "/review";
  } catch (error) {
    wrong.textContent = error.message;
  }
});
