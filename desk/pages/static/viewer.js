// A picture in layers, of which only the tiles that are visible are there; down to single pixels.
import { ask } from "./api.js";

const TILES = 200; // kept; some 1 MB each
const AT_A_TIME = 8;

export class Viewer {
  constructor(canvas, { onview, onproblem }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { alpha: false });
    this.onview = onview;
    this.onproblem = onproblem;
    this.size = [1, 1];
    this.bases = new Map(); // name -> layer
    this.overs = new Map(); // name -> { layer or lines, opacity, on }
    this.base = null;
    this.other = null; // to the right of the slider
    this.split = 0.5;
    this.bare = false; // all layers off
    this.spacing = null;
    this.view = { x: 0, y: 0, zoom: 1 };
    this.tiles = new Map();
    this.waiting = [];
    this.loading = 0;
    this.pointers = new Map();
    new ResizeObserver(() => this.#resized()).observe(canvas.parentElement);
    this.#listen();
  }

  get ratio() {
    return window.devicePixelRatio || 1;
  }

  // As far away as one may go: half of the whole, or half of native pixels where the image is smaller than the window.
  get #least() {
    return Math.min(this.whole ?? 0.01, 1 / this.ratio) / 2;
  }

  // The whole image, as large as it fits.
  fit() {
    const [width, height] = this.size;
    const box = this.canvas.getBoundingClientRect();
    this.whole = Math.min(box.width / width, box.height / height) || 1;
    this.look({ x: width / 2, y: height / 2, zoom: this.whole });
  }

  native() {
    this.look({ ...this.view, zoom: 1 / this.ratio });
  }

  look(view) {
    const zoom = Math.min(64, Math.max(this.#least, view.zoom));
    const x = Math.min(this.size[0], Math.max(0, view.x)), y = Math.min(this.size[1], Math.max(0, view.y));
    this.view = { x, y, zoom };
    this.onview?.(this.view);
    this.draw();
  }

  zoom(factor, at = null) {
    const zoom = Math.min(64, Math.max(this.#least, this.view.zoom * factor));
    if (at === null) return this.look({ ...this.view, zoom });
    const box = this.canvas.getBoundingClientRect();
    const dx = at[0] - box.left - box.width / 2, dy = at[1] - box.top - box.height / 2;
    this.look({ x: this.view.x + dx / this.view.zoom - dx / zoom, y: this.view.y + dy / this.view.zoom - dy / zoom, zoom });
  }

  pan(dx, dy) {
    this.look({ ...this.view, x: this.view.x - dx / this.view.zoom, y: this.view.y - dy / this.view.zoom });
  }

  draw() {
    if (!this.drawing) {
      this.drawing = true;
      requestAnimationFrame(() => { this.drawing = false; this.#draw(); });
    }
  }

  #resized() {
    const box = this.canvas.parentElement.getBoundingClientRect();
    this.canvas.width = Math.max(1, Math.round(box.width * this.ratio));
    this.canvas.height = Math.max(1, Math.round(box.height * this.ratio));
    const [width, height] = this.size;
    const was = this.whole;
    this.whole = Math.min(box.width / width, box.height / height) || 1;
    if (was === undefined || Math.abs(this.view.zoom - was) < 1e-6) this.fit();
    else this.draw();
  }

  #draw() {
    const { context, canvas } = this;
    const scale = this.view.zoom * this.ratio;
    // Whole pixels of the screen, so that at 1:1 each shows exactly one of the image.
    const left = Math.round(canvas.width / 2 - this.view.x * scale), top = Math.round(canvas.height / 2 - this.view.y * scale);
    this.waiting = [];
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.globalAlpha = 1;
    context.fillStyle = "#16191d";
    context.fillRect(0, 0, canvas.width, canvas.height);
    const cut = this.other ? Math.round(canvas.width * this.split) : canvas.width;
    this.#clipped(0, cut, () => this.#layer(this.bases.get(this.base), left, top, scale));
    if (this.other) this.#clipped(cut, canvas.width, () => this.#layer(this.bases.get(this.other), left, top, scale));
    if (!this.bare) {
      for (const over of this.overs.values()) {
        if (!over.on) continue;
        context.globalAlpha = over.opacity;
        if (over.lines) this.#lines(over.lines, over.colour ?? "#00e676", left, top, scale);
        else this.#layer(over.layer, left, top, scale);
      }
    }
    context.globalAlpha = 1;
    if (this.other) {
      context.fillStyle = "#fff";
      context.fillRect(cut - this.ratio, 0, 2 * this.ratio, canvas.height);
    }
    if (this.spacing) this.#bar();
    this.#load();
  }

  #clipped(from, to, work) {
    this.context.save();
    this.context.beginPath();
    this.context.rect(from, 0, to - from, this.canvas.height);
    this.context.clip();
    work();
    this.context.restore();
  }

  #layer(layer, left, top, scale) {
    if (!layer) return;
    const { box, levels, tile } = layer;
    const own = (box[2] - box[0]) / levels[0][0]; // pixels of the image for one of the layer
    const wanted = Math.min(levels.length - 1, Math.max(0, Math.floor(Math.log2(1 / (scale * own)) + 0.01)));
    this.context.imageSmoothingEnabled = scale * own < 1;
    this.context.imageSmoothingQuality = "high";
    for (const level of new Set([levels.length - 1, wanted])) {
      const [width, height] = levels[level];
      const stepX = ((box[2] - box[0]) / width) * scale, stepY = ((box[3] - box[1]) / height) * scale;
      const x0 = left + box[0] * scale, y0 = top + box[1] * scale;
      const firstX = Math.max(0, Math.floor(-x0 / stepX / tile)), lastX = Math.min(Math.ceil(width / tile), Math.ceil((this.canvas.width - x0) / stepX / tile));
      const firstY = Math.max(0, Math.floor(-y0 / stepY / tile)), lastY = Math.min(Math.ceil(height / tile), Math.ceil((this.canvas.height - y0) / stepY / tile));
      for (let row = firstY; row < lastY; row++) {
        for (let column = firstX; column < lastX; column++) {
          const found = this.#tile(layer, level, row, column);
          if (!found) continue;
          const x = x0 + column * tile * stepX, y = y0 + row * tile * stepY;
          this.context.drawImage(found, x, y, found.width * stepX, found.height * stepY);
        }
      }
    }
  }

  #tile(layer, level, row, column) {
    const address = `${layer.address}/${level}/${row}-${column}`;
    const found = this.tiles.get(address);
    if (found) {
      this.tiles.delete(address);
      this.tiles.set(address, found);
      return found === "loading" || found === "failed" ? null : found;
    }
    this.waiting.push(address);
    return null;
  }

  #load() {
    while (this.loading < AT_A_TIME && this.waiting.length) {
      const address = this.waiting.shift();
      this.loading++;
      this.tiles.set(address, "loading");
      this.#fetch(address).then((bitmap) => this.tiles.set(address, bitmap), (error) => {
        this.tiles.set(address, "failed");
        setTimeout(() => { this.tiles.delete(address); this.draw(); }, 4000);
        this.onproblem?.(error);
      }).finally(() => { this.loading--; this.#forget(); this.draw(); });
    }
  }

  async #fetch(address) {
    const answer = await ask(address);
    return createImageBitmap(await answer.blob(), { colorSpaceConversion: "none" });
  }

  #forget() {
    for (const [address, found] of this.tiles) {
      if (this.tiles.size <= TILES) break;
      if (found !== "loading") { found.close?.(); this.tiles.delete(address); }
    }
  }

  get idle() {
    return !this.loading && !this.waiting.length && !this.drawing;
  }

  #lines(lines, shade, left, top, scale) {
    const { context } = this;
    for (const [colour, width] of [["#000a", 4], [shade, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * this.ratio;
      context.lineJoin = "round";
      context.beginPath();
      for (const line of lines) {
        line.forEach(([x, y], at) => context[at ? "lineTo" : "moveTo"](left + (x + 0.5) * scale, top + (y + 0.5) * scale));
        context.closePath();
      }
      context.stroke();
    }
  }

  #bar() {
    const { context, canvas, ratio } = this;
    const mm = this.spacing / (this.view.zoom * ratio); // of a pixel of the screen
    const room = (canvas.width / 4) * mm;
    const power = 10 ** Math.floor(Math.log10(room));
    const length = [5, 2, 1].map((n) => n * power).find((n) => n <= room) ?? power;
    const width = length / mm, x = 16 * ratio, y = canvas.height - 18 * ratio;
    context.fillStyle = "#000a";
    context.fillRect(x - 8 * ratio, y - 24 * ratio, width + 16 * ratio, 36 * ratio);
    context.fillStyle = "#fff";
    context.fillRect(x, y, width, 3 * ratio);
    context.font = `${13 * ratio}px system-ui, sans-serif`;
    context.fillText(length >= 1 ? `${length} mm` : `${+(length * 1000).toPrecision(2)} µm`, x, y - 6 * ratio);
    this.barLabel = `${length} mm`;
  }

  #listen() {
    const { canvas, pointers } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), [event.clientX, event.clientY]);
    }, { passive: false });
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); pointers.set(event.pointerId, [event.clientX, event.clientY]); });
    for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, (event) => pointers.delete(event.pointerId));
    canvas.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY];
      if (pointers.size === 2) {
        const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
        const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
        this.zoom(far(now, other) / far(before, other), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
      }
      this.pan((now[0] - before[0]) / pointers.size, (now[1] - before[1]) / pointers.size);
      pointers.set(event.pointerId, now);
    });
    canvas.addEventListener("dblclick", (event) => this.zoom(2, [event.clientX, event.clientY]));
  }
}
