"use strict";
(() => {
  const table = document.getElementById("layers");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  document.documentElement.classList.add("js");

  // Numbers by value, text by letters; what is not known goes last in both directions.
  const value = (row, column) => {
    const text = row.cells[column].dataset.v;
    const number = text === "inf" ? Infinity : text === "-inf" ? -Infinity : Number(text);
    return text === "" ? null : Number.isNaN(number) ? text : number;
  };
  const compare = (a, b) =>
    typeof a === "string" ? a.localeCompare(b) : a < b ? -1 : a > b ? 1 : 0;

  const sort = (column, direction) => {
    const keyed = rows.map((row, place) => [value(row, column), place, row]);
    keyed.sort(([a, i], [b, j]) => {
      if (a === null || b === null) return (a === null) - (b === null) || i - j;
      return direction * compare(a, b) || i - j;
    });
    body.append(...keyed.map(([, , row]) => row));
    heads.forEach((head, k) => {
      const order = direction > 0 ? "ascending" : "descending";
      head.setAttribute("aria-sort", k === column ? order : "none");
    });
  };
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      sort(column, head.getAttribute("aria-sort") === "ascending" ? -1 : 1);
    });
  });

  const filter = document.getElementById("filter");
  const noted = document.getElementById("noted");
  const count = document.getElementById("count");
  const show = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = `${row.cells[0].textContent} ${row.lastElementChild.textContent}`.toLowerCase();
      const wanted = words.every((word) => text.includes(word));
      row.hidden = !wanted || (noted?.checked && !row.classList.contains("noted"));
      shown += !row.hidden;
    }
    count.value = shown === rows.length ? `${shown} layers` : `${shown} of ${rows.length} layers`;
  };
  filter.form.hidden = false;
  filter.form.addEventListener("submit", (event) => event.preventDefault());
  filter.addEventListener("input", show);
  noted?.addEventListener("change", show);

  // A mark of a plot leads to its row, also where the filter hides it.
  const reveal = () => {
    const row = /^#l\d+$/.test(location.hash) && document.getElementById(location.hash.slice(1));
    if (!row) return;
    if (row.hidden) {
      filter.value = "";
      if (noted) noted.checked = false;
      show();
    }
    row.scrollIntoView({ block: "center" });
  };
  addEventListener("hashchange", reveal);
  show();
})();
