// The gallery: which samples, in which order, a page at a time. Only what is on the page is drawn.

const PER_PAGE = 8;
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
  change: () => by((i) => (index.before[i] === null ? 1 : -Math.abs(index.vIoU[i] - index.before[i]))),
  file: () => rows,
};
const ordered = remember((name) => orders[name]());

const gallery = { found: rows, page: 0 };

function search() {
  const wanted = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const kind = byId("kind").value;
  const outcome = byId("outcome").value;
  gallery.found = ordered(byId("order").value).filter(
    (i) =>
      (kind === "" || index.kind[i] === Number(kind)) &&
      (outcome === "" || index.outcome[i] === Number(outcome)) &&
      wanted.every((word) => texts(i).includes(word)),
  );
  for (const button of document.querySelectorAll("[data-outcome]"))
    button.setAttribute("aria-pressed", String(button.dataset.outcome === outcome));
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
  const change = sample.before === null ? null : changeChip(sample);
  return html(
    "article",
    { class: "card" },
    html(
      "div",
      { class: "card-text" },
      html("h3", {}, open),
      html("p", { class: "chips" }, chip("vIoU", percent(sample.vIoU), `o${sample.outcome}`), chip("tIoU", percent(sample.tIoU)), change),
      html("p", { class: "quiet" }, html("bdi", {}, sample.kind), " · ", html("bdi", {}, sample.video)),
    ),
    html("div", { class: "film" }, drawStrip(sample, clip), drawTimeline(sample, clip, 16)),
  );
}

function changeChip(sample) {
  const change = 100 * (sample.vIoU - sample.before);
  const sign = change > 0 ? "+" : change < 0 ? "−" : "±";
  const title = `vIoU ${percent(sample.before)} in the other run`;
  return html("span", { class: `chip ${change > 0 ? "better" : "worse"}`, title }, sign + Math.abs(change).toFixed(1));
}
