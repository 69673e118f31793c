// Drawing: brush, eraser, polygon, grow and shrink over a picture, by mouse, pen, touch and keys; every step can be taken back.
import { Changes, Mask, united } from "./mask.js";
import { Sheet } from "./sheet.js";

const STEPS = 1000; // that can be taken back
const TOOLS = ["brush", "eraser", "polygon", "cut", "hand"]; // a cut is a polygon that takes away
const PEN_ERASER = 32; // among an event's buttons (Pointer Events, 10.1)

export class Editor {
  // `canvas` lies over the viewer's, and what happens there is ours.
  constructor(canvas, viewer, { onchange, onview }) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d");
    this.viewer = viewer;
    this.onchange = onchange; // something is another way than before
    this.onview = onview; // tool, size or what can be taken back
    this.masks = new Map();
    this.active = null;
    this.sheet = null;
    this.tool = "brush";
    this.size = 40; // of brush and eraser, in pixels of the image
    this.hidden = false;
    this.done = [];
    this.undone = [];
    this.stroke = null; // { changes, value, at, radius, pointer, isPen }
    this.points = []; // of a polygon that is not closed yet
    this.cursor = null; // where keys draw
    this.hover = null;
    this.down = false; // whether the keys' pen is down
    this.pointers = new Map();
    this.seesPen = false; // then fingers move the picture, and a hand that rests draws nothing
    const looked = viewer.onview;
    viewer.onview = (view) => { looked?.(view); this.draw(); };
    new ResizeObserver(() => this.draw()).observe(canvas.parentElement);
    this.#listen();
  }

  // Masks by name; the first one is drawn first.
  begin(masks) {
    this.masks = masks;
    this.done = [];
    this.undone = [];
    this.choose(masks.keys().next().value);
  }

  choose(name) {
    this.finish();
    this.active = name;
    const [width, height] = this.viewer.size;
    if (!this.masks.has(name)) this.masks.set(name, new Mask(width, height));
    const others = [...this.masks].filter(([other]) => other !== name);
    const all = others.length ? new Uint8Array(width * height) : null;
    for (const [, { data }] of others) for (let at = data.indexOf(1); at >= 0; at = data.indexOf(1, at + 1)) all[at] = 1;
    this.sheet = new Sheet(this.mask, all);
    this.onview?.();
    this.draw();
  }

  get #corners() {
    return this.tool === "polygon" || this.tool === "cut";
  }

  get mask() {
    return this.masks.get(this.active);
  }

  use(tool) {
    if (!TOOLS.includes(tool)) return;
    if (tool !== this.tool) this.finish();
    this.tool = tool;
    this.canvas.style.cursor = tool === "hand" ? "grab" : "crosshair";
    this.onview?.();
    this.draw();
  }

  resize(size) {
    this.size = Math.max(1, Math.min(1000, Math.round(size)));
    this.onview?.();
    this.draw();
  }

  larger(way) {
    this.resize(this.size + way * Math.max(1, Math.round(this.size / 5)));
  }

  // One step that may take long, as grow and shrink.
  step(work) {
    this.finish();
    const changes = new Changes();
    work(this.mask, changes);
    this.#keep(changes);
  }

  grow(pixels) {
    this.step((mask, changes) => mask.grow(Math.abs(pixels), pixels > 0 ? 1 : 0, changes));
  }

  become(other) {
    this.step((mask, changes) => mask.become(other, changes));
  }

  undo() {
    if (this.stroke || this.points.length) return this.cancel();
    this.#back(this.done, this.undone);
  }

  redo() {
    this.finish();
    this.#back(this.undone, this.done);
  }

  #back(from, to) {
    const step = from.pop();
    if (!step) return;
    if (step.name !== this.active) this.choose(step.name);
    this.mask.toggle(step.changes);
    to.push(step);
    this.#changed(step.changes.box);
  }

  #keep(changes) {
    if (!changes.length) return this.draw();
    this.done.push({ name: this.active, changes: changes.done() });
    if (this.done.length > STEPS) this.done.shift();
    this.undone = [];
    this.#changed(changes.box);
  }

  #changed(box) {
    this.sheet.touch(box);
    this.draw();
    this.onview?.();
    this.onchange?.();
  }

  // End what was begun, and keep it; or take it away.
  finish() {
    if (this.points.length > 2) this.close();
    this.points = [];
    this.down = false;
    if (!this.stroke) return;
    const { changes } = this.stroke;
    this.stroke = null;
    this.#keep(changes);
  }

  cancel() {
    this.points = [];
    this.down = false;
    if (this.stroke) {
      const { changes } = this.stroke;
      this.stroke = null;
      this.mask.toggle(changes);
      if (changes.box) this.sheet.touch(changes.box);
    }
    this.draw();
  }

  close() {
    const points = this.points;
    this.points = [];
    if (points.length < 3) return this.draw();
    const changes = new Changes();
    this.mask.polygon(points, this.tool === "cut" ? 0 : 1, changes);
    this.#keep(changes);
  }

  // Strokes.
  #start(place, value, pointer) {
    this.stroke = { changes: new Changes(), value, at: this.#snapped(place), radius: this.size / 2, pointer };
    this.#paint(place);
  }

  #paint(place) {
    const { stroke } = this, to = this.#snapped(place);
    const part = new Changes();
    this.mask.stroke(stroke.at, to, stroke.radius, stroke.value, part);
    stroke.at = to;
    for (let n = 0; n < part.length; n += 2) stroke.changes.add(part.runs[n], part.runs[n + 1]);
    if (!part.box) return;
    stroke.changes.box = united(stroke.changes.box, part.box);
    this.sheet.touch(part.box);
    this.draw();
  }

  // A brush of one pixel goes from centre to centre, else it may fall between them.
  #snapped([x, y]) {
    return this.size === 1 ? [Math.floor(x) + 0.5, Math.floor(y) + 0.5] : [x, y];
  }

  // Drawing on the screen.
  #origin() {
    const { viewer, canvas } = this, scale = viewer.view.zoom * viewer.ratio;
    return { scale, left: Math.round(canvas.width / 2 - viewer.view.x * scale), top: Math.round(canvas.height / 2 - viewer.view.y * scale) };
  }

  place(event) {
    const box = this.canvas.getBoundingClientRect(), { scale, left, top } = this.#origin();
    return [((event.clientX - box.left) * this.viewer.ratio - left) / scale, ((event.clientY - box.top) * this.viewer.ratio - top) / scale];
  }

  draw() {
    if (this.drawing || !this.sheet) return;
    this.drawing = true;
    requestAnimationFrame(() => { this.drawing = false; this.#draw(); });
  }

  #draw() {
    const { canvas, context } = this, below = this.viewer.canvas;
    if (canvas.width !== below.width || canvas.height !== below.height) {
      canvas.width = below.width;
      canvas.height = below.height;
    }
    const { scale, left, top } = this.#origin();
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (!this.hidden) this.sheet.draw(context, left, top, scale);
    const at = ([x, y]) => [left + x * scale, top + y * scale];
    if (this.points.length) {
      const whole = [...this.points, ...(this.cursor ?? this.hover ? [this.cursor ?? this.hover] : [])].map(at);
      this.#line(() => whole.forEach(([x, y], n) => context[n ? "lineTo" : "moveTo"](x, y)));
    }
    const place = this.cursor ?? this.hover;
    if (place && (this.tool === "brush" || this.tool === "eraser")) {
      const [x, y] = at(place);
      this.#line(() => context.arc(x, y, Math.max(1.5, (this.size / 2) * scale), 0, 2 * Math.PI));
    }
    if (this.cursor) {
      const [x, y] = at(this.cursor), arm = (this.down ? 5 : 9) * this.viewer.ratio;
      this.#line(() => { context.moveTo(x - arm, y); context.lineTo(x + arm, y); context.moveTo(x, y - arm); context.lineTo(x, y + arm); });
    }
  }

  #line(path) {
    const { context } = this;
    for (const [colour, width] of [["#000c", 3], [["eraser", "cut"].includes(this.tool) ? "#ff8a80" : "#fff", 1.5]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * this.viewer.ratio;
      context.beginPath();
      path();
      context.stroke();
    }
  }

  // Keys: a cross that arrows move, and a pen that Space puts down and lifts.
  move(dx, dy) {
    const [width, height] = this.viewer.size;
    const [x, y] = this.cursor ?? [Math.floor(this.viewer.view.x) + 0.5, Math.floor(this.viewer.view.y) + 0.5];
    this.cursor = [Math.min(width - 0.5, Math.max(0.5, x + dx)), Math.min(height - 0.5, Math.max(0.5, y + dy))];
    if (this.down && this.stroke) this.#paint(this.cursor);
    const box = this.canvas.getBoundingClientRect(), { view } = this.viewer;
    const far = [(Math.abs(this.cursor[0] - view.x) * view.zoom) / (box.width / 2), (Math.abs(this.cursor[1] - view.y) * view.zoom) / (box.height / 2)];
    if (Math.max(...far) > 0.95) this.viewer.look({ ...view, x: this.cursor[0], y: this.cursor[1] });
    this.draw();
  }

  press() {
    this.cursor ??= [Math.floor(this.viewer.view.x) + 0.5, Math.floor(this.viewer.view.y) + 0.5];
    if (this.#corners) {
      this.points.push(this.cursor);
      this.draw();
    } else if (this.down) this.finish();
    else if (this.tool !== "hand") {
      this.down = true;
      this.#start(this.cursor, this.tool === "brush" ? 1 : 0, "keys");
    }
  }

  // Pointers.
  #listen() {
    const { canvas, pointers } = this;
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.viewer.zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)), [event.clientX, event.clientY]);
    }, { passive: false });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("pointerdown", (event) => this.#pressed(event));
    canvas.addEventListener("pointermove", (event) => this.#moved(event));
    canvas.addEventListener("pointerup", (event) => this.#lifted(event));
    canvas.addEventListener("pointercancel", (event) => {
      if (pointers.delete(event.pointerId) && this.stroke?.pointer === event.pointerId) this.finish(); // what was drawn stays
    });
    canvas.addEventListener("pointerleave", () => { this.hover = null; this.draw(); });
    canvas.addEventListener("dblclick", () => this.#corners && this.close());
  }

  #pressed(event) {
    const { pointers, canvas } = this, isPen = event.pointerType === "pen";
    if (event.pointerType === "touch" && this.stroke?.isPen) return; // a hand that rests beside the pen
    canvas.focus({ preventScroll: true });
    if (canvas.setPointerCapture && event.isTrusted) canvas.setPointerCapture(event.pointerId);
    if (this.stroke?.pointer === "keys") this.finish(); // what keys drew stays, and can be taken back
    if (isPen) { // a hand that rested before it has begun nothing
      if (this.stroke) this.cancel();
      pointers.clear();
    }
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    this.cursor = null;
    this.seesPen ||= isPen;
    if (pointers.size > 1) return this.stroke && this.cancel(); // two fingers move and zoom
    if (this.#pans(event)) return;
    const place = this.place(event);
    if (this.#corners) {
      const { scale } = this.#origin(), [first] = this.points;
      if (this.points.length > 2 && Math.hypot(place[0] - first[0], place[1] - first[1]) * scale < 10 * this.viewer.ratio) this.close();
      else this.points.push(place);
      this.draw();
    } else {
      this.#start(place, this.tool === "brush" && !(event.buttons & PEN_ERASER) ? 1 : 0, event.pointerId);
      this.stroke.isPen = isPen;
    }
  }

  // Middle and right button, the hand, and fingers where there is a pen move the picture.
  #pans(event) {
    return this.tool === "hand" || (event.buttons & 6) !== 0 || (event.pointerType === "touch" && this.seesPen);
  }

  #moved(event) {
    const { pointers } = this, before = pointers.get(event.pointerId);
    this.hover = event.pointerType === "touch" ? null : this.place(event);
    if (!before) return this.draw();
    const now = [event.clientX, event.clientY];
    if (this.stroke?.pointer === event.pointerId) {
      const passed = event.getCoalescedEvents?.() ?? [];
      for (const one of passed.length ? passed : [event]) this.#paint(this.place(one));
    } else if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
      const far = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]) || 1;
      this.viewer.zoom(far(now, other) / far(before, other), [(now[0] + other[0]) / 2, (now[1] + other[1]) / 2]);
      this.viewer.pan((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    } else if (this.#pans(event)) this.viewer.pan(now[0] - before[0], now[1] - before[1]);
    pointers.set(event.pointerId, now);
  }

  #lifted(event) {
    this.pointers.delete(event.pointerId);
    if (this.stroke?.pointer === event.pointerId) this.finish();
  }
}
