"use strict";

// What listening tests share: repeatable random numbers, and results as a file.

function counted(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

// mulberry32, seeded by the FNV-1a hash of the text: the same seed gives the same numbers in every browser.
function generator(text) {
  let state = 0x811c9dc5;
  for (const character of text) state = Math.imul(state ^ character.codePointAt(0), 0x01000193);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };
}

// Fisher and Yates. The list itself is not changed.
function shuffled(list, random) {
  const result = [...list];
  for (let i = result.length - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1));
    [result[i], result[j]] = [result[j], result[i]];
  }
  return result;
}

// Lets the browser download rows, which are objects, as a CSV file.
function downloadCsv(name, columns, rows) {
  const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;
  const lines = [columns.join(","), ...rows.map((row) => columns.map((column) => quoted(row[column])).join(","))];
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([lines.join("\r\n") + "\r\n"], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
