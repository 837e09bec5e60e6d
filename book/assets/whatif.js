// What would the verdict be with another bar, or fewer repetitions? The decision table once more, over the numbers of a card.
(function () {
  "use strict";

  const all = (selector, within = document) => Array.from(within.querySelectorAll(selector));
  const CONFIDENCE = 0.05;

  // Probability beyond t of Student's distribution, on both sides: I_x(df/2, 1/2) by its continued fraction.
  function outside(t, df) {
    const [a, b, x] = [df / 2, 0.5, df / (df + t * t)];
    if (x > (a + 1) / (a + b + 2)) return 1 - beta(1 - x, b, a);
    return beta(x, a, b);
  }

  function beta(x, a, b) {
    if (x <= 0) return 0;
    const front = Math.exp(gamma(a + b) - gamma(a) - gamma(b) + a * Math.log(x) + b * Math.log1p(-x)) / a;
    let [c, d, found] = [1, 1 / (1 - ((a + b) * x) / (a + 1)), 0];
    found = d;
    for (let m = 1; m < 200; m++) {
      const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m));
      [d, c] = [1 / (1 + even * d), 1 + even / c];
      found *= d * c;
      const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1));
      [d, c] = [1 / (1 + odd * d), 1 + odd / c];
      found *= d * c;
      if (Math.abs(d * c - 1) < 1e-12) break;
    }
    return front * found;
  }

  // Logarithm of the gamma function, for halves of whole numbers.
  function gamma(z) {
    let value = z % 1 ? Math.log(Math.PI) / 2 : 0;
    for (let i = z % 1 || 1; i < z; i++) value += Math.log(i);
    return value;
  }

  // The t beyond which 5% lie.
  function quantile(df) {
    let [low, high] = [0, 1000];
    for (let i = 0; i < 60; i++) outside((low + high) / 2, df) > CONFIDENCE ? (low = (low + high) / 2) : (high = (low + high) / 2);
    return high;
  }

  function effect(values) {
    const n = values.length;
    const mean = values.reduce((sum, v) => sum + v, 0) / n;
    const error = Math.sqrt(values.reduce((sum, v) => sum + (v - mean) ** 2, 0) / (n - 1) / n);
    const half = quantile(n - 1) * error;
    const p = (away) => (error ? outside(away / error, n - 1) : Number(away === 0));
    return { mean, low: mean - half, high: mean + half, p };
  }

  // The p of two one-sided tests, doubled: that of the worse end, whichever side of it the mean lies on.
  function within(found, margin) {
    const away = margin - Math.abs(found.mean);
    return away > 0 ? found.p(away) : 1;
  }

  function judge(part, bar, found) {
    const { side, margin } = part;
    if (side === "equal") {
      if (-bar < found.low && found.high < bar) return ["holds", within(found, bar)];
      const apart = found.low > bar || found.high < -bar;
      return apart ? ["fails", found.p(Math.abs(found.mean) - bar)] : ["open", 1];
    }
    const [low, high] = side === "above" ? [found.low - bar, found.high - bar] : [bar - found.high, bar - found.low];
    if (low > 0) return ["holds", found.p(Math.abs(found.mean - bar))];
    if (high < 0) return ["fails", found.p(Math.abs(found.mean - bar))];
    if (bar === 0 && -margin < found.low && found.high < margin) return ["null", within(found, margin)];
    return ["open", 1];
  }

  function holm(ps) {
    const order = ps.map((_, i) => i).sort((a, b) => ps[a] - ps[b]);
    const adjusted = [];
    let most = 0;
    order.forEach((i, rank) => (adjusted[i] = most = Math.max(most, Math.min(1, ps[i] * (ps.length - rank)))));
    return adjusted;
  }

  // The word that the decision table gives to states and p values, and the states that count.
  function decide(told, against) {
    if (told.every(([state]) => state === "holds")) return [against.some(Boolean) ? "in part" : "holds here", told.map(([state]) => state)];
    const ps = holm(told.map(([, p]) => p));
    const counts = told.map(([state], i) => (state !== "open" && ps[i] >= CONFIDENCE ? "open" : state));
    const has = (state) => counts.includes(state);
    let word = "undecided";
    if (!has("holds") && has("fails")) word = against.some(Boolean) ? "in part" : "does not hold here";
    else if (has("holds") && (has("fails") || has("null"))) word = "in part";
    else if (counts.every((state) => state === "null")) word = "no effect here";
    return [word, counts];
  }

  function number(value, unit) {
    const digits = unit.includes("correlation") || unit === "W" ? 2 : 1;
    const text = value.toFixed(digits);
    const plain = Number(text) === 0 ? (0).toFixed(digits) : text;
    return (unit.startsWith("%") || Number(text) <= 0 ? plain : `+${plain}`).replace("-", "−");
  }

  function play(details) {
    const card = details.closest(".tl-verdict");
    const rows = all("tr", card.querySelector(".tl-forest"));
    const parts = rows.map((row) => {
      const d = row.dataset;
      const values = (d.values || "").split(" ").map(Number);
      return { row, side: d.side, name: d.name, unit: d.unit || "", margin: Number(d.margin), bar: Number(d.side === "equal" ? d.margin : d.bar), values, axis: (d.axis || "0 1").split(" ").map(Number), fixed: d.values ? null : [d.state, Number(d.p)] };
    });
    const free = parts.filter((part) => !part.fixed);
    const [states, words, tones, verdicts, signs] = ["states", "words", "tones", "verdicts", "signs"].map((name) => JSON.parse(details.dataset[name]));
    const edge = Number(details.dataset.edge);
    const badge = card.querySelector(".tl-verdict-head .tl-badge");
    const note = card.querySelector(".tl-verdict-head > span:not(.tl-badge)");
    const before = [badge.outerHTML, note?.textContent, rows.map((row) => row.innerHTML)];
    const most = Math.max(...free.map((part) => part.values.length));
    const form = details.appendChild(document.createElement("form"));
    form.className = "tl-controls";
    const slider = (label, min, max, step, value) => {
      const id = `${card.id}-${form.children.length}`;
      form.insertAdjacentHTML("beforeend", `<label for="${id}"></label><input id="${id}" type="range" min="${min}" max="${max}" step="${step}" value="${value}">`);
      const [head, field] = all("label, input", form).slice(-2);
      return { field, tell: (text) => ((head.textContent = `${label}: ${text}`), field.setAttribute("aria-valuetext", text)) };
    };
    const repetitions = slider("Repetitions", 2, most, 1, most);
    const bars = free.map((part) => {
      const room = (part.axis[1] - part.axis[0]) / 2; // beyond what is drawn
      const [low, high] = part.side === "equal" ? [0, 2 * part.bar] : [part.axis[0] - room, part.axis[1] + room];
      const step = 10 ** (Math.floor(Math.log10(high - low)) - 2);
      const head = free.length > 1 ? `Bar of ${part.name}` : "Bar";
      const made = slider(head, Math.floor(low / step) * step, Math.ceil(high / step) * step, step, part.bar);
      const near = (value) => (Math.abs(value - part.bar) < step / 2 ? part.bar : value); // a slider rounds
      return { ...made, value: () => near(Number(made.field.value)) };
    });
    form.insertAdjacentHTML("beforeend", '<button type="reset">As it was</button><output aria-live="polite"></output>');

    function draw(part, bar, found, state) {
      const svg = part.row.querySelector("svg");
      const [wide, tall] = [svg.viewBox.baseVal.width, svg.viewBox.baseVal.height];
      const [low, high] = part.axis;
      const at = (x) => edge + ((wide - 2 * edge) * (Math.min(Math.max(x, low), high) - low)) / (high - low);
      const lines = (part.side === "equal" ? [-bar, bar] : [bar]).map(at);
      const [first, last] = { above: [lines[0], wide], below: [0, lines[0]], equal: [lines[0], lines[lines.length - 1]] }[part.side];
      const set = (selector, values) => all(selector, svg).forEach((mark, i) => Object.entries(values(i)).forEach(([name, value]) => mark.setAttribute(name, value)));
      set(".tl-claimed", () => ({ x: first, width: Math.max(0, last - first), height: tall }));
      set(".tl-bar", (i) => ({ x1: lines[i], x2: lines[i] }));
      set(".tl-range", () => ({ x1: at(found.low), x2: at(found.high) }));
      set(".tl-mean", () => ({ cx: at(found.mean) }));
      svg.style.setProperty("--tone", verdicts[tones[state]]);
      const [, , told, p, name] = part.row.cells;
      const unit = part.unit.startsWith("%") ? "%" : ` ${part.unit}`;
      const side = { above: "above ", below: "below ", equal: "within ±" }[part.side];
      told.textContent = `${number(found.mean, part.unit)} [${number(found.low, part.unit)}, ${number(found.high, part.unit)}]${unit}; bar ${side}${Number(bar.toPrecision(3))}`.replaceAll("-", "−");
      p.textContent = "";
      name.textContent = `${states[state]} ${words[state]}`;
    }

    function update() {
      const n = Number(repetitions.field.value);
      repetitions.tell(`${n} of ${most}`);
      const limits = bars.map((bar) => bar.value());
      const found = free.map((part) => effect(part.values.slice(0, n)));
      const own = free.map((part, i) => judge(part, limits[i], found[i]));
      const told = parts.map((part) => part.fixed || own[free.indexOf(part)]);
      const [word, counts] = decide(told, rows.map((row, i) => row.dataset.against && told[i][0] === row.dataset.state));
      free.forEach((part, i) => (bars[i].tell(String(Number(limits[i].toPrecision(3))).replace("-", "−")), draw(part, limits[i], found[i], counts[parts.indexOf(part)])));
      badge.style.setProperty("--tone", verdicts[word]);
      badge.className = `tl-badge tl-${word.replaceAll(" ", "-")}`;
      badge.innerHTML = `<span aria-hidden="true">${signs[word]}</span> ${word}`;
      card.style.setProperty("--tone", verdicts[word]);
      if (note) note.textContent = "what if: not the verdict";
      form.querySelector("output").textContent = `With ${n} repetitions and these bars: ${word}.`;
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", update);
    form.addEventListener("reset", () => {
      setTimeout(() => {
        repetitions.tell(`${most} of ${most}`);
        free.forEach((part, i) => bars[i].tell(String(Number(part.bar.toPrecision(3))).replace("-", "−")));
        const holder = document.createElement("template");
        holder.innerHTML = before[0];
        badge.className = holder.content.firstElementChild.className;
        badge.innerHTML = holder.content.firstElementChild.innerHTML;
        for (const place of [badge, card]) place.style.setProperty("--tone", holder.content.firstElementChild.style.getPropertyValue("--tone"));
        if (note) note.textContent = before[1];
        rows.forEach((row, i) => (row.innerHTML = before[2][i]));
        form.querySelector("output").textContent = "";
      });
    });
    repetitions.tell(`${most} of ${most}`);
    free.forEach((part, i) => bars[i].tell(String(Number(part.bar.toPrecision(3))).replace("-", "−")));
  }

  const begin = (details) => details.matches("details.tl-play[open]") && !details.querySelector("form") && play(details);
  document.addEventListener("toggle", (event) => begin(event.target), true);
  document.querySelectorAll("details.tl-play").forEach(begin); // this script comes when the first of them is opened
})();
