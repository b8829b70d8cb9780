"use strict";
// The map: a canvas that draws points and labels, and is moved with mouse, fingers and keys.

const CLOSE = 14; // pixels within which the pointer takes hold of a point
const SIZES = 6; // radii of points, by how frequent a word is

// Where a label may stand, in steps from its point; ordinary ones at the first place or nowhere.
const AROUND = [
  [1, 0], [-1, 0], [0, -1], [0, 1],
  ...[1.6, 2.6, 3.8, 5.2].flatMap((far) => [[far, -far], [far, far], [-far, -far], [-far, far], [0, -far], [0, far]]),
];

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const smooth = (t) => t * t * (3 - 2 * t);
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** Which points are near: cells of a grid, each a range of rows. */
class Grid {
  constructor(x, y) {
    this.x = x;
    this.y = y;
    const side = clamp(Math.round(Math.sqrt(x.length / 2)), 1, 512);
    this.side = side;
    const cells = new Int32Array(x.length);
    this.start = new Int32Array(side * side + 1);
    for (let i = 0; i < x.length; i++) {
      cells[i] = this.cell(y[i]) * side + this.cell(x[i]);
      this.start[cells[i] + 1]++;
    }
    for (let c = 0; c < side * side; c++) this.start[c + 1] += this.start[c];
    this.rows = new Int32Array(x.length);
    const next = this.start.slice();
    for (let i = 0; i < x.length; i++) this.rows[next[cells[i]]++] = i;
  }

  /** The column (or line) of a coordinate; the map reaches from -1 to 1. */
  cell(coordinate) {
    return clamp(Math.floor((coordinate + 1) * 0.5 * this.side), 0, this.side - 1);
  }

  /** The row nearest to a place, within a distance; -1 if there is none. */
  nearest(x, y, within) {
    let best = -1;
    let closest = within * within;
    for (let line = this.cell(y - within); line <= this.cell(y + within); line++) {
      const first = this.start[line * this.side + this.cell(x - within)];
      const last = this.start[line * this.side + this.cell(x + within) + 1];
      for (let k = first; k < last; k++) {
        const row = this.rows[k];
        const distance = (this.x[row] - x) ** 2 + (this.y[row] - y) ** 2;
        if (distance < closest) [best, closest] = [row, distance];
      }
    }
    return best;
  }
}

/**
 * A picture that points are put into, pixel by pixel. Tens of thousands of small discs are drawn many times faster like
 * this than by the canvas, with a GPU or without.
 */
class Raster {
  constructor(context, width, height) {
    Object.assign(this, { context, width, height });
    this.image = context.createImageData(width, height);
    this.bytes = this.image.data;
    this.pixels = new Uint32Array(this.bytes.buffer);
    this.discs = new Map();
  }

