"use strict";
// Search, lists, colours, keys: everything around the map.

const element = (id) => document.getElementById(id);
const LISTED = 12; // neighbours shown of a word

/** Make an element; children are elements or text, which is never read as HTML. */
function make(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("--")) made.style.setProperty(name, value);
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

const whole = (number) => number.toLocaleString("en-US");
/** A similarity as Python's f"{x:.3f}". */
const digits = (number) => number.toFixed(3);

class Page {
  constructor(model) {
    this.model = model;
    this.sum = null; // what is asked: {positive, negative}
    this.asked = "";
    this.map = new WordMap(element("map"), model, {
      choose: (row) => this.go(row < 0 ? "" : model.words[row]),
      aim: (row) => row >= 0 && this.say(`${model.shown[row]}. Enter shows its neighbours.`),
    });
    this.colourBy = model.spaces.length > 1 ? "shared" : "cluster";
    this.introduce();
    this.setUpSearch();
    this.setUpTools();
    if (model.shared) this.setUpComparison();
    this.setUpColours();
    this.watchLayout();
    this.retheme();
    const address = () => decodeURIComponent(location.hash.slice(1));
    this.open(address());
    window.addEventListener("hashchange", () => address() === this.asked || this.open(address()));
  }

  /** Say something to those who hear the page; the last of several in quick succession. */
  say(text) {
    clearTimeout(this.saying);
    this.saying = setTimeout(() => (element("status").textContent = text), 250);
  }

  word(row) {
    return make("bdi", {}, this.model.shown[row]);
  }

  seen(row) {
    const { counts } = this.model;
    return counts ? `${whole(counts[row])}×` : `no. ${whole(row + 1)}`;
  }

  /** How much of a word's neighbourhood two models share. */
  percent(row) {
    return `${Math.round((100 * this.model.shared[row]) / this.model.nearest_compared)}%`;
  }

  introduce() {
    const { spaces, size } = this.model;
    const [first, second] = spaces;
    element("name").append(first.name, ...(second ? [make("span", { className: "versus" }, " and "), second.name] : []));
    const dims = [...new Set(spaces.map((space) => space.dim))].join(" and ");
    element("facts").textContent = second
      ? `${whole(size)} words that both have · ${dims} dimensions`
      : `${size < first.total ? `${whole(size)} of ${whole(first.total)}` : whole(size)} words · ${dims} dimensions`;
    const tries = this.model.examples.filter((text) => this.model.parse(text).unknown.length === 0);
    element("examples").hidden = tries.length === 0;
    element("examples").querySelector("p").append(
      ...tries.map((text) => make("button", { type: "button", className: "chip", onclick: () => this.go(text) }, make("bdi", {}, text))),
    );
    element("search").placeholder = "Find a word, or a − b + c";
    if (second) {
      element("about-compare").hidden = element("about-swap").hidden = element("about-swap-key").hidden = false;
      element("about-compare").textContent =
        `A word differs as much as its neighbourhood does: of the ${whole(this.model.nearest_compared)} words nearest to it in one model, how many ` +
        "are among them in the other (Gonen et al., 2020). The second map started from the first, so that what agrees stays in its place.";
    }
  }

  // ---- asking

  /** Ask for a word or a sum of words: in the address, so that it can be shared, and gone back from. */
  go(text) {
    this.open(text);
    location.hash = encodeURIComponent(text);
  }

  open(text) {
    const { model } = this;
    const sum = model.parse(text);
    const empty = !sum.unknown.length && !sum.positive.length && !sum.negative.length;
    this.asked = text;
    this.sum = empty || sum.unknown.length ? null : sum;
    element("search").value = empty ? "" : text;
    element("word").hidden = empty;
    element("examples").hidden = !empty || !element("examples").querySelector("button");
    element("changed").hidden = !model.shared || !empty;
    element("colours").hidden = !empty && matchMedia("(max-width: 760px)").matches;
    if (sum.unknown.length) this.showProblem(sum.unknown);
    else if (this.sum) this.showSum();
    else this.map.mark({ asked: [], near: [], arrows: [] });
    element("side-body").scrollTop = 0;
    if (!empty) this.unfold(true);
    this.measure();
    if (this.sum) this.frameSum();
  }

