// Draws the charts of a page and lets its controls move them. Needs nothing but vega.js, which is loaded before.
(function () {
  "use strict";

  const views = new WeakMap();

  async function draw(place) {
    const data = place.querySelector("script[type='application/json']");
    if (!data || views.has(place)) return;
    const spec = JSON.parse(data.textContent);
    const result = await window.vegaEmbed(place, spec, { actions: false, renderer: "svg", tooltip: { theme: "custom" } });
    views.set(place, result.view);
    place.dataset.drawn = "true";
    widths.set(place, place.clientWidth);
    watcher.observe(place);
  }

  function choice(field) {
    return field.type === "range" ? JSON.parse(field.dataset.values)[Number(field.value)] : field.value;
  }

  function follow(explorer) {
    const form = explorer.querySelector(".tl-controls");
    const states = JSON.parse(explorer.querySelector(".tl-states").textContent);
    const charts = Array.from(explorer.querySelectorAll(".tl-chart"));
    const fields = Array.from(form.querySelectorAll("select, input"));

    async function update() {
      const values = fields.map((field) => JSON.parse(choice(field)));
      for (const field of fields.filter((f) => f.type === "range")) {
        const text = JSON.parse(field.dataset.texts)[Number(field.value)];
        field.setAttribute("aria-valuetext", text);
        form.querySelector(`output[for='${field.id}']`).textContent = text;
      }
      const state = states.find((s) => s.key.every((v, i) => v === values[i]));
      explorer.querySelector(".tl-sentence").textContent = state.sentence;
      explorer.querySelector(".tl-interval").textContent = state.interval;
      for (const view of charts.map((chart) => views.get(chart)).filter(Boolean)) {
        fields.forEach((field, i) => view.signal(field.name, values[i]));
        await view.runAsync();
      }
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("input", update);
    return update();
  }

  // A chart as wide as its place listens to the window only; its place may change alone, when a sidebar opens.
  const watcher = new ResizeObserver((entries) => {
    if (entries.some((entry) => Math.abs(entry.contentRect.width - widths.get(entry.target)) > 1)) window.dispatchEvent(new Event("resize"));
    for (const entry of entries) widths.set(entry.target, entry.contentRect.width);
  });
  const widths = new WeakMap();

  async function start() {
    await Promise.all(Array.from(document.querySelectorAll(".tl-chart"), draw));
    await Promise.all(Array.from(document.querySelectorAll(".tl-explorer"), follow));
    document.documentElement.dataset.charts = "drawn";
  }

  // Not before the style sheets are there: they say how wide a chart may be.
  if (document.readyState === "complete") start();
  else window.addEventListener("load", start);
})();