  clear([red, green, blue]) {
    this.pixels.fill(((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0); // little-endian, as all browsers' machines
  }

  /** How much of each pixel a disc covers, 0 to 255, for 4 × 4 places of its centre within a pixel. */
  disc(radius) {
    const key = Math.round(radius * 4);
    if (!this.discs.has(key)) {
      const side = Math.ceil(2 * radius) + 2;
      const phases = Array.from({ length: 16 }, (_, phase) => {
        const [cx, cy] = [side / 2 + ((phase & 3) + 0.5) / 4 - 0.5, side / 2 + ((phase >> 2) + 0.5) / 4 - 0.5];
        return Uint8Array.from({ length: side * side }, (_, i) => {
          const distance = Math.hypot((i % side) + 0.5 - cx, Math.floor(i / side) + 0.5 - cy);
          return 255 * clamp(key / 4 + 0.5 - distance, 0, 1);
        });
      });
      this.discs.set(key, { side, phases });
    }
    return this.discs.get(key);
  }

  /** Put a disc with its centre at x, y. opacity is 0 to 256. */
  put({ side, phases }, x, y, [red, green, blue], opacity) {
    const { bytes, width, height } = this;
    const left = Math.floor((x -= side / 2 - 0.5));
    const top = Math.floor((y -= side / 2 - 0.5));
    if (left <= -side || top <= -side || left >= width || top >= height) return;
    const cover = phases[(((y - top) * 4) | 0) * 4 + (((x - left) * 4) | 0)];
    const [first, last] = [Math.max(-left, 0), Math.min(side, width - left)];
    for (let line = Math.max(-top, 0); line < side && top + line < height; line++) {
      let at = ((top + line) * width + left + first) * 4;
      for (let column = first; column < last; column++, at += 4) {
        const share = cover[line * side + column] * opacity;
        if (!share) continue;
        bytes[at] += ((red - bytes[at]) * share) >> 16;
        bytes[at + 1] += ((green - bytes[at + 1]) * share) >> 16;
        bytes[at + 2] += ((blue - bytes[at + 2]) * share) >> 16;
      }
    }
  }

  show() {
    this.context.putImageData(this.image, 0, 0);
  }
}

/** Red, green and blue, 0 to 255, of CSS colours. */
function toBytes(colours) {
  const canvas = document.createElement("canvas");
  canvas.width = colours.length;
  canvas.height = 1;
  const context = canvas.getContext("2d");
  for (const [i, colour] of colours.entries()) {
    context.fillStyle = colour;
    context.fillRect(i, 0, 1, 1);
  }
  const { data } = context.getImageData(0, 0, colours.length, 1);
  return colours.map((_, i) => [...data.subarray(4 * i, 4 * i + 3)]);
}

/** Which rectangles of the screen are taken by labels. */
class Taken {
  constructor() {
    this.cells = new Map();
  }

  /** Call back with the key of every cell that a rectangle touches, until it returns true. */
  static some([left, top, right, bottom], visit) {
    for (let cy = top >> 5; cy <= bottom >> 5; cy++) {
      for (let cx = left >> 6; cx <= right >> 6; cx++) if (visit((cy + 512) * 4096 + cx + 1024)) return true;
    }
    return false;
  }

  free(box) {
    const hits = (other) => box[0] < other[2] && other[0] < box[2] && box[1] < other[3] && other[1] < box[3];
    return !Taken.some(box, (key) => this.cells.get(key)?.some(hits));
  }

  /** Whether a pixel is taken. */
  covers(x, y) {
    return this.cells.get(((y >> 5) + 512) * 4096 + (x >> 6) + 1024)?.some((box) => x > box[0] && x < box[2] && y > box[1] && y < box[3]) ?? false;
  }

  take(box) {
    Taken.some(box, (key) => {
      if (!this.cells.has(key)) this.cells.set(key, []);
      this.cells.get(key).push(box);
    });
  }
}

/**
 * The way from one view to another that looks steady: van Wijk and Nuij, "Smooth and efficient zooming and panning"
 * (2003), with rho² = 2. Views are {x, y, scale}, across so many pixels. Returns its length, and a function from 0..1
 * to views.
 */
function zoomPath(from, to, pixels) {
  const rho = Math.SQRT2;
  const [w0, w1] = [pixels / from.scale, pixels / to.scale];
  const [dx, dy] = [to.x - from.x, to.y - from.y];
  const d = Math.hypot(dx, dy);
  if (d < 1e-6 * w0) {
    const zoom = Math.log(w1 / w0);
    return [Math.abs(zoom) / rho, (t) => ({ x: from.x + t * dx, y: from.y + t * dy, scale: from.scale * Math.exp(-t * zoom) })];
  }
  const b = (w, sign) => (w1 * w1 - w0 * w0 + sign * 4 * d * d) / (4 * w * d);
  const r = (v) => Math.log(Math.sqrt(v * v + 1) - v);
  const [r0, r1] = [r(b(w0, 1)), r(b(w1, -1))];
  const length = (r1 - r0) / rho;
  return [length, (t) => {
    const s = rho * t * length + r0;
    const u = (w0 / (2 * d)) * (Math.cosh(r0) * Math.tanh(s) - Math.sinh(r0));
    return { x: from.x + u * dx, y: from.y + u * dy, scale: (from.scale * Math.cosh(s)) / Math.cosh(r0) };
  }];
}

class WordMap {
  /**
   * choose(row): a point was clicked, or the empty map (-1). aim(row): the point at the centre, moved with the keys.
   */
  constructor(canvas, model, { choose, aim }) {
    Object.assign(this, { canvas, model, choose, aim });
    this.context = canvas.getContext("2d", { alpha: false });
    this.space = 0;
    this.x = Float32Array.from(model.spaces[0].x);
    this.y = Float32Array.from(model.spaces[0].y);
    this.grid = new Grid(this.x, this.y);
    this.insets = { left: 0, top: 0, right: 0, bottom: 0 }; // what cards cover
    this.view = { x: 0, y: 0, scale: 1 };
    this.colours = [[128, 128, 128]];
    this.colourOf = new Uint8Array(model.size);
    this.lit = null; // (row) => is it shown in full while the others fade; null: all are
    this.marks = { asked: [], near: [], arrows: [] };
    this.hovered = -1;
    this.aimed = -1;
    this.dim = 0; // how far the others have faded, 0 to 1
    this.labels = new Map(); // row → how visible its label is, 0 to 1
    this.widths = new Float32Array(model.size);
    this.animations = new Map();
    this.sizeOf = new Uint8Array(model.size);
    for (let i = 0; i < model.size; i++) {
      const rank = Math.log(i + 1) / Math.log(Math.max(model.size, 1000));
      this.sizeOf[i] = clamp(Math.round((1 - rank) * SIZES * 1.6), 0, SIZES - 1);
    }
    this.listen();
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.resize();
  }

  // ---- the view

  resize() {
    const whole = !this.width || Math.abs(this.view.scale / this.fitting().scale - 1) < 0.01;
    this.ratio = Math.min(window.devicePixelRatio || 1, 3);
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * this.ratio);
    this.canvas.height = Math.round(this.height * this.ratio);
    this.raster = new Raster(this.context, this.canvas.width, this.canvas.height);
    if (whole) this.view = this.fitting();
    this.draw(); // at once: setting the size has emptied the canvas
  }

  /** The middle of what no card covers. */
  get centre() {
    const { left, top, right, bottom } = this.insets;
    return [(left + this.width - right) / 2, (top + this.height - bottom) / 2];
  }

  fitting() {
    const { left, top, right, bottom } = this.insets;
    const room = Math.max(Math.min(this.width - left - right, this.height - top - bottom), 160);
    return { x: 0, y: 0, scale: (room * 0.99) / 2 };
  }

  toScreen(x, y) {
    const [cx, cy] = this.centre;
    return [(x - this.view.x) * this.view.scale + cx, (y - this.view.y) * this.view.scale + cy];
  }

  toMap(sx, sy) {
    const [cx, cy] = this.centre;
    return [(sx - cx) / this.view.scale + this.view.x, (sy - cy) / this.view.scale + this.view.y];
  }

  setView({ x, y, scale }) {
    const fit = this.fitting().scale;
    this.view = { x: clamp(x, -1.2, 1.2), y: clamp(y, -1.2, 1.2), scale: clamp(scale, fit * 0.6, fit * 80) };
    this.invalidate();
  }

  /** Zoom so that what lies at a place on the screen stays there. */
  zoomAt(factor, [sx, sy] = this.centre) {
    const [x, y] = this.toMap(sx, sy);
    const fit = this.fitting().scale;
    const scale = clamp(this.view.scale * factor, fit * 0.6, fit * 80);
    const keep = this.view.scale / scale;
    this.setView({ x: x + (this.view.x - x) * keep, y: y + (this.view.y - y) * keep, scale });
  }

  zoomBy(factor, at = this.centre) {
    let done = 1;
    this.animate("view", 220, (t) => {
      const now = factor ** smooth(t);
      this.zoomAt(now / done, at);
      done = now;
    });
  }

  panBy(dx, dy) {
    this.setView({ x: this.view.x + dx / this.view.scale, y: this.view.y + dy / this.view.scale, scale: this.view.scale });
  }

  flyTo(view) {
    const [length, path] = zoomPath(this.view, view, Math.min(this.width, this.height));
    this.animate("view", clamp(length * 420, 200, 1400), (t) => this.setView(t < 1 ? path(smooth(t)) : view));
  }

  showAll() {
    this.flyTo(this.fitting());
  }

  /** Go to a word, so near that its neighbours show, as far as they are near on the map. */
  goTo(row, near) {
    const [x, y] = [this.x[row], this.y[row]];
    const reach = near.map((other) => Math.hypot(this.x[other] - x, this.y[other] - y)).sort((a, b) => a - b);
    const fit = this.fitting();
    const radius = reach.length ? reach[Math.floor(reach.length * 0.6)] : 0.1;
    this.flyTo({ x, y, scale: clamp((fit.scale / Math.max(radius, 1e-3)) * 0.6, fit.scale * 2.5, fit.scale * 24) });
  }

  /** Show all of some words. */
  showRows(rows) {
    const ends = (values) => [Math.min(...values), Math.max(...values)];
    const [left, right] = ends(rows.map((row) => this.x[row]));
    const [top, bottom] = ends(rows.map((row) => this.y[row]));
    const fit = this.fitting();
    const scale = (fit.scale * 1.5) / Math.max(right - left, bottom - top, 0.02);
    this.flyTo({ x: (left + right) / 2, y: (top + bottom) / 2, scale: clamp(scale, fit.scale, fit.scale * 14) });
  }

  /** Let every point go to its place on the map of another model. */
  goToSpace(space) {
    const [fromX, fromY] = [this.x.slice(), this.y.slice()];
    const to = this.model.spaces[space];
    this.space = space;
    this.animate("places", 900, (t) => {
      const s = smooth(t);
      for (let i = 0; i < this.x.length; i++) {
        this.x[i] = fromX[i] + (to.x[i] - fromX[i]) * s;
        this.y[i] = fromY[i] + (to.y[i] - fromY[i]) * s;
      }
      if (t === 1) this.grid = new Grid(this.x, this.y);
    });
  }

  // ---- time

  /** Call step with 0..1 until it has reached 1. A new animation of the same name takes the old one's place. */
  animate(name, duration, step) {
    if (calm.matches) duration = 0;
    this.animations.set(name, { start: performance.now(), duration, step });
    this.invalidate();
  }

  stop(name) {
    this.animations.delete(name);
  }

  invalidate() {
    this.frame ??= requestAnimationFrame((now) => {
      this.frame = undefined;
      for (const [name, animation] of [...this.animations]) {
        const t = animation.duration ? clamp((now - animation.start) / animation.duration, 0, 1) : 1;
        if (t === 1) this.animations.delete(name);
        animation.step(t);
      }
      this.takeAim();
      this.draw(now);
      if (this.animations.size || this.fading) this.invalidate();
    });
  }

  // ---- what is shown

  /** colours: CSS colours; colourOf: which of them each point has. */
  paint(colours, colourOf, theme) {
    Object.assign(this, { colours: toBytes(colours), colourOf, theme: { ...theme, bytes: toBytes([theme.paper])[0] } });
    this.invalidate();
  }

  /** Fade all points but some. */
  light(lit) {
    if (lit) this.lit = lit;
    const [from, to] = [this.dim, lit ? 1 : 0];
    this.animate("dim", 220, (t) => {
      this.dim = from + (to - from) * t;
      if (t === 1 && !lit) this.lit = null;
    });
  }

  /** asked: rows that were asked for; near: [{row, colour, strength}] with lines to the first; arrows: [[from, to]]. */
  mark(marks) {
    this.marks = marks;
    const rows = new Set([...marks.asked, ...marks.near.map((mark) => mark.row)]);
    this.light(rows.size ? (row) => rows.has(row) : null);
  }

  // ---- drawing

  draw(now = performance.now()) {
    const { context, ratio } = this;
    if (!this.theme) return;
    this.drawPoints();
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.drawMarks();
    this.drawLabels(now);
    if (this.canvas.matches(":focus-visible")) this.drawSight();
  }

  /** Radius in CSS pixels of a point of one of the SIZES. */
  radius(size) {
    const fit = this.fitting().scale;
    const apart = (2 * fit) / Math.sqrt(this.model.size); // between neighbours, when all of the map is shown
    const zoom = Math.sqrt(this.view.scale / fit);
    return clamp(0.13 * apart * (1 + 0.4 * zoom), 0.75, 3.6) * (0.9 + 0.28 * size);
  }

  drawPoints() {
    const { raster, ratio, x, y, sizeOf, colours, colourOf, lit } = this;
    const discs = Array.from({ length: SIZES }, (_, size) => raster.disc(this.radius(size) * ratio));
    const scale = this.view.scale * ratio;
    const [cx, cy] = this.centre;
    const [left, top] = [cx * ratio - this.view.x * scale, cy * ratio - this.view.y * scale];
    const [full, faded] = [235, Math.round(235 - 195 * this.dim)];
    raster.clear(this.theme.bytes);
    for (let i = x.length - 1; i >= 0; i--) {
      raster.put(discs[sizeOf[i]], x[i] * scale + left, y[i] * scale + top, colours[colourOf[i]], lit && !lit(i) ? faded : full);
    }
    raster.show();
  }

  drawMarks() {
    const { context, marks, theme } = this;
    context.lineCap = "round";
    for (const from of marks.near.length && !marks.arrows.length ? marks.asked.slice(0, 1) : []) {
      const start = this.toScreen(this.x[from], this.y[from]);
      for (const { row, colour, strength } of marks.near) {
        context.strokeStyle = colour;
        context.globalAlpha = (0.15 + 0.5 * strength) * this.dim;
        context.lineWidth = 0.75 + 1.25 * strength;
        context.beginPath();
        context.moveTo(...start);
        context.lineTo(...this.toScreen(this.x[row], this.y[row]));
        context.stroke();
      }
    }
    context.globalAlpha = this.dim;
    for (const [from, to] of marks.arrows) this.drawArrow(from, to);
    for (const { row, colour } of marks.near) this.drawRing(row, colour, 1.5, 2);
    for (const row of marks.asked) this.drawRing(row, theme.ink, 2, 3);
    context.globalAlpha = 1;
    if (this.hovered >= 0) this.drawRing(this.hovered, theme.ink, 1.5, 2);
  }

  drawRing(row, colour, width, distance) {
    const { context } = this;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    context.arc(...this.toScreen(this.x[row], this.y[row]), this.radius(this.sizeOf[row]) + distance, 0, 2 * Math.PI);
    context.stroke();
  }

  /** From one word to another, bent a little, as in the drawings of analogies. */
  drawArrow(from, to) {
    const { context } = this;
    const [x0, y0] = this.toScreen(this.x[from], this.y[from]);
    const [x1, y1] = this.toScreen(this.x[to], this.y[to]);
    const length = Math.hypot(x1 - x0, y1 - y0);
    if (length < 24) return;
    const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
    const bend = Math.min(length * 0.14, 60);
    const [mx, my] = [(x0 + x1) / 2 + uy * bend, (y0 + y1) / 2 - ux * bend];
    const end = Math.hypot(x1 - mx, y1 - my);
    const [ex, ey] = [(x1 - mx) / end, (y1 - my) / end];
    const [tx, ty] = [x1 - ex * 10, y1 - ey * 10];
    context.strokeStyle = context.fillStyle = this.theme.accent;
    context.lineWidth = 1.75;
    context.setLineDash([1, 5]);
    context.beginPath();
    context.moveTo(x0 + ux * 8, y0 + uy * 8);
    context.quadraticCurveTo(mx, my, tx, ty);
    context.stroke();
    context.setLineDash([]);
    context.beginPath();
    context.moveTo(tx + ex * 3, ty + ey * 3);
    context.lineTo(tx - ex * 6 - ey * 4.5, ty - ey * 6 + ex * 4.5);
    context.lineTo(tx - ex * 6 + ey * 4.5, ty - ey * 6 - ex * 4.5);
    context.fill();
  }

  /** The circle at the centre that is moved with the keys. */
  drawSight() {
    const { context } = this;
    const [cx, cy] = this.centre;
    context.strokeStyle = this.theme.accent;
    context.lineWidth = 1.5;
    context.beginPath();
    context.arc(cx, cy, 16, 0, 2 * Math.PI);
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(cx + dx * 16, cy + dy * 16);
      context.lineTo(cx + dx * 22, cy + dy * 22);
    }
    context.stroke();
  }

