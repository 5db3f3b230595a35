"use strict";
// Every column sorts: a button in each header. Cells sort by data-sort, else by their text; what
// is not known stands last both ways. Roles are told, as cards on a phone lose those of a table.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    const text = cell.dataset.sort ?? cell.textContent.trim();
    return text === "" || text === "-" ? null : text;
  };
  const sort = (column, descending) => {
    const known = rows.filter((row) => keyOf(row, column) !== null);
    const numeric = known.every((row) => Number.isFinite(Number(keyOf(row, column))));
    const order = (first, second) => {
      const [a, b] = [keyOf(first, column), keyOf(second, column)];
      const one = numeric ? a - b : a.localeCompare(b, "en", { numeric: true });
      return descending ? -one : one;
    };
    body.append(...known.sort(order), ...rows.filter((row) => keyOf(row, column) === null));
  };
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = head.textContent;
    head.replaceChildren(button);
    head.setAttribute("aria-sort", "none");
    button.addEventListener("click", () => {
      const descending = head.getAttribute("aria-sort") === "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", descending ? "descending" : "ascending");
      sort(column, descending);
    });
  });
  const roles = { thead: "rowgroup", tbody: "rowgroup", tr: "row", "thead th": "columnheader", "tbody th": "rowheader", td: "cell" };
  table.setAttribute("role", "table");
  for (const [name, role] of Object.entries(roles)) {
    for (const part of table.querySelectorAll(name)) part.setAttribute("role", role);
  }
}
