"use strict";
// The page's own script: draws the charts of the language that is shown, switches it, sorts and filters the runs.
(() => {
  const root = document.documentElement;
  const { data, specs } = JSON.parse(document.getElementById("charts").textContent);

  // Vega builds functions from text unless ast is set; the page's policy forbids that, so it interprets.
  const options = { actions: false, renderer: "svg", ast: true, defaultStyle: false, tooltip: { disableDefaultStyle: true } };

  const narrow = matchMedia("(max-width: 40rem)").matches;

  async function draw() {
    for (const place of document.querySelectorAll(`.chart[data-lang="${root.lang}"]:empty`)) {
      const spec = specs[place.dataset.lang][place.dataset.chart];
      const rows = Object.fromEntries(Object.keys(spec.datasets).map((name) => [name, data[name]]));
      if (narrow) Object.assign(spec.config, { axis: { ...spec.config.axis, labelLimit: 110 }, legend: { ...spec.config.legend, columns: 1 } });
      await vegaEmbed(place, { ...spec, datasets: rows }, options);
    }
    root.dataset.drawn = root.lang;
  }

  function speak(lang) {
    root.lang = lang;
    for (const one of document.querySelectorAll("[data-to]")) one.setAttribute("aria-pressed", String(one.dataset.to === lang));
    for (const one of document.querySelectorAll("[data-en]")) one.textContent = one.dataset[lang];
    document.title = document.querySelector(`.say[lang="${lang}"] h1`).textContent;
    return draw();
  }

  for (const one of document.querySelectorAll("[data-to]")) one.addEventListener("click", () => speak(one.dataset.to));

  const table = document.getElementById("all-runs");
  if (table) {
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const [find, status, method] = ["find", "status", "method"].map((id) => document.getElementById(id));

    const filter = () => {
      const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const row of rows) {
        const text = row.textContent.toLowerCase();
        const fits = (!status.value || row.dataset.status === status.value) &&
          (!method.value || row.dataset.method === method.value) && words.every((word) => text.includes(word));
        row.hidden = !fits;
        shown += fits;
      }
      for (const one of document.querySelectorAll("[data-counted]"))
        one.textContent = one.dataset.counted.replace("{shown}", shown).replace("{all}", rows.length);
    };
    for (const one of [find, status, method]) one.addEventListener("input", filter);
    filter();

    const read = (row, column) => row.cells[column].dataset.value;
    const compare = (a, b) => {
      if (a === undefined || b === undefined) return (a === undefined) - (b === undefined) ; // unknown last
      const numbers = [Number(a), Number(b)];
      return numbers.some(Number.isNaN) ? (a < b ? -1 : a > b ? 1 : 0) : numbers[0] - numbers[1];
    };
    [...table.tHead.rows[0].cells].forEach((heading, column) => {
      heading.firstElementChild.addEventListener("click", () => {
        const up = heading.getAttribute("aria-sort") !== "ascending";
        for (const one of table.tHead.rows[0].cells) one.setAttribute("aria-sort", "none");
        heading.setAttribute("aria-sort", up ? "ascending" : "descending");
        rows.sort((one, other) => {
          const [a, b] = [read(one, column), read(other, column)];
          const order = compare(a, b);
          return up || a === undefined || b === undefined ? order : -order;
        });
        body.append(...rows);
      });
    });
  }
  draw();
})();
