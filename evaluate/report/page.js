// What ties the page together: filters and keys.

index.kinds.forEach((kind, k) => byId("kind").append(html("option", { value: k }, kind)));
if (index.kinds.length < 2) byId("kind").parentElement.hidden = true;

byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("input", () => {
  search();
  showResults();
});
byId("back").addEventListener("click", () => turn(-1));
byId("on").addEventListener("click", () => turn(1));

function turn(by) {
  showPage(gallery.page + by);
  byId("results").scrollIntoView();
}

// Bring what was found into view, unless its beginning is there.
function showResults() {
  const { top } = byId("cards").getBoundingClientRect();
  if (top < byId("filters").getBoundingClientRect().bottom - 1 || top > 0.7 * innerHeight) byId("results").scrollIntoView();
}

for (const button of document.querySelectorAll("[data-outcome]")) {
  button.style.flexGrow = button.dataset.share;
  button.addEventListener("click", () => {
    const chosen = byId("outcome").value === button.dataset.outcome;
    byId("outcome").value = chosen ? "" : button.dataset.outcome;
    search();
    if (!chosen) byId("results").scrollIntoView();
  });
}

for (const bar of document.querySelectorAll("[data-range]")) {
  bar.addEventListener("click", () => {
    byId("range").value = byId("range").value === bar.dataset.range ? "" : bar.dataset.range;
    search();
    if (byId("range").value) byId("results").scrollIntoView();
  });
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (event.key !== "/" || typing || dialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  byId("search").focus({ preventScroll: true });
  byId("results").scrollIntoView();
});

search();
openLinked();
