// Before the page is drawn, so that it does not flash: the theme chosen earlier, if any.
try {
  const theme = localStorage.getItem("llmft.theme");
  if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
} catch {
  // no storage: the system's theme
}
