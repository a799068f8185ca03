// Light or dark: the system's choice until the user makes one, which is remembered.
import { signal } from "@preact/signals";
import { recall, remember } from "./remembered.js";

const system = matchMedia("(prefers-color-scheme: dark)");
const KEY = "council.theme";
const chosen = recall(KEY);

export const dark = signal(chosen ? chosen === "dark" : system.matches);

system.addEventListener("change", () => {
  if (!document.documentElement.dataset.theme) dark.value = system.matches;
});

export function toggleTheme() {
  dark.value = !dark.value;
  const name = dark.value ? "dark" : "light";
  document.documentElement.dataset.theme = name;
  remember(KEY, name);
}
