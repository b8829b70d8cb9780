"use strict";
// The words, their vectors and their places on the map, and what can be asked of them. Nothing here draws.

const FIXED_POINT = 2 ** 23; // numbers are stored as 24-bit fixed point, which a float32 holds exactly

/** Return the bytes of one of the page's data blocks: base64 of gzip. */
async function unpack(id) {
  const block = document.getElementById(id);
  const text = atob(block.textContent.trim());
  block.remove(); // the memory of the text is wanted back
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

/** Three planes of bytes (low, middle, high) to numbers. */
function fromPlanes(buffer) {
  const size = buffer.byteLength / 3;
  const [low, middle, high] = [0, 1, 2].map((plane) => new Uint8Array(buffer, plane * size, size));
  const numbers = new Float32Array(size);
  for (let i = 0; i < size; i++) {
    numbers[i] = (((high[i] << 24) | (middle[i] << 16) | (low[i] << 8)) >> 8) / FIXED_POINT;
  }
  return numbers;
}

/** Without case and Latin accents, so that "zurich" finds "Zürich". */
const fold = (text) => text.normalize("NFKD").replace(/[\u0300-\u036f]/g, "").toLowerCase();

/** A word as it can be shown: what is invisible or turns the line round is spelled out. */
const visible = (word) =>
  word
    .replace(/(?![\u200c\u200d])[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`)
    .replace(/^\p{Zs}+|\p{Zs}+$/gu, (spaces) => "␣".repeat(spaces.length));

/**
 * One model, or two over the same words.
 *
 * words: n words, most frequent first. counts: how often each was seen, or null. cluster: the group of each.
 * spaces: for each model {name, dim, total, vectors: n × dim numbers, unit rows, x, y: n places on the map}.
 * shared: of two models, how many of the `nearest` closest words of each word are the same in both; or null.
 */
class Model {
  static async load() {
    const decoder = new TextDecoder();
    const facts = JSON.parse(decoder.decode(await unpack("words")));
    for (const [number, space] of facts.spaces.entries()) {
      space.vectors = fromPlanes(await unpack(`vectors-${number}`));
      const places = new Float32Array(await unpack(`places-${number}`));
      space.x = places.subarray(0, facts.words.length);
      space.y = places.subarray(facts.words.length);
    }
    return new Model(facts);
  }

  constructor(facts) {
    Object.assign(this, facts);
    this.size = this.words.length;
    this.folded = this.words.map(fold);
    this.index = new Map(this.words.map((word, i) => [word, i]));
    this.shown = this.words.map(visible);
  }

  /**
   * The words nearest to a sum of words, as Embeddings.most_similar in Python: unit vectors, added and subtracted;
   * cosine similarity; without the words of the sum.
   */
  nearest(positive, negative = [], count = 10, space = 0) {
    const { vectors, dim } = this.spaces[space];
    const query = new Float64Array(dim);
    for (const [rows, sign] of [[positive, 1], [negative, -1]]) {
      for (const row of rows) for (let d = 0; d < dim; d++) query[d] += sign * vectors[row * dim + d];
    }
    const length = Math.hypot(...query) || 1;
    for (let d = 0; d < dim; d++) query[d] /= length;
    const best = []; // most similar first
    const asked = new Set([...positive, ...negative]);
    for (let row = 0, at = 0; row < this.size; row++) {
      let similarity = 0;
      for (let d = 0; d < dim; d++, at++) similarity += query[d] * vectors[at];
      if ((best.length < count || similarity > best[best.length - 1].similarity) && !asked.has(row)) {
        let place = best.length;
        while (place > 0 && best[place - 1].similarity < similarity) place--;
        best.splice(place, 0, { row, similarity });
        if (best.length > count) best.pop();
      }
    }
    return best;
  }

  /** The row of what was typed: the word itself, or the most frequent that differs only in case or accents; or -1. */
  find(text) {
    return this.index.get(text) ?? this.folded.indexOf(fold(text));
  }

  /** Rows of words that begin with the text, then of those that hold it; the most frequent first. */
  search(text, count = 8) {
    const wanted = fold(text);
    if (!wanted) return [];
    const exact = this.index.get(text);
    const begins = exact === undefined ? [] : [exact];
    const holds = [];
    for (let row = 0; row < this.size && begins.length < count; row++) {
      const at = row === exact ? -1 : this.folded[row].indexOf(wanted);
      if (at === 0) begins.push(row);
      else if (at > 0 && holds.length < count) holds.push(row);
    }
    return [...begins, ...holds].slice(0, count);
  }

  /** Rows of words spelled like a text: those that share the most pairs of letters with it (Dice's coefficient). */
  alike(text, count = 6) {
    const pairs = (word) => new Set(Array.from({ length: word.length + 1 }, (_, i) => ` ${word} `.slice(i, i + 2)));
    const wanted = pairs(fold(text));
    const found = [];
    for (const [row, word] of this.folded.entries()) {
      let both = 0;
      for (const pair of pairs(word)) both += wanted.has(pair);
      const share = (2 * both) / (wanted.size + word.length + 1);
      if (share > 0.5) found.push([share, row]);
    }
    return found.sort((a, b) => b[0] - a[0]).slice(0, count).map(([, row]) => row);
  }

  /** Read "king - man + woman". Signs stand between spaces, since words may hold them; a word that is one wins. */
  parse(text) {
    const sum = { positive: [], negative: [], unknown: [] };
    const whole = this.index.get(text) ?? this.index.get(text.trim());
    if (whole !== undefined) return { ...sum, positive: [whole] };
    let sign = "+";
    for (const part of text.trim().split(/(?:^|\s+)([-+−–])\s+/)) {
      if (/^[-+−–]$/.test(part)) sign = part;
      else if (part.trim()) {
        const row = this.find(part.trim());
        if (row < 0) sum.unknown.push(part.trim());
        else (sign === "+" ? sum.positive : sum.negative).push(row);
      }
    }
    return sum;
  }
}
