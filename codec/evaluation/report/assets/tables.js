"use strict";

// Clicking a heading sorts the rows of each body. Rows without a value come last in either order.
for (const heading of document.querySelectorAll(".sortable thead tr:last-child th")) {
  heading.firstElementChild?.addEventListener("click", () => {
    const table = heading.closest("table");
    const ascending = heading.getAttribute("aria-sort") !== "ascending";
    for (const other of table.querySelectorAll("[aria-sort]")) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const value = (row) => (row.cells[heading.cellIndex] || row.cells[0].nextElementSibling).dataset.sort;
    const isText = "text" in heading.dataset || heading.cellIndex === 0;
    for (const body of table.tBodies) {
      const rows = [...body.rows].sort((first, second) => {
        const [a, b] = [value(first), value(second)];
        if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
        const order = isText ? a.localeCompare(b) : a - b;
        return ascending ? order : -order;
      });
      body.append(...rows);
    }
  });
}
