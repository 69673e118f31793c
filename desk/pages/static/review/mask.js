// A mask, pixel by pixel: what tools paint is exact, and every change can be taken back.
// Places are in pixels of the image; the centre of pixel (0, 0) is at (0.5, 0.5).

// Pixels that a step has changed, as runs along the rows: [first, how many, ...], and the box around them.
export class Changes {
  constructor() {
    this.runs = new Int32Array(256);
    this.length = 0;
    this.box = null;
  }

  add(first, many) {
    if (this.length === this.runs.length) {
      const more = new Int32Array(2 * this.runs.length);
      more.set(this.runs);
      this.runs = more;
    }
    this.runs[this.length++] = first;
    this.runs[this.length++] = many;
  }

  // What is painted lies in here: left, top, and one beyond right and bottom.
  touch(left, top, right, bottom) {
    this.box = united(this.box, [left, top, right, bottom]);
  }

  done() {
    this.runs = this.runs.slice(0, this.length);
    return this;
  }
}

export const united = (one, other) => !one ? other : !other ? one : [Math.min(one[0], other[0]), Math.min(one[1], other[1]), Math.max(one[2], other[2]), Math.max(one[3], other[3])];

export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.data = new Uint8Array(width * height); // 1 where lesion
  }

  get empty() {
    return !this.data.includes(1);
  }

  get area() {
    let found = 0;
    for (let at = 0; at < this.data.length; at++) found += this.data[at];
    return found;
  }

  // From x0 to x1, both included, of a row.
  span(y, x0, x1, value, changes) {
    x0 = Math.max(0, x0);
    x1 = Math.min(this.width - 1, x1);
    if (y < 0 || y >= this.height || x1 < x0) return;
    const { data } = this;
    const end = y * this.width + x1 + 1;
    for (let at = y * this.width + x0; at < end;) {
      while (at < end && data[at] === value) at++;
      const first = at;
      while (at < end && data[at] !== value) data[at++] = value;
      if (at > first) changes.add(first, at - first);
    }
    changes.touch(x0, y, x1 + 1, y + 1);
  }

  // A stroke of a round brush between two points: all pixels whose centres are that near to the line.
  stroke([ax, ay], [bx, by], radius, value, changes) {
    const length = Math.hypot(bx - ax, by - ay);
    const nx = length ? (-(by - ay) / length) * radius : 0, ny = length ? ((bx - ax) / length) * radius : 0;
    const corners = [[ax + nx, ay + ny], [bx + nx, by + ny], [bx - nx, by - ny], [ax - nx, ay - ny]];
    const top = Math.max(0, Math.ceil(Math.min(ay, by) - radius - 0.5)), bottom = Math.min(this.height - 1, Math.floor(Math.max(ay, by) + radius - 0.5));
    for (let y = top; y <= bottom; y++) {
      let left = Infinity, right = -Infinity;
      for (const [x0, y0] of [[ax, ay], [bx, by]]) {
        const half = Math.sqrt(radius * radius - (y + 0.5 - y0) ** 2);
        if (half >= 0) { left = Math.min(left, x0 - half); right = Math.max(right, x0 + half); }
      }
      if (length) for (const x of crossings(corners, y + 0.5)) { left = Math.min(left, x); right = Math.max(right, x); }
      if (left <= right) this.span(y, Math.ceil(left - 0.5 - 1e-9), Math.floor(right - 0.5 + 1e-9), value, changes);
    }
  }

  // What lies in a polygon, by its centre (even-odd).
  polygon(points, value, changes) {
    const ys = points.map(([, y]) => y);
    const top = Math.max(0, Math.floor(Math.min(...ys))), bottom = Math.min(this.height - 1, Math.ceil(Math.max(...ys)));
    for (let y = top; y <= bottom; y++) {
      const found = crossings(points, y + 0.5).sort((a, b) => a - b);
      for (let n = 0; n + 1 < found.length; n += 2) this.span(y, Math.ceil(found[n] - 0.5), Math.ceil(found[n + 1] - 0.5) - 1, value, changes);
    }
  }

  // Everything within that many pixels of the mask becomes mask; with a value of 0, of what is not mask. Beyond the
  // picture there is nothing, so a lesion that reaches the border goes on there.
  grow(radius, value, changes) {
    const { width, height, data } = this;
    const other = 1 - value, found = [];
    for (let at = data.indexOf(value), last = data.lastIndexOf(value); at >= 0 && at <= last; at++) {
      if (data[at] !== value) continue;
      const x = at % width;
      if ((x > 0 && data[at - 1] === other) || (x < width - 1 && data[at + 1] === other) || (at >= width && data[at - width] === other) || (at < width * (height - 1) && data[at + width] === other)) found.push(at);
    }
    const halves = [];
    for (let dy = -radius; dy <= radius; dy++) halves.push(Math.floor(Math.sqrt(radius * radius - dy * dy)));
    for (const at of found) {
      const x = at % width, y = (at - x) / width;
      for (let dy = -radius; dy <= radius; dy++) this.span(y + dy, x - halves[dy + radius], x + halves[dy + radius], value, changes);
    }
  }

  // Becomes another mask of its size.
  become(other, changes) {
    const { data } = this, { width } = this;
    for (let at = 0; at < data.length; at++) {
      if (data[at] === other.data[at]) continue;
      const first = at;
      while (at < data.length && data[at] !== other.data[at]) { data[at] ^= 1; at++; }
      changes.add(first, at - first);
      const top = Math.floor(first / width), bottom = Math.floor((at - 1) / width);
      if (top === bottom) changes.touch(first % width, top, ((at - 1) % width) + 1, top + 1);
      else changes.touch(0, top, width, bottom + 1);
    }
  }

  // Takes a step back, or does it again.
  toggle(changes) {
    for (let n = 0; n < changes.length; n += 2) {
      const end = changes.runs[n] + changes.runs[n + 1];
      for (let at = changes.runs[n]; at < end; at++) this.data[at] ^= 1;
    }
  }

  // COCO's run lengths: down the columns, background first. A block of columns is turned at a time, as memory lies in rows.
  counts() {
    const { width, height, data } = this;
    const BLOCK = 64, turned = new Uint8Array(BLOCK * height), found = [];
    let value = 0, began = 0;
    for (let left = 0; left < width; left += BLOCK) {
      const columns = Math.min(BLOCK, width - left);
      for (let y = 0; y < height; y++) {
        const row = y * width + left;
        for (let x = 0; x < columns; x++) turned[x * height + y] = data[row + x];
      }
      const end = columns * height, first = left * height;
      for (let at = turned.indexOf(1 - value); at >= 0 && at < end; at = turned.indexOf(1 - value, at)) {
        found.push(first + at - began);
        began = first + at;
        value = 1 - value;
      }
    }
    return [...found, width * height - began];
  }

  static ofCounts(counts, width, height) {
    const mask = new Mask(width, height);
    let at = 0, value = 0;
    for (const many of counts) {
      if (value) {
        for (let n = at; n < at + many; n++) mask.data[(n % height) * width + Math.floor(n / height)] = 1;
      }
      at += many;
      value = 1 - value;
    }
    return mask;
  }

  // Runs along the rows, background first: small and made fast, for what is kept in the browser.
  rows() {
    const found = [];
    let value = 0, began = 0;
    for (let at = this.data.indexOf(1); at >= 0; at = this.data.indexOf(1 - value, at)) {
      found.push(at - began);
      began = at;
      value = 1 - value;
    }
    return Int32Array.from([...found, this.data.length - began]);
  }

  static ofRows(runs, width, height) {
    const mask = new Mask(width, height);
    let at = 0, value = 0;
    for (const many of runs) {
      if (value) mask.data.fill(1, at, at + many);
      at += many;
      value = 1 - value;
    }
    return mask;
  }
}

// Where a closed line crosses a height.
function crossings(points, y) {
  const found = [];
  for (let n = 0; n < points.length; n++) {
    const [ax, ay] = points[n], [bx, by] = points[(n + 1) % points.length];
    if (ay <= y !== by <= y) found.push(ax + ((y - ay) / (by - ay)) * (bx - ax));
  }
  return found;
}
