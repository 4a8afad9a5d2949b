// Tables that sort and a filter of fits. Without JavaScript the page shows everything, in the declared order.
(() => {
  "use strict";
  const numberIn = cell => { const data = cell && cell.querySelector("data"); return data ? Number(data.value) : NaN; };
  const textIn = cell => (cell ? cell.textContent.trim() : "");

  function sort(table, column, direction) {
    const body = table.tBodies[0], rows = [...body.rows];
    const key = row => { const cell = row.cells[column], n = numberIn(cell); return Number.isNaN(n) ? textIn(cell) : n; };
    const compare = (a, b) => {
      const x = key(a), y = key(b);
      if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1; // what has no number stands last either way
      return direction * (typeof x === "number" ? x - y : x.localeCompare(y, "en", { numeric: true }));
    };
    rows.sort(compare).forEach(row => body.append(row));
  }

  function makeSortable(table) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach(other => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
        sort(table, column, direction);
      });
    });
  }

  function filterFits(fits) {
    const of = cell => fits.find(fit => textIn(cell) === fit || textIn(cell).startsWith(fit + ": "));
    const cells = []; // [elements, fit]: a row, or a column with all of its cells
    document.querySelectorAll("main table").forEach(table => {
      [...table.tBodies[0].rows].forEach(row => { if (of(row.cells[0])) cells.push([[row], of(row.cells[0])]); });
      [...table.tHead.rows[0].cells].forEach((head, column) => {
        const column_cells = () => [...table.rows].map(row => row.cells[column]);
        if (column && of(head)) cells.push([column_cells(), of(head)]);
      });
    });
    document.querySelectorAll("main [data-fit]").forEach(mark => cells.push([[mark], fits[mark.dataset.fit]]));
    const box = document.createElement("details"), summary = document.createElement("summary");
    const set = document.createElement("fieldset"), legend = document.createElement("legend");
    box.className = "filter";
    summary.textContent = "Show or hide fits in tables and figures";
    legend.textContent = "Fits";
    set.append(legend);
    box.append(summary, set);
    fits.forEach(fit => {
      const label = document.createElement("label"), input = document.createElement("input");
      input.type = "checkbox";
      input.checked = true;
      input.addEventListener("change", () => {
        cells.filter(([, own]) => own === fit).forEach(([items]) => items.forEach(item => {
          if (item) item.classList.toggle("hidden", !input.checked);
        }));
      });
      label.append(input, " ", fit); // a text node: nothing in a name is read as HTML
      set.append(label);
    });
    document.querySelector("header").append(box);
  }

  document.querySelectorAll("main table").forEach(table => { if (table.tBodies[0].rows.length > 1) makeSortable(table); });
  const fits = JSON.parse(document.body.dataset.fits || "[]");
  if (fits.length > 1) filterFits(fits);
  window.addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not([open])").forEach(it => { it.open = true; it.dataset.printing = ""; });
  });
  window.addEventListener("afterprint", () => {
    document.querySelectorAll("details[data-printing]").forEach(it => { it.open = false; delete it.dataset.printing; });
  });
})();
