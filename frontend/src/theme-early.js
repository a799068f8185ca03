// A classic script, run before the first paint so that a remembered theme does not flash.
try {
  const remembered = localStorage.getItem("council.theme");
  if (remembered === "light" || remembered === "dark") {
    document.documentElement.dataset.theme = remembered;
  }
} catch {
  // Storage may be forbidden; the system's colour scheme then decides.
}