  // ---- labels

  font(size, bold) {
    return `${bold ? 600 : 400} ${size}px ${this.theme.font}`;
  }

  text(row) {
    const shown = this.model.shown[row];
    return shown.length > 40 ? `${[...shown].slice(0, 32).join("")}…` : shown;
  }

  /** Width of a label of 12 pixels. */
  widthOf(row) {
    if (!this.widths[row]) {
      this.context.font = this.font(12, false);
      this.widths[row] = this.context.measureText(this.text(row)).width + 1e-3;
    }
    return this.widths[row];
  }

  /**
   * Choose the labels that fit: those that were asked for first, then the most frequent words. Which of two that
   * collide is shown depends on nothing but the zoom, so labels stay while the map is moved.
   */
  placeLabels() {
    const taken = new Taken();
    const placed = [];
    const { width, height } = this;
    const add = (row, size, kind, pad) => {
      const [sx, sy] = this.toScreen(this.x[row], this.y[row]);
      const away = this.radius(this.sizeOf[row]) + 4;
      const w = (this.widthOf(row) * size * (kind === 2 ? 1.08 : 1)) / 12;
      for (const [dx, dy] of kind ? AROUND : AROUND.slice(0, 1)) {
        const left = sx + away * dx - (w * (1 - Math.sign(dx))) / 2;
        const middle = sy + dy * (away + size * 0.55);
        const box = [left - pad, middle - size * 0.6 - pad / 2, left + w + pad, middle + size * 0.6 + pad / 2];
        if (!taken.free(box)) continue;
        taken.take(box);
        placed.push({ row, left, middle, size, kind, far: Math.hypot(dx, dy) > 1.5 });
        return;
      }
    };
    const { asked, near } = this.marks;
    const special = new Set([...asked, this.hovered, this.aimed, ...near.map((mark) => mark.row)]);
    special.delete(-1);
    const first = new Set([...asked, this.hovered, this.aimed]);
    for (const row of special) { // no label covers a marked point
      const [sx, sy] = this.toScreen(this.x[row], this.y[row]);
      const around = this.radius(this.sizeOf[row]) + 1;
      taken.take([sx - around, sy - around, sx + around, sy + around]);
    }
    for (const row of special) add(row, first.has(row) ? 15 : 13, first.has(row) ? 2 : 1, 1);
    const most = (width * height) / (this.lit ? 18000 : 5200);
    const pad = clamp(9 - this.view.scale / this.fitting().scale / 4, 4, 9);
    const { x, y, view } = this;
    const [cx, cy] = this.centre;
    for (let row = 0; row < x.length && placed.length < most; row++) {
      const sx = (x[row] - view.x) * view.scale + cx;
      const sy = (y[row] - view.y) * view.scale + cy;
      if (sx < 0 || sy < 0 || sx > width || sy > height || special.has(row)) continue;
      if (taken.covers(sx + 8, sy)) continue; // cheap, and so for most
      add(row, 11 + Math.round((this.sizeOf[row] / SIZES) * 4), 0, pad);
    }
    return placed;
  }