  showProblem(unknown) {
    this.map.mark({ asked: [], near: [], arrows: [] });
    element("word-name").className = "sum";
    element("word-name").replaceChildren(...unknown.flatMap((term, i) => [i ? ", " : "", make("bdi", {}, `“${term}”`)]));
    element("word-facts").textContent = this.model.spaces.length > 1 ? "is not among the words that both models have" : "is not among the words of this page";
    element("word-lists").replaceChildren();
    const alike = unknown.flatMap((term) => this.model.alike(term));
    element("word-actions").replaceChildren(
      ...[...new Set(alike)].map((row) => make("button", { type: "button", className: "chip", onclick: () => this.go(this.model.words[row]) }, this.word(row))),
    );
    this.say(`${unknown.join(", ")}: not among the words`);
  }

  showSum() {
    const { model, sum } = this;
    const single = sum.positive.length === 1 && !sum.negative.length;
    const title = element("word-name");
    title.className = single ? "" : "sum";
    title.replaceChildren(...this.spell(sum));
    const facts = [];
    if (single) {
      const [row] = sum.positive;
      if (model.counts) facts.push(`seen ${whole(model.counts[row])} times`);
      facts.push(`no. ${whole(row + 1)} by frequency`);
      if (model.shared) facts.push(`${this.percent(row)} of ${whole(model.nearest_compared)} neighbours shared`);
    } else facts.push(model.shared ? "nearest to the sum in each model" : "nearest to the sum");
    element("word-facts").textContent = facts.join(" · ");

    const lists = model.spaces.map((_, space) => model.nearest(sum.positive, sum.negative, LISTED, space));
    const inAll = (row) => lists.every((list) => list.some((near) => near.row === row));
    element("word-lists").className = lists.length > 1 ? "pair" : "";
    element("word-lists").replaceChildren(
      ...lists.map((list, space) =>
        make("div", lists.length > 1 ? { "data-space": space } : {},
          ...(lists.length > 1 ? [make("h3", { title: model.spaces[space].name }, model.spaces[space].name)] : []),
          make("ol", { className: "neighbours", "aria-label": `Nearest words${lists.length > 1 ? ` in ${model.spaces[space].name}` : ""}` },
            ...list.map(({ row, similarity }) => make("li", {}, this.neighbour(row, similarity, lists.length > 1 && inAll(row)))),
          ),
        ),
      ),
    );
    element("word-actions").replaceChildren(
      ...(single ? ["−", "+"] : []).map((sign) =>
        make("button", { type: "button", className: "chip", onclick: () => this.continueWith(sign) }, sign === "+" ? "+ a word" : "− a word"),
      ),
    );
    this.markSum(lists);
    const best = lists.map(([near]) => (near ? `${model.shown[near.row]} ${digits(near.similarity)}` : "nothing"));
    this.say(`Nearest to ${title.textContent}: ${best.join("; ")}`);
  }

  /** "king − man + woman" as elements. */
  spell({ positive, negative }) {
    const terms = [...positive.slice(0, 1).map((row) => ["", row]), ...negative.map((row) => ["−", row]), ...positive.slice(1).map((row) => ["+", row])];
    return terms.flatMap(([sign, row]) => [...(sign ? [make("span", { className: "sign" }, sign)] : []), this.word(row)]);
  }

  neighbour(row, similarity, shared) {
    return make("button", {
      type: "button", className: shared ? "shared" : "", "--share": Math.max(similarity, 0),
      title: shared ? "in both models" : "",
      onclick: () => this.go(this.model.words[row]),
      onpointerenter: () => this.map.hover(row), onpointerleave: () => this.map.hover(-1),
      onfocus: () => this.map.hover(row), onblur: () => this.map.hover(-1),
    }, this.word(row), make("span", { className: "number" }, digits(similarity)));
  }

