"use strict";
document.documentElement.classList.add("scripted");

// Filters: a row or a cell stays if its text has every word that was typed.
function lines(place) {
  const found = [];
  let group = null;
  for (const one of place.querySelectorAll("tbody tr, :scope > details")) {
    if (one.classList.contains("gt_group_heading_row")) {
      group = { heading: one, rows: [] };
      continue;
    }
    const named = one.querySelector("summary, th") || one;
    const text = `${group ? group.heading.textContent : ""} ${named.textContent}`;
    found.push({ element: one, text: text.toLowerCase(), group });
    if (group) group.rows.push(one);
  }
  return found;
}

for (const input of document.querySelectorAll("input[data-filters]")) {
  const output = input.parentElement.querySelector("output");
  const places = input.dataset.filters.split(" ").map((id) => document.getElementById(id));
  const known = places.map(lines);
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const place of known) {
      for (const line of place) {
        line.element.hidden = !words.every((word) => line.text.includes(word));
      }
      for (const group of new Set(place.map((line) => line.group).filter(Boolean))) {
        group.heading.hidden = group.rows.every((row) => row.hidden);
      }
    }
    const shown = known[0].filter((line) => !line.element.hidden).length;
    output.textContent = words.length ? `${shown} of ${known[0].length}` : "";
  });
}

// Sorting: a heading's button sorts by its column, up and then down; unknown numbers come last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const headings = [...table.tHead.rows[0].cells];
  headings.forEach((heading, place) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = heading.textContent;
    heading.replaceChildren(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      headings.forEach((other) => other.removeAttribute("aria-sort"));
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = (row) => row.cells[place].textContent.trim();
      const compare = (one, other) => {
        const numbers = [parseFloat(key(one)), parseFloat(key(other))];
        if (place === 0) return (up ? 1 : -1) * key(one).localeCompare(key(other));
        if (numbers.some(Number.isNaN)) return Number.isNaN(numbers[0]) - Number.isNaN(numbers[1]);
        return (up ? 1 : -1) * (numbers[0] - numbers[1]);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}

// A link to a cell opens it, or the table that it is a row of.
function open() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLTableRowElement) {
    target.hidden = false;
    const folded = target.closest("details");
    if (folded) folded.open = true;
    target.scrollIntoView();
  }
  if (target instanceof HTMLDetailsElement) {
    target.hidden = false;
    target.open = true;
    target.scrollIntoView();
    target.querySelector("summary").focus({ preventScroll: true });
  }
}
addEventListener("hashchange", open);
open();
