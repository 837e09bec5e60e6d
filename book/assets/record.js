// Shows the record that the address names: record.html#KEY. Records come as scripts, of all keys that begin alike.
(function () {
  "use strict";

  const loads = new Map(); // by name: the promise of what a script brings
  const came = new Map();
  window.tlRecords = (name, rows) => came.get(name)(rows);

  function load(name) {
    if (loads.has(name)) return loads.get(name);
    const found = new Promise((done, failed) => {
      came.set(name, done);
      const script = document.createElement("script");
      script.src = `${document.documentElement.dataset.content_root}_static/records/${name}.js`;
      script.onerror = () => failed(new Error(name));
      document.head.append(script);
    });
    loads.set(name, found);
    return found;
  }

  function line(list, name, ...told) {
    const term = list.appendChild(document.createElement("dt"));
    term.textContent = name;
    list.appendChild(document.createElement("dd")).append(...told);
  }

  function code(text) {
    const block = document.createElement("pre");
    block.textContent = text;
    block.tabIndex = 0; // it scrolls
    return block;
  }

  function chapter(place) {
    const link = document.createElement("a");
    link.href = `../notebooks/${place.split("/")[1]}.html`;
    link.textContent = `results/${place}.jsonl`;
    return link;
  }

  async function show(key, told) {
    if (!key) return told.replaceChildren();
    const [shared, rows] = await Promise.all(["shared", key.slice(0, 2)].map(load)).catch(() => [{}, {}]);
    const row = /^[0-9a-f]{16}$/.test(key) && rows[key];
    if (!row) return told.replaceChildren(`No published record has the key ${key}.`);
    const [label, status, seconds, numbers, left, provenance, places, spec] = row;
    const [scale, name] = shared.places[places[0]].split("/");
    const plain = ["kind", "seed", "version"];
    const trial = Object.fromEntries(Object.entries(spec).map(([k, v]) => [k, plain.includes(k) ? v : shared.parts[v]]));
    const list = document.createElement("dl");
    const words = (of) => Object.entries(of).map(([k, v]) => `${k} ${v}`).join(", ");
    line(list, "what", label);
    line(list, "measured", status === "ok" ? words(numbers) : `${status}; ${words(numbers)}`, left ? `; ${left} more, of several numbers each, in the file` : "");
    line(list, "where it is", ...places.flatMap((at, i) => [i ? ", " : "", chapter(shared.places[at])]));
    line(list, "where it comes from", words({ seconds, ...shared.provenance[provenance] }));
    line(list, "make it again", code(`transferlab run ${name} --scale ${scale} --key ${key}`));
    line(list, "the whole trial", code(JSON.stringify(trial, null, 1).replace(/\[\s+([^[\]{}]*?)\s+\]/g, (_, inner) => `[${inner.replace(/\s+/g, " ")}]`)));
    told.replaceChildren(list);
  }

  window.addEventListener("load", () => {
    const place = document.querySelector(".tl-record");
    if (!place) return;
    const [form, told] = [place.querySelector("form"), place.querySelector(".tl-shown")];
    const follow = () => show((form.elements.key.value = decodeURIComponent(location.hash.slice(1)).trim()), told);
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      location.hash = form.elements.key.value.trim().toLowerCase();
    });
    window.addEventListener("hashchange", follow);
    follow();
  });
})();
