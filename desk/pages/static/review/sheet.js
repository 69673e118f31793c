// What is seen of a mask: its inside and edge, and edges of other masks, of the part that the window shows alone. Where
// the picture is reduced, so is the mask, and a single pixel stays.

const pixel = (red, green, blue, alpha) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0; // little-endian
const INSIDE = pixel(0, 230, 118, 60), EDGE = pixel(0, 230, 118, 255), OTHER = pixel(255, 179, 0, 255);

export class Sheet {
  constructor(mask, others) {
    this.fine = [new Level(mask, others)];
    while (Math.max(this.last.width, this.last.height) > 256) this.fine.push(this.last.halved());
    this.canvas = document.createElement("canvas");
    this.context = this.canvas.getContext("2d");
    this.at = null; // which part of which level the canvas has
  }

  get last() {
    return this.fine[this.fine.length - 1];
  }

  // Pixels in this box have changed.
  touch(box) {
    for (let n = 1; n < this.fine.length; n++) this.fine[n].reduce(this.fine[n - 1], box.map((one, side) => side < 2 ? Math.floor(one / 2 ** n) : Math.ceil(one / 2 ** n)));
    if (!this.at) return;
    const { level, left, top, right, bottom } = this.at;
    const [x0, y0, x1, y1] = box.map((one, side) => side < 2 ? Math.floor(one / 2 ** level) - 1 : Math.ceil(one / 2 ** level) + 1);
    this.#fill(Math.max(left, x0), Math.max(top, y0), Math.min(right, x1), Math.min(bottom, y1));
  }

  // Draw what is seen where the picture's left top is at (x, y) and a pixel of it takes `scale` of the screen's.
  draw(context, x, y, scale) {
    const level = Math.max(0, Math.min(this.fine.length - 1, Math.ceil(-Math.log2(scale) - 0.01)));
    const step = scale * 2 ** level, { width, height } = this.fine[level];
    const left = Math.max(0, Math.floor(-x / step)), top = Math.max(0, Math.floor(-y / step));
    const right = Math.min(width, Math.ceil((context.canvas.width - x) / step)), bottom = Math.min(height, Math.ceil((context.canvas.height - y) / step));
    if (right <= left || bottom <= top) return;
    const now = { level, left, top, right, bottom };
    if (!this.at || Object.keys(now).some((side) => now[side] !== this.at[side])) {
      this.at = now;
      if (this.canvas.width !== right - left || this.canvas.height !== bottom - top) {
        this.canvas.width = right - left;
        this.canvas.height = bottom - top;
      }
      this.#fill(left, top, right, bottom);
    }
    context.imageSmoothingEnabled = false;
    context.drawImage(this.canvas, x + left * step, y + top * step, (right - left) * step, (bottom - top) * step);
  }

  #fill(left, top, right, bottom) {
    if (right <= left || bottom <= top) return;
    const image = new ImageData(right - left, bottom - top);
    this.fine[this.at.level].paint(new Uint32Array(image.data.buffer), left, top, right, bottom);
    this.context.putImageData(image, left - this.at.left, top - this.at.top);
  }
}

class Level {
  constructor({ width, height, data }, others) {
    Object.assign(this, { width, height, data, others });
  }

  halved() {
    const width = Math.ceil(this.width / 2), height = Math.ceil(this.height / 2);
    const made = new Level({ width, height, data: new Uint8Array(width * height) }, this.others && new Uint8Array(width * height));
    made.reduce(this, [0, 0, width, height]);
    if (made.others) reduced(made.others, this.others, made, this, [0, 0, width, height]);
    return made;
  }

  reduce(finer, [left, top, right, bottom]) {
    reduced(this.data, finer.data, this, finer, [left, top, Math.min(this.width, right), Math.min(this.height, bottom)]);
  }

  paint(pixels, left, top, right, bottom) {
    const { width, height, data, others } = this;
    let to = 0;
    for (let y = top; y < bottom; y++) {
      const above = y > 0 ? -width : 0, below = y < height - 1 ? width : 0;
      for (let x = left; x < right; x++, to++) {
        const at = y * width + x, before = x > 0 ? -1 : 0, after = x < width - 1 ? 1 : 0;
        if (data[at]) pixels[to] = data[at + before] & data[at + after] & data[at + above] & data[at + below] ? INSIDE : EDGE;
        if (others?.[at] && !(others[at + before] & others[at + after] & others[at + above] & others[at + below])) pixels[to] = OTHER;
      }
    }
  }
}

// Of two by two pixels, any.
function reduced(to, from, coarse, fine, [left, top, right, bottom]) {
  for (let y = top; y < bottom; y++) {
    const row = 2 * y * fine.width, down = 2 * y + 1 < fine.height ? fine.width : 0;
    for (let x = left; x < right; x++) {
      const at = row + 2 * x, across = 2 * x + 1 < fine.width ? 1 : 0;
      to[y * coarse.width + x] = from[at] | from[at + across] | from[at + down] | from[at + down + across];
    }
  }
}
