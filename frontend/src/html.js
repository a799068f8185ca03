// Markup in plain JavaScript: one tagged template for all views.
import { h } from "preact";
import htm from "htm";

export const html = htm.bind(h);