  drawLabels(now) {
    const { context, theme } = this;
    const elapsed = calm.matches ? 1 : clamp((now - (this.drawn ?? now)) / 160, 0, 1);
    this.drawn = now;
    const placed = new Map(this.placeLabels().map((label) => [label.row, label]));
    this.fading = false;
    context.textBaseline = "middle";
    context.lineJoin = "round";
    context.direction = "ltr";
    context.strokeStyle = theme.paper;
    for (const row of new Set([...this.labels.keys(), ...placed.keys()])) {
      const old = this.labels.get(row);
      let label = placed.get(row);
      const goal = label ? 1 : 0;
      const alpha = clamp((old?.alpha ?? 0) + Math.sign(goal - (old?.alpha ?? 0)) * elapsed, 0, 1);
      if (!label) { // on its way out, it goes along with its point
        const [sx, sy] = this.toScreen(this.x[row], this.y[row]);
        label = { ...old, kind: 0, left: sx + old.dx, middle: sy + old.dy };
      }
      if (alpha !== goal) this.fading = true;
      if (!alpha && !goal) {
        this.labels.delete(row);
        continue;
      }
      const [sx, sy] = this.toScreen(this.x[row], this.y[row]);
      this.labels.set(row, { ...label, alpha, dx: label.left - sx, dy: label.middle - sy });
      const faded = this.lit && !label.kind && !this.lit(row) ? 1 - 0.6 * this.dim : 1;
      context.globalAlpha = alpha * faded;
      if (label.far) this.drawLeader(sx, sy, label);
      context.font = this.font(label.size, label.kind === 2);
      context.lineWidth = 3.5;
      context.strokeText(this.text(row), label.left, label.middle);
      context.fillStyle = label.kind || this.sizeOf[row] > 2 ? theme.ink : theme.label;
      context.fillText(this.text(row), label.left, label.middle);
    }
    context.globalAlpha = 1;
  }

