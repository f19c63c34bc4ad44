// The gallery: which samples, in which order, a page at a time. Only what is on the page is drawn.

const PER_PAGE = 8;
const PARTS = 10;
const rows = index.id.map((_, i) => i);
const texts = remember((i) => {
  const parts = [index.sentence[i], index.videos[index.video[i]][0], index.id[i]];
  return parts.join("\n").toLowerCase();
});

const by = (measure) => [...rows].sort((a, b) => measure(a) - measure(b) || a - b);
const orders = {
  mixed: () => [...new Set([...index.chosen, ...rows])],
  best: () => by((i) => -index.vIoU[i]),
  worst: () => by((i) => index.vIoU[i]),
  median: () => {
    const ranked = by((i) => index.vIoU[i]);
    const median = ranked.length ? index.vIoU[ranked[ranked.length >> 1]] : 0;
    return by((i) => Math.abs(index.vIoU[i] - median));
  },
  change: () => by((i) => Math.min(1, ...index.before.map((of) => (of[i] === null ? 1 : -Math.abs(index.vIoU[i] - of[i]))))),
  file: () => rows,
};
const ordered = remember((name) => orders[name]());

const gallery = { found: rows, page: 0 };

// Whether an overlap is in a part of its histogram, named as "vIoU:3"; the last part holds 1, too.
function inRange(range, i) {
  const [name, part] = range.split(":");
  return Math.min(PARTS - 1, Math.floor((Math.round(index[name][i] * 1e4) * PARTS) / 1e4)) === Number(part);
}

function search() {
  const wanted = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = byId("kind").value;
  const outcome = byId("outcome").value;
  const range = byId("range").value;
  gallery.found = ordered(byId("order").value).filter(
    (i) =>
      (kind === "" || index.kind[i] === Number(kind)) &&
      (outcome === "" || index.outcome[i] === Number(outcome)) &&
      (range === "" || inRange(range, i)) &&
      wanted.every((word) => texts(i).includes(word)),
  );
  for (const button of document.querySelectorAll("[data-outcome]"))
    button.setAttribute("aria-pressed", String(button.dataset.outcome === outcome));
  for (const bar of document.querySelectorAll("[data-range]")) bar.classList.toggle("chosen", bar.dataset.range === range);
  showPage(0);
}

function showPage(page) {
  const { found } = gallery;
  const pages = Math.max(1, Math.ceil(found.length / PER_PAGE));
  gallery.page = Math.min(Math.max(0, page), pages - 1);
  const first = gallery.page * PER_PAGE;
  byId("cards").replaceChildren(...found.slice(first, first + PER_PAGE).map((i, k) => drawCard(i, first + k)));
  const total = rows.length.toLocaleString("en");
  byId("count").textContent = found.length
    ? `${found.length.toLocaleString("en")} of ${total} samples`
    : `None of ${total} samples matches`;
  byId("page").textContent = `Page ${gallery.page + 1} of ${pages.toLocaleString("en")}`;
  byId("back").disabled = gallery.page === 0;
  byId("on").disabled = gallery.page === pages - 1;
}

function drawCard(i, position) {
  const sample = sampleAt(i);
  const clip = clipAt(i);
  const open = html("button", { type: "button", class: "open", dir: "auto" }, sample.sentence);
  open.addEventListener("click", () => openPlayer(position));
  const chip = (name, value, kind = "") => html("span", { class: `chip ${kind}` }, name, " ", html("b", {}, value));
  const film = html("div", { class: "film" }, drawStrip(sample, clip), drawTimeline(sample, clip, 16));
  withPictures(i, (error) => {
    if (error) film.append(html("p", { class: "quiet" }, error));
    else film.firstChild.replaceWith(drawStrip(sample, clipAt(i)));
  });
  return html(
    "article",
    { class: "card" },
    html(
      "div",
      { class: "card-text" },
      html("h3", {}, open),
      html(
        "p",
        { class: "chips" },
        chip("vIoU", percent(sample.vIoU), `o${sample.outcome}`),
        chip("tIoU", percent(sample.tIoU)),
        ...sample.before.map((before, run) => (before === null ? null : changeChip(sample.vIoU, before, run))),
      ),
      html("p", { class: "quiet" }, html("bdi", {}, sample.kind), " · ", html("bdi", {}, sample.video)),
    ),
    film,
  );
}

function changeChip(vIoU, before, run) {
  const change = Number((100 * (vIoU - before)).toFixed(1));
  const sign = change > 0 ? "+" : change < 0 ? "−" : "±";
  const title = `vIoU ${percent(before)} in ${index.runs[run]}`;
  const swatch = html("i", { class: `swatch r${run + 1}` });
  return html("span", { class: `chip ${change > 0 ? "better" : change < 0 ? "worse" : ""}`, title }, swatch, sign + Math.abs(change).toFixed(1));
}
