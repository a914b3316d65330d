// Sets the colour scheme before the first paint; a file, since inline scripts are forbidden.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("ringfence-scheme");
  } catch {
    // Storage is blocked: follow the system.
  }
  const dark =
    chosen === "dark" ||
    (chosen !== "light" && window.matchMedia("(prefers-color-scheme: dark)").matches);
  document.documentElement.setAttribute("data-mantine-color-scheme", dark ? "dark" : "light");
})();