  /** The line from a point to its label, where that stands away from it. */
  drawLeader(sx, sy, { row, left, middle, size }) {
    const { context } = this;
    const right = left + (this.widthOf(row) * size) / 12;
    context.save();
    context.strokeStyle = this.theme.faint;
    context.lineWidth = 0.75;
    context.beginPath();
    context.moveTo(sx, sy);
    context.lineTo(clamp(sx, left - 2, right + 2), middle + Math.sign(sy - middle) * size * 0.45);
    context.stroke();
    context.restore();
  }

  // ---- hands

  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  pick([sx, sy], within) {
    const [x, y] = this.toMap(sx, sy);
    return this.grid.nearest(x, y, within / this.view.scale);
  }

  hover(row) {
    if (row === this.hovered) return;
    this.hovered = row;
    this.canvas.classList.toggle("pointing", row >= 0);
    this.invalidate();
  }

  listen() {
    const { canvas } = this;
    const fingers = new Map();
    let travelled = 0;
    let speed = [0, 0];
    let tapped = { time: 0, place: [0, 0] };

    const middle = () => {
      const all = [...fingers.values()];
      const sum = all.reduce(([ax, ay], [bx, by]) => [ax + bx, ay + by], [0, 0]);
      const place = [sum[0] / all.length, sum[1] / all.length];
      return [place, all.length > 1 ? Math.hypot(all[0][0] - all[1][0], all[0][1] - all[1][1]) : 0];
    };

    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      this.stop("view");
      canvas.setPointerCapture(event.pointerId);
      fingers.set(event.pointerId, this.at(event));
      if (fingers.size === 1) travelled = 0;
      else travelled = Infinity; // two fingers never choose a word
      speed = [0, 0];
    });

    canvas.addEventListener("pointermove", (event) => {
      const place = this.at(event);
      if (!fingers.has(event.pointerId)) {
        if (event.pointerType !== "touch") this.hover(this.pick(place, CLOSE));
        return;
      }
      const [before, spread] = middle();
      fingers.set(event.pointerId, place);
      const [after, wider] = middle();
      const [dx, dy] = [before[0] - after[0], before[1] - after[1]];
      travelled += Math.hypot(dx, dy);
      if (travelled < 4) {
        fingers.set(event.pointerId, before); // not yet a drag: let it start from here
        return;
      }
      canvas.classList.add("moving");
      this.hover(-1);
      this.panBy(dx, dy);
      speed = [0.6 * dx + 0.4 * speed[0], 0.6 * dy + 0.4 * speed[1]];
      if (spread && wider) this.zoomAt(wider / spread, after);
    });

    const lift = (event) => {
      if (!fingers.delete(event.pointerId) || fingers.size) return;
      canvas.classList.remove("moving");
      if (event.type === "pointercancel") return;
      if (travelled >= 4) {
        const [vx, vy] = speed;
        if (travelled !== Infinity && Math.hypot(vx, vy) > 3) { // it glides on a little
          let last = 0;
          this.animate("view", 500, (t) => {
            const way = 1 - (1 - t) ** 3;
            this.panBy(vx * 9 * (way - last), vy * 9 * (way - last));
            last = way;
          });
        }
        return;
      }
      const place = this.at(event);
      const twice = event.timeStamp - tapped.time < 320 && Math.hypot(place[0] - tapped.place[0], place[1] - tapped.place[1]) < 24;
      tapped = { time: event.timeStamp, place };
      const row = this.pick(place, event.pointerType === "touch" ? 2 * CLOSE : CLOSE);
      if (twice && row < 0) this.zoomBy(2.2, place);
      else this.choose(row);
    };
    canvas.addEventListener("pointerup", lift);
    canvas.addEventListener("pointercancel", lift);
    canvas.addEventListener("pointerleave", () => this.hover(-1));

    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.stop("view");
      const pixels = event.deltaY * [1, 16, this.height][event.deltaMode];
      this.zoomAt(Math.exp(-clamp(pixels, -200, 200) * (event.ctrlKey ? 0.01 : 0.0018)), this.at(event));
      this.hover(this.pick(this.at(event), CLOSE));
    }, { passive: false });

    canvas.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 240 : 80;
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key in moves) this.glide(...moves[event.key]);
      else if (event.key === "Enter" && this.aimed >= 0) this.choose(this.aimed);
      else return;
      event.preventDefault();
    });
    for (const change of ["focus", "blur"]) canvas.addEventListener(change, () => this.invalidate());
  }

  glide(dx, dy) {
    let last = 0;
    this.animate("view", 160, (t) => {
      this.panBy(dx * (t - last), dy * (t - last));
      last = t;
    });
  }

  /** With the keyboard, the point nearest to the centre is the one that Enter chooses. */
  takeAim() {
    const row = this.canvas.matches(":focus-visible") ? this.pick(this.centre, 200) : -1;
    if (row !== this.aimed) this.aim((this.aimed = row));
  }
}