  markSum(lists) {
    const { sum, theme } = this;
    const marks = new Map();
    const own = [theme.first, theme.second];
    for (const [space, list] of lists.entries()) {
      for (const { row, similarity } of list) {
        const colour = lists.length === 1 ? theme.accent : marks.has(row) ? theme.faint : own[space];
        marks.set(row, { row, colour, strength: clamp(similarity, 0, 1) });
      }
    }
    const asked = [...sum.positive, ...sum.negative];
    const arrows = [];
    if (sum.positive.length === 2 && sum.negative.length === 1 && lists[0].length) { // a − b + c: as b is to a, so is c to …
      arrows.push([sum.negative[0], sum.positive[0]], [sum.positive[1], lists[this.map.space][0].row]);
    }
    this.map.mark({ asked, near: [...marks.values()], arrows });
  }

  /** Move the map so that what was asked for shows, unless it does. */
  frameSum() {
    const { asked, near } = this.map.marks;
    const row = asked[0];
    const [sx, sy] = this.map.toScreen(this.map.x[row], this.map.y[row]);
    const { left, top, right, bottom } = this.map.insets;
    const inside = sx > left + 40 && sy > top + 40 && sx < this.map.width - right - 40 && sy < this.map.height - bottom - 40;
    const close = this.map.view.scale > 2.2 * this.map.fitting().scale;
    if (asked.length > 1) this.map.showRows([...asked, ...near.slice(0, 1).map((mark) => mark.row)]);
    else if (!inside || !close) this.map.goTo(row, near.map((mark) => mark.row));
  }

  continueWith(sign) {
    element("search").value = `${this.asked} ${sign} `;
    element("search").focus();
    this.suggest();
  }

  // ---- search

  setUpSearch() {
    const search = element("search");
    const results = element("results");
    search.addEventListener("input", () => this.suggest());
    search.addEventListener("focus", () => search.select());
    search.addEventListener("blur", () => this.closeResults());
    search.addEventListener("keydown", (event) => {
      const rows = [...results.querySelectorAll("[role=option]")];
      const at = rows.findIndex((item) => item.ariaSelected === "true");
      if ((event.key === "ArrowDown" || event.key === "ArrowUp") && rows.length) {
        this.selectResult(rows, event.key === "ArrowDown" ? (at + 1) % rows.length : at <= 0 ? rows.length - 1 : at - 1);
        event.preventDefault();
      } else if (event.key === "Escape") {
        if (!results.hidden) this.closeResults();
        else search.blur();
        event.stopPropagation();
        event.preventDefault();
      }
    });
    results.addEventListener("pointerdown", (event) => event.preventDefault()); // keep the focus where it is
    results.addEventListener("click", (event) => event.target.closest("[role=option]")?.take());
    element("search-form").addEventListener("submit", (event) => {
      event.preventDefault();
      const chosen = results.querySelector("[aria-selected=true]");
      const text = search.value.trim();
      if (chosen) chosen.take();
      else if (this.model.parse(text).unknown.length && results.querySelector("[role=option]")) results.querySelector("[role=option]").take();
      else this.finish(text);
    });
    element("word-close").addEventListener("click", () => this.go(""));
  }

  finish(text) {
    this.closeResults();
    element("search").blur();
    this.go(text);
  }

  /** List words for what is being typed; in a sum, for its last term. */
  suggest() {
    const search = element("search");
    const results = element("results");
    const text = search.value;
    const before = this.model.index.has(text.trim()) ? "" : (/^.*(?:^|\s)[-+−–]\s+/s.exec(text)?.[0] ?? "");
    const rows = this.model.search(text.slice(before.length).trim());
    const items = rows.map((row, i) =>
      make("li", { id: `result-${i}`, role: "option", "aria-selected": "false", take: null },
        make("span", {}, make("span", { className: "faint" }, before), this.word(row)),
        make("span", { className: "count" }, this.seen(row))),
    );
    for (const [i, item] of items.entries()) {
      item.take = () => {
        const taken = before + this.model.words[rows[i]];
        this.finish(taken);
      };
    }
    if (!items.length && text.trim() && text.length > before.length) {
      items.push(make("li", { className: "note" }, "No such word here"));
    }
    results.replaceChildren(...items);
    results.hidden = !items.length;
    search.ariaExpanded = String(!results.hidden);
    search.removeAttribute("aria-activedescendant");
  }

