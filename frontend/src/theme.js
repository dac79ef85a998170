// Blocking and tiny: the right theme before the first paint.
const theme = localStorage.getItem("theme") || "system";
const dark = matchMedia("(prefers-color-scheme: dark)").matches;
document.documentElement.classList.toggle("dark", theme === "dark" || (theme === "system" && dark));
