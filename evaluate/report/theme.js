// Colours: as the system has them, or as they are chosen.

const themes = { auto: ["◐ Auto", "as the system"], dark: ["● Dark", "dark"], light: ["○ Light", "light"] };
byId("theme").addEventListener("click", (event) => {
  const names = Object.keys(themes);
  const now = document.documentElement.dataset.theme ?? "auto";
  const next = names[(names.indexOf(now) + 1) % names.length];
  document.documentElement.dataset.theme = next;
  event.target.textContent = themes[next][0];
  event.target.setAttribute("aria-label", `Colours: ${themes[next][1]}`);
});