  selectResult(items, at) {
    for (const [i, item] of items.entries()) item.ariaSelected = String(i === at);
    items[at].scrollIntoView({ block: "nearest" });
    element("search").setAttribute("aria-activedescendant", items[at].id);
  }

  closeResults() {
    element("results").hidden = true;
    element("search").ariaExpanded = "false";
    element("search").removeAttribute("aria-activedescendant");
  }

  // ---- choices

  /** Fill a row of buttons of which one is on; arrows go from one to the next, as in any group of radio buttons. */
  choice(group, options, chosen, choose) {
    const buttons = options.map(([value, label]) => make("button", { type: "button", role: "radio" }, label));
    const set = (at) => {
      for (const [i, button] of buttons.entries()) {
        button.ariaChecked = String(i === at);
        button.tabIndex = i === at ? 0 : -1;
      }
    };
    const take = (at) => {
      set(at);
      choose(options[at][0]);
    };
    for (const [i, button] of buttons.entries()) {
      button.addEventListener("click", () => take(i));
      button.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (!step) return;
        event.preventDefault();
        const next = (i + step + buttons.length) % buttons.length;
        take(next);
        buttons[next].focus();
      });
    }
    group.replaceChildren(...buttons);
    set(options.findIndex(([value]) => value === chosen));
    return { buttons, set };
  }

  // ---- colours

  setUpColours() {
    const options = [["cluster", "Groups"], ["frequency", "Frequency"]];
    if (this.model.shared) options.unshift(["shared", "Difference"]);
    this.choice(element("colour-by"), options, this.colourBy, (by) => {
      this.colourBy = by;
      this.recolour();
    });
  }

  retheme() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    this.dark = document.documentElement.dataset.theme === "dark";
    this.theme = Object.fromEntries(["paper", "ink", "faint", "accent", "first", "second"].map((name) => [name, colour(name)]));
    this.theme.label = this.dark ? "#c3c3c4" : "#44474e";
    this.theme.font = colour("text");
    this.recolour();
    if (this.sum) this.showSum();
  }

  /** n colours from a to b, each [lightness, chroma, hue] of OKLCH. */
  static ramp(a, b, n) {
    return Array.from({ length: n }, (_, i) => {
      const [l, c, h] = a.map((from, k) => from + ((b[k] - from) * i) / (n - 1));
      return `oklch(${l.toFixed(3)} ${c.toFixed(3)} ${h.toFixed(1)})`;
    });
  }

  /** The ends of the colours from "agrees" to "differs". */
  static differs(dark) {
    return dark ? [[0.42, 0.015, 40], [0.8, 0.155, 45]] : [[0.85, 0.012, 40], [0.56, 0.2, 33]];
  }

  recolour() {
    const { model, dark } = this;
    const colourOf = new Uint8Array(model.size);
    const legend = element("legend");
    this.map.lit === this.spot && this.map.light(null);
    let colours;
    if (this.colourBy === "cluster") {
      colours = model.clusters.map((_, i) => {
        const hue = 25 + (360 * i) / model.clusters.length;
        return dark ? `oklch(0.76 0.105 ${hue})` : `oklch(0.60 0.115 ${hue})`;
      });
      colourOf.set(model.cluster);
      legend.replaceChildren(this.groups(colours));
    } else {
      const LEVELS = 16;
      const difference = this.colourBy === "shared";
      if (difference) colours = Page.ramp(...Page.differs(dark), LEVELS);
      else colours = dark ? Page.ramp([0.4, 0.04, 270], [0.9, 0.13, 95], LEVELS) : Page.ramp([0.84, 0.035, 250], [0.38, 0.16, 275], LEVELS);
      const level = difference
        ? (i) => this.rank[model.shared[i]]
        : model.counts
          ? (i) => Math.log(model.counts[i] / model.counts[model.size - 1]) / (Math.log(model.counts[0] / model.counts[model.size - 1]) || 1)
          : (i) => 1 - Math.log(i + 1) / Math.log(model.size + 1);
      for (let i = 0; i < model.size; i++) colourOf[i] = clamp(Math.floor(level(i) * LEVELS), 0, LEVELS - 1);
      const ends = difference
        ? ["agree most", "differ most"]
        : model.counts ? [this.seen(model.size - 1), this.seen(0)] : ["rare", "frequent"];
      legend.replaceChildren(
        make("div", { className: "ramp", style: `background: linear-gradient(to right, ${colours.join(", ")})` }),
        make("div", { className: "ends" }, ...ends.map((end) => make("span", {}, end))),
      );
    }
    this.map.paint(colours, colourOf, this.theme);
    this.paintHistogram?.(dark);
    this.measure();
  }

  /** The groups with their colours and most typical words; pointing at one lights it up. */
  groups(colours) {
    const { model } = this;
    const list = make("ul", { className: "groups" });
    let pressed = -1;
    const light = (at) => {
      if (this.sum) return;
      this.spot = at < 0 ? null : (row) => model.cluster[row] === at;
      this.map.light(this.spot);
      list.classList.toggle("lit", pressed >= 0);
    };
    list.append(
      ...model.clusters.map((words, i) => {
        const button = make("button", { type: "button", "aria-pressed": "false", "--colour": colours[i] }, make("span", {}, ...words.flatMap((row, k) => [k ? ", " : "", this.word(row)])));
        button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && light(i));
        button.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && light(pressed));
        button.addEventListener("click", () => {
          pressed = pressed === i ? -1 : i;
          for (const [k, item] of [...list.children].entries()) item.firstChild.ariaPressed = String(k === pressed);
          light(pressed);
        });
        return make("li", {}, button);
      }),
    );
    return list;
  }

  // ---- two models

  setUpComparison() {
    const { model } = this;
    const k = model.nearest_compared;
    const maps = this.choice(element("maps"), model.spaces.map((space, i) => [i, space.name]), 0, (space) => this.showSpace(space));
    for (const [i, button] of maps.buttons.entries()) button.dataset.space = i;
    this.setMap = maps.set;
    element("maps").hidden = false;

    const order = Array.from({ length: model.size }, (_, i) => i).sort((a, b) => model.shared[a] - model.shared[b] || a - b);
    element("changed-facts").textContent =
      `Of the ${whole(k)} words nearest to a word in one model, how many are among them in the other: ${this.percent(order[model.size >> 1])} for the median word.`;

    // The share of words that agree more, by the number of shared neighbours: colours are by rank, to tell words apart.
    this.rank = new Float32Array(k + 1);
    for (const shared of model.shared) for (let fewer = 0; fewer < shared; fewer++) this.rank[fewer] += 1 / model.size;

    const bars = new Array(Math.min(k + 1, 26)).fill(0);
    for (const shared of model.shared) bars[Math.floor((shared / (k + 1)) * bars.length)]++;
    this.paintHistogram = (dark) => {
      const colours = Page.ramp(...Page.differs(dark).reverse(), bars.length);
      element("changed-histogram").replaceChildren(...bars.map((bar, i) => make("i", { "--colour": colours[i], style: `--colour: ${colours[i]}; height: ${(100 * bar) / Math.max(...bars)}%` })));
    };
    element("changed-histogram").ariaLabel = element("changed-facts").textContent;

    const list = (most) => {
      const rows = order.filter((row) => row < most).slice(0, 40);
      element("changed-list").replaceChildren(
        ...rows.map((row) =>
          make("li", {}, make("button", {
            type: "button", onclick: () => this.go(model.words[row]), title: `${this.percent(row)} of ${whole(k)} neighbours shared`,
            onpointerenter: () => this.map.hover(row), onpointerleave: () => this.map.hover(-1),
          }, this.word(row), make("span", { className: "number" }, this.percent(row)))),
        ),
      );
    };
    const steps = [1000, 5000].filter((most) => most < model.size);
    const start = steps.at(-1) ?? model.size;
    element("changed-among").hidden = !steps.length;
    this.choice(element("changed-among"), [...steps.map((most) => [most, `first ${whole(most)}`]), [model.size, "all words"]], start, list);
    list(start);

    element("changed-only").append(
      ...model.only.flatMap(({ total, words }, i) =>
        total ? [make("details", {}, make("summary", {}, `${whole(total)} words only in ${model.spaces[i].name}`),
          make("p", {}, ...words.flatMap((word, k) => [k ? ", " : "", make("bdi", {}, visible(word))]), total > words.length ? ", …" : ""))] : [],
      ),
    );
    element("changed").hidden = false;
  }

  showSpace(space) {
    this.map.goToSpace(space);
    if (this.sum) this.showSum();
    this.say(`Map of ${this.model.spaces[space].name}`);
  }

  // ---- the frame around it

  setUpTools() {
    element("zoom-in").addEventListener("click", () => this.map.zoomBy(1.6));
    element("zoom-out").addEventListener("click", () => this.map.zoomBy(1 / 1.6));
    element("zoom-fit").addEventListener("click", () => this.map.showAll());
    element("help").addEventListener("click", () => element("about").showModal());
    element("about").addEventListener("click", (event) => event.target === event.currentTarget && event.target.close());
    element("fold").addEventListener("click", () => this.unfold(element("fold").ariaExpanded !== "true"));

    const root = document.documentElement;
    const system = matchMedia("(prefers-color-scheme: dark)");
    let chosen = null;
    system.addEventListener("change", () => {
      if (chosen) return;
      root.dataset.theme = system.matches ? "dark" : "light";
      this.retheme();
    });
    element("theme").addEventListener("click", () => {
      root.dataset.theme = chosen = this.dark ? "light" : "dark";
      this.retheme();
    });

    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || element("about").open) return;
      if (event.key === "Escape") return this.go("");
      if (event.target.matches("input")) return;
      const keys = {
        "/": () => element("search").focus(),
        "+": () => this.map.zoomBy(1.6),
        "=": () => this.map.zoomBy(1.6),
        "-": () => this.map.zoomBy(1 / 1.6),
        "0": () => this.map.showAll(),
        "?": () => element("about").showModal(),
        c: () => {
          if (this.model.spaces.length < 2) return;
          const other = 1 - this.map.space;
          this.setMap(other);
          this.showSpace(other);
        },
      };
      if (!Object.hasOwn(keys, event.key)) return;
      event.preventDefault();
      keys[event.key]();
    });
  }

  unfold(open) {
    element("fold").ariaExpanded = String(open);
    this.measure();
  }

  /** Tell the map what the cards cover, and the styles how high they are. */
  measure() {
    const head = element("head").getBoundingClientRect();
    const root = document.documentElement.style;
    root.setProperty("--head-height", `${head.height}px`);
    const side = element("side").getBoundingClientRect();
    const phone = matchMedia("(max-width: 760px)").matches;
    root.setProperty("--side-height", `${phone ? side.height : 0}px`);
    this.map.insets = phone ? { left: 0, top: head.bottom, right: 0, bottom: side.height } : { left: side.right, top: 0, right: 0, bottom: this.model.shared ? 64 : 0 };
  }

  watchLayout() {
    this.measure();
    this.map.view = this.map.fitting();
    new ResizeObserver(() => {
      const whole = Math.abs(this.map.view.scale / this.map.fitting().scale - 1) < 0.01;
      this.measure();
      if (whole) this.map.view = this.map.fitting();
      this.map.invalidate();
    }).observe(element("side"));
    window.addEventListener("resize", () => this.measure());
  }
}

Model.load().then(
  (model) => {
    window.page = new Page(model);
    element("loading").classList.add("done");
    document.documentElement.dataset.ready = "";
  },
  (error) => {
    element("loading").textContent = typeof DecompressionStream === "undefined"
      ? "This browser is too old to unpack the words of this page (it lacks DecompressionStream)."
      : `The words of this page cannot be unpacked: ${error.message}`;
    throw error;
  },
);
