// Draws a page's charts when they come near, lets its controls move them, and makes tables when they are opened.
// Charts need vega.js, which is loaded before.
(function () {
  "use strict";

  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));

  // ---------------------------------------------------------------------------------------------------------- charts
  const views = new WeakMap(); // of the charts that were begun: what becomes their view
  const movers = new WeakMap(); // of explorers: what puts their choice into a view
  const widths = new WeakMap();

  // A chart as wide as its place listens to the window only; its place may change alone, when a sidebar opens.
  const watcher = new ResizeObserver((entries) => {
    if (entries.some((entry) => Math.abs(entry.contentRect.width - widths.get(entry.target)) > 1)) window.dispatchEvent(new Event("resize"));
    for (const entry of entries) widths.set(entry.target, entry.contentRect.width);
  });

  function draw(place) {
    if (!views.has(place)) views.set(place, embed(place));
    return views.get(place);
  }

  async function embed(place) {
    const text = place.querySelector("script").textContent;
    const spec = JSON.parse(text);
    const { view } = await window.vegaEmbed(place, spec, { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
    const mover = movers.get(place.closest(".tl-explorer"));
    if (mover) await mover(view);
    const svg = place.querySelector("svg");
    svg.setAttribute("aria-label", spec.description);
    dress(place);
    svg.setAttribute("role", "img");
    new MutationObserver(() => dress(place)).observe(svg, { subtree: true, childList: true, attributeFilter: ["aria-label", "aria-roledescription", "fill"] });
    widths.set(place, place.clientWidth);
    watcher.observe(place);
    place.dataset.drawn = "true";
    if (text.includes('"runs"')) runs(place.closest(".tl-panels") || place);
    return view;
  }

  // The runs behind a point, each with the address of its record: of the one that is pointed at or tapped, or, by two
  // buttons, of the next.
  function runs(place) {
    if (place.nextElementSibling?.className === "tl-runs") return; // of another panel beside it
    const line = document.createElement("p");
    const told = document.createElement("span");
    const points = (within = place) => all(".mark-symbol path", within).filter((mark) => mark.__data__?.datum?.runs);
    const published = !place.closest(".tl-toy");
    let at = null; // its datum
    const link = (key, text) => Object.assign(document.createElement(published ? "a" : "span"), { textContent: text, ...(published && { href: `${document.documentElement.dataset.content_root}book/record.html#${key}` }) });

    function show(mark) {
      for (const one of points()) one.classList.toggle("tl-pointed", one === mark);
      if (!mark || mark.__data__.datum === at) return;
      at = mark.__data__.datum;
      told.replaceChildren("The runs behind this point");
      let [last, next] = ["-", 0];
      for (const run of at.runs.split(";")) {
        const [value, key, rate = last, seed = next] = run.split(" ");
        told.append(rate === last ? (next ? " " : ": ") : `, at rate ${rate}: `, link(key, `${next ? "" : "repetition "}${seed}: ${value.replace("-", "−")}`));
        [last, next] = [rate, Number(seed) + 1];
      }
    }

    const go = (by) => {
      const along = (a, b) => a.__data__.x - b.__data__.x || a.__data__.y - b.__data__.y;
      const found = all("svg", place).flatMap((svg) => points(svg).sort(along));
      const index = found.findIndex((mark) => mark.__data__.datum === at);
      show(found[(index + by + found.length + (index < 0 && by < 0)) % found.length]);
    };
    line.className = "tl-runs";
    told.textContent = "Point at a dot for the runs behind it.";
    told.setAttribute("aria-live", "polite");
    for (const [sign, name, by] of [["‹", "previous point", -1], ["›", "next point", 1]]) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: sign, onclick: () => go(by) });
      button.setAttribute("aria-label", name);
      line.append(button);
    }
    line.append(told);
    place.after(line);
    for (const type of ["pointerover", "click"]) place.addEventListener(type, (event) => event.target.__data__?.datum?.runs && show(event.target));
  }

  // One image with one name, where Vega names the place and every mark. Words in a colour tell it to the style sheet,
  // which makes it dark, or light, enough to be read.
  function dress(place) {
    for (const element of [place, ...all("svg :is([role], [aria-label])", place)]) for (const told of ["role", "aria-label", "aria-roledescription"]) element.removeAttribute(told);
    for (const text of all("text[fill^='#']", place)) text.style.setProperty("--tone", text.getAttribute("fill"));
  }

  const near = new IntersectionObserver(
    async (entries) => {
      for (const { target } of entries.filter((entry) => entry.isIntersecting)) {
        near.unobserve(target);
        await draw(target);
        await new Promise((shown) => setTimeout(shown)); // before the next one is begun
      }
      document.documentElement.dataset.charts = "drawn";
    },
    { rootMargin: "1200px 0px" },
  );

  async function drawAll() {
    await Promise.all(all(".tl-chart").map(draw));
    document.documentElement.dataset.charts = "drawn";
  }

  // -------------------------------------------------------------------------------------------------------- controls
  function tell(element, words) {
    if (element.textContent !== words) element.textContent = words;
  }

  // A row of buttons, as if it were a list.
  function buttons(place) {
    const each = all("input", place);
    return {
      name: each[0].name,
      options: each.map((input) => ({ text: input.labels[0].textContent, value: input.value })),
      get selectedIndex() { return each.findIndex((input) => input.checked); },
      set selectedIndex(index) { each[index].checked = true; },
    };
  }

  // Control, sentence and charts follow each other; the choice is in the address: #figure?control=text&…
  function follow(explorer) {
    const form = explorer.querySelector(".tl-controls");
    const figure = explorer.querySelector(".tl-figure");
    const states = JSON.parse(explorer.querySelector(".tl-states").textContent);
    const fields = all("select, [type=range], .tl-buttons", form).map((place) => {
      const field = place.className === "tl-buttons" ? buttons(place) : place;
      const range = field.type === "range";
      const texts = range ? JSON.parse(field.dataset.texts) : Array.from(field.options, (option) => option.text);
      const values = range ? JSON.parse(field.dataset.values) : Array.from(field.options, (option) => option.value);
      return { field, range, texts, values: values.map((value) => JSON.parse(value)), at: range ? "value" : "selectedIndex" };
    });
    const chosen = (what) => fields.map((f) => f[what][Number(f.field[f.at])]);

    let still;

    function move(view) {
      const values = chosen("values");
      fields.forEach(({ field }, i) => view.signal(field.name, values[i]));
      return view.runAsync();
    }

    async function update() {
      explorer.dataset.moved = "true"; // the style sheet lets the charts glide, which they shall not when a page is resized
      clearTimeout(still);
      still = setTimeout(() => delete explorer.dataset.moved, 500);
      const values = chosen("values");
      const state = states.find((s) => s.key.every((v, i) => v === values[i]));
      chosen("texts").forEach((text, i) => {
        if (!fields[i].range) return;
        fields[i].field.setAttribute("aria-valuetext", text);
        tell(form.querySelector(`output[for='${fields[i].field.id}']`), text);
      });
      tell(explorer.querySelector(".tl-sentence"), state.sentence);
      tell(explorer.querySelector(".tl-interval"), state.interval);
      for (const place of all(".tl-chart", explorer).filter((chart) => views.has(chart))) await move(await views.get(place));
    }

    function fromAddress() {
      const [name, query] = location.hash.slice(1).split("?");
      if (name !== figure.id || query === undefined) return;
      for (const [key, word] of new URLSearchParams(query)) {
        const { field, at, texts, values } = fields.find((f) => f.field.name === key) || { texts: [] };
        const index = texts.findIndex((text, i) => text === word || String(values[i]) === word);
        if (index >= 0) field[at] = index;
      }
      const [came] = performance.getEntriesByType("navigation");
      if (!came || came.type === "navigate" || document.documentElement.dataset.charts) figure.scrollIntoView({ behavior: "instant" });
    }

    function toAddress() {
      const texts = chosen("texts");
      const query = new URLSearchParams(fields.map(({ field }, i) => [field.name, texts[i]]));
      history.replaceState(history.state, "", `#${figure.id}?${query}`);
    }

    fields.filter((f) => f.range).forEach((f) => playable(f.field));
    movers.set(explorer, move);
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", update);
    form.addEventListener("change", () => (toAddress(), update()));
    window.addEventListener("pageshow", update); // the browser has put back what was chosen
    window.addEventListener("hashchange", () => (fromAddress(), update()));
    fromAddress();
    update();
  }

  // A button that goes along the steps of a slider, where motion is welcome.
  function playable(slider) {
    if (slider.max < 2) return;
    const frame = document.createElement("span");
    const button = document.createElement("button");
    frame.className = "tl-steps";
    slider.replaceWith(frame);
    frame.append(slider, button);
    button.type = "button";
    button.setAttribute("aria-label", `Play along ${slider.labels[0].firstChild.textContent.trim()}`);
    let timer = 0;
    const go = (on) => {
      clearInterval(timer);
      timer = on ? setInterval(() => (slider.value === slider.max ? go(false) : step(Number(slider.value) + 1)), 900) : 0;
      button.textContent = on ? "❚❚" : "▶";
    };
    const step = (value) => {
      slider.value = value;
      for (const name of ["input", "change"]) slider.dispatchEvent(new Event(name, { bubbles: true }));
    };
    button.addEventListener("click", () => {
      if (!timer && slider.value === slider.max) step(0);
      go(!timer);
    });
    slider.addEventListener("pointerdown", () => go(false));
    slider.addEventListener("keydown", () => go(false));
    go(false);
  }

  // ---------------------------------------------------------------------------------------------------------- tables
  function rows(link) {
    const bytes = Uint8Array.from(atob(link.href.split(",")[1]), (c) => c.charCodeAt(0));
    const text = new TextDecoder().decode(bytes).replace(/\n$/, "");
    const found = [[]];
    for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\n]*))(,|\n|$)/g)) {
      found[found.length - 1].push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
      if (end === "\n") found.push([]);
      if (end === "") break;
    }
    return found;
  }

  // A number as `table_html` prints it: four significant digits (half to even), thousands apart, a true minus sign.
  function printed(text) {
    if (!/^-?\d+(\.\d+)?(e[+-]?\d+)?$/.test(text)) return text;
    const whole = text.match(/^(-?\d+)(\.0)?$/);
    if (whole) return whole[1].replace(/^-0$/, "0").replace(/\B(?=(\d{3})+$)/g, ",").replace("-", "−");
    const exact = Math.abs(text).toExponential(60);
    const even = /^\d\.\d\d[02468]50*e/.test(exact);
    const [digits, power] = even ? [exact.slice(0, 5), exact.split("e")[1]] : Math.abs(text).toExponential(3).split("e");
    const small = power >= -4 && power < 4;
    const shown = small ? Number(`${digits}e${power}`) : `${Number(digits)}e${power[0]}${power.slice(1).padStart(2, "0")}`;
    return `${text[0] === "-" ? "-" : ""}${shown}`.replaceAll("-", "−");
  }

  function make(details) {
    if (details.querySelector(".tl-scroll")) return;
    const template = details.querySelector("template");
    if (template) details.append(template.content);
    else {
      const [names, ...records] = rows(details.closest(".tl-figure").querySelector(".tl-csv"));
      const columns = JSON.parse(details.dataset.columns).map(([name, heading, numbers]) => ({ at: names.indexOf(name), name, heading, numbers }));
      const frame = details.appendChild(document.createElement("div"));
      const table = frame.appendChild(document.createElement("table"));
      const line = (section, tag, cells) => {
        const row = section.insertRow();
        for (const cell of cells) row.appendChild(document.createElement(tag)).textContent = cell;
      };
      [frame.className, table.className] = ["tl-scroll", "tl-table"];
      line(table.createTHead(), "th", columns.map((c) => c.heading));
      const body = table.createTBody();
      for (const record of records) line(body, "td", columns.map((c) => (c.numbers ? printed(record[c.at]) : record[c.at])));
      const key = columns.findIndex((c) => c.name === "key");
      for (const { cells } of key < 0 ? [] : Array.from(body.rows)) cells[key].innerHTML = `<a href="${document.documentElement.dataset.content_root}book/record.html#${cells[key].textContent}">${cells[key].textContent}</a>`;
    }
    all(".tl-scroll", details).forEach((frame) => frames.observe(frame));
  }

  // What scrolls can be reached by the keyboard, and has a name.
  const frames = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const scrolls = target.scrollWidth > target.clientWidth + 1 || target.scrollHeight > target.clientHeight + 1;
      const caption = target.closest("figure")?.querySelector("figcaption");
      const told = { role: "region", tabindex: "0", "aria-label": caption?.textContent || target.dataset.label || "formula" };
      for (const [name, value] of Object.entries(told)) scrolls ? target.setAttribute(name, value) : target.removeAttribute(name);
    }
  });

  // ------------------------------------------------------------------------------------------------- the scorecard
  // Rows that fit what was asked, in the order that was asked for; what was asked is in the address.
  function sift(form) {
    const table = form.parentElement.querySelector(".tl-scorecard");
    const papers = Array.from(table.tBodies, (body) => ({ body, head: body.rows[0], rows: Array.from(body.rows).slice(1) }));
    const rows = papers.flatMap((paper) => paper.rows);
    const sorted = table.createTBody();
    const order = { sure: (row) => -row.dataset.sure, effect: (row) => -row.dataset.effect };
    order.verdict = (row) => all("select[name=verdict] option", form).findIndex((o) => o.text === row.dataset.verdict);
    const fields = all("select, input", form);
    const fits = (row, { words, verdict, paper, chapter }) =>
      (!verdict || (row.dataset.verdict || "not tested") === verdict) &&
      (!paper || (row.dataset.paper || row.parentElement.dataset.paper) === paper) &&
      (!chapter || row.dataset.chapter === chapter) &&
      words.toLowerCase().split(/\s+/).every((word) => row.textContent.toLowerCase().includes(word));

    function update() {
      const asked = Object.fromEntries(fields.map((field) => [field.name, field.value]));
      for (const { body, rows: own } of papers) body.append(...own);
      for (const row of rows) row.hidden = !fits(row, asked);
      for (const { head, rows: own } of papers) head.hidden = own.every((row) => row.hidden) || Boolean(asked.sort);
      const by = order[asked.sort];
      if (by) sorted.append(...rows.sort((a, b) => Boolean(b.dataset.verdict) - Boolean(a.dataset.verdict) || by(a) - by(b)));
      const shown = rows.filter((row) => row.dataset.verdict && !row.hidden).length;
      tell(form.querySelector(".tl-count"), `${shown} of ${rows.filter((row) => row.dataset.verdict).length} judged rows are shown.`);
      const query = new URLSearchParams(Object.entries(asked).filter(([, value]) => value));
      history.replaceState(history.state, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
    }

    for (const [name, value] of new URLSearchParams(location.search)) if (form.elements[name]) form.elements[name].value = value;
    form.hidden = false;
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", update);
    update();
  }

  // What is folded opens where the address points at it.
  function unfold() {
    const row = location.hash && document.getElementById(location.hash.slice(1));
    for (const details of row ? all("details", row).concat(row.closest("details") || []) : []) if (row.closest(".tl-scorecard")) details.open = true;
  }

  // ------------------------------------------------------------------------------------------- guesses and one name
  function guess(event) {
    const button = event.target.closest(".tl-guess button");
    if (!button) return;
    const form = button.closest("form");
    const told = form.querySelector(".tl-outcome");
    told.textContent = "right" in button.dataset ? "Right. " : "Not so. ";
    told.append(form.querySelector("template").content.cloneNode(true));
    for (const one of all("button", form)) one.setAttribute("aria-pressed", one === button);
  }

  // What has one name lights up together: parts of a verdict, their rows, words of a legend and of charts, and marks of
  // their colour.
  const LABEL = ".tl-chart .mark-text.role-mark text";
  const NAMED = `.tl-parts b, .tl-forest th, .tl-legend li, ${LABEL}`;
  const name = (place) => place.textContent.trim();

  function light(event) {
    const place = event.target.closest?.(NAMED);
    for (const lit of all(".tl-lit, .tl-dimmed")) lit.classList.remove("tl-lit", "tl-dimmed");
    if (!place || event.type === "pointerout" || event.type === "focusout") return;
    for (const one of all(NAMED).filter((other) => name(other) === name(place))) {
      one.classList.add("tl-lit");
      const tone = one.matches(`.tl-legend li, ${LABEL}`) && one.style.getPropertyValue("--tone").trim();
      if (!tone) continue;
      for (const svg of one.closest("svg") ? [one.closest("svg")] : all(".tl-chart svg", one.closest(".tl-figure"))) {
        svg.classList.add("tl-dimmed");
        for (const mark of all(`[fill="${tone}"], [stroke="${tone}"]`, svg)) mark.classList.add("tl-lit");
      }
    }
  }

  // What moves a bar is a script of its own, loaded when it is asked for.
  function whatIf(event) {
    if (!event.target.matches("details.tl-play[open]")) return;
    document.removeEventListener("toggle", whatIf, true);
    const script = document.createElement("script");
    script.src = `${document.documentElement.dataset.content_root}_static/whatif.js`;
    document.head.append(script);
  }

  // ----------------------------------------------------------------------------------------------------- first page
  // A tile says its claim where it is pointed at; a first tap only says it.
  function held(place) {
    const told = place.querySelector(".tl-told");
    let last;
    const say = (event) => {
      const tile = event.target.closest(".tl-tile");
      if (!tile) return;
      tell(told, tile.getAttribute("aria-label"));
      for (const one of all(".tl-tile", place)) one.classList.toggle("tl-pointed", one === tile);
    };
    place.addEventListener("pointerover", say);
    place.addEventListener("focusin", say);
    place.addEventListener("click", (event) => {
      const tile = event.target.closest(".tl-tile");
      if (event.pointerType === "touch" && tile && tile !== last) event.preventDefault();
      last = tile;
    });
  }

  // ----------------------------------------------------------------------------------------------------------- start
  function start() {
    for (const kind of [".primary-toggle", ".secondary-toggle"]) {
      const [wired, ...others] = all(kind); // the theme opens a sidebar by the first of its buttons, which it hides
      for (const button of others) button.addEventListener("click", () => wired.click());
    }
    all(".tl-sift").forEach(sift);
    all(".tl-held").forEach(held);
    unfold();
    window.addEventListener("hashchange", unfold);
    document.addEventListener("click", guess);
    for (const type of ["pointerover", "pointerout", "focusin", "focusout"]) document.addEventListener(type, light);
    for (const word of all(".tl-legend li")) word.tabIndex = 0; // by keyboard too
    all(".tl-explorer").forEach(follow);
    all(".tl-scroll, .bd-article div.math").forEach((frame) => frames.observe(frame));
    const places = all(".tl-chart");
    if (location.search === "?all" || !places.length) drawAll();
    else places.forEach((place) => near.observe(place));
  }

  document.addEventListener("toggle", (event) => event.target.matches("details.tl-numbers[open]") && make(event.target), true);
  document.addEventListener("toggle", whatIf, true);
  window.addEventListener("beforeprint", drawAll);
  // Not before the style sheets are there: they say how wide a chart may be.
  if (document.readyState === "complete") start();
  else window.addEventListener("load", start);
})();
