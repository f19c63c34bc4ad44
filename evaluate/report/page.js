// What ties the page together: filters and keys.

index.kinds.forEach((kind, k) => byId("kind").append(html("option", { value: k }, kind)));
if (index.kinds.length < 2) byId("kind").parentElement.hidden = true;

byId("filters").addEventListener("submit", (event) => event.preventDefault());
byId("filters").addEventListener("input", search);
byId("back").addEventListener("click", () => turn(-1));
byId("on").addEventListener("click", () => turn(1));

function turn(by) {
  showPage(gallery.page + by);
  byId("examples").scrollIntoView();
}

for (const button of document.querySelectorAll("[data-outcome]")) {
  button.style.flexGrow = button.dataset.share;
  button.addEventListener("click", () => {
    const chosen = byId("outcome").value === button.dataset.outcome;
    byId("outcome").value = chosen ? "" : button.dataset.outcome;
    search();
    if (!chosen) byId("examples").scrollIntoView();
  });
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input, select, textarea");
  if (event.key !== "/" || typing || dialog.open || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  byId("search").focus();
});

search();
