// Names places in the pages that hold all words that were looked for; pages follow below, as the theme finds them.
(function () {
  "use strict";

  const asked = (new URLSearchParams(location.search).get("q") || "").trim();
  const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
  // A short word is looked for as it is, a long one by how it begins, in one or many.
  const pattern = (word) => new RegExp(`(?<![\\p{L}\\p{N}])${word.length < 4 ? `${escaped(word)}(?![\\p{L}\\p{N}])` : escaped(word.replace(/s$/, ""))}`, "giu");

  function found() {
    const words = asked.split(/\s+/).filter(Boolean).map(pattern);
    const phrase = new RegExp(asked.split(/\s+/).map((word) => escaped(word.length > 4 ? word.replace(/s$/, "") : word)).join("\\w*\\s+"), "iu");
    const rows = words.length ? window.tlPlaces : [];
    const scored = rows.map(([page, title, id, text]) => {
      const counts = words.map((word) => (text.match(word) || []).length);
      if (counts.includes(0)) return { score: 0 };
      const head = text.slice(0, 90);
      const early = words.every((word) => head.search(word) >= 0);
      const [named, own] = [id.toLowerCase().split("-").includes(asked.toLowerCase()), title.search(phrase) >= 0];
      const share = counts.reduce((sum, n) => sum + n, 0) / Math.sqrt(text.length);
      return { page, title, id, text, at: Math.max(0, text.search(words[0])), score: share + 2 * early + 2 * (text.search(phrase) >= 0) + 4 * named + 2 * own - 2 * /api|bibliography/.test(page) };
    });
    return scored.filter((row) => row.score).sort((a, b) => b.score - a.score).slice(0, 12);
  }

  function named({ id, text }) {
    if (id.startsWith("verdict-")) return `the verdict on ${id.slice(8)}`;
    const [head] = text.split(" · ");
    return head.length > 90 ? `${head.slice(0, 80).trim()} …` : head;
  }

  function show() {
    const results = document.getElementById("search-results");
    const rows = results ? found() : [];
    if (!rows.length) return;
    const section = document.createElement("section");
    section.className = "tl-places";
    section.innerHTML = "<h2>Places in the pages</h2><ol></ol><h2>Pages</h2>";
    for (const row of rows) {
      const item = section.querySelector("ol").appendChild(document.createElement("li"));
      const link = item.appendChild(document.createElement("a"));
      link.href = `${document.documentElement.dataset.content_root}${row.page}.html#${row.id}`;
      link.textContent = named(row).endsWith(row.title) ? row.title : `${row.title}: ${named(row)}`;
      const from = Math.max(0, row.at - 70);
      item.appendChild(document.createElement("p")).textContent = `${from ? "… " : ""}${row.text.slice(from, from + 200)} …`;
    }
    results.before(section);
  }

  document.readyState === "loading" ? document.addEventListener("DOMContentLoaded", show) : show();
})();
