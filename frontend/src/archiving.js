// Archives a session or a conversation, and tells where it went.
import { signal } from "@preact/signals";
import { api, asProblem } from "./api.js";
import { toast } from "./notices.js";
import { archiveLink, go } from "./router.js";

/** What is being archived now: ids of sessions and conversations. */
export const archiving = signal(/** @type {Set<string>} */ (new Set()));

/** @param {{session_id: string} | {conversation_id: string}} what */
export async function archive(what) {
  const id = Object.values(what)[0];
  if (archiving.value.has(id)) return;
  archiving.value = new Set([...archiving.value, id]);
  try {
    const kept = await api.archive(what);
    toast(kept.created ? "Archived" : "It is archived already", {
      lasts_ms: 8000, action: { label: "Open the archive", run: () => go(archiveLink(kept.archive_id)) },
    });
  } catch (error) {
    const problem = asProblem(error);
    toast(`Could not archive: ${problem.detail ?? problem.title}`, { kind: "error" });
  }
  archiving.value = new Set([...archiving.value].filter((one) => one !== id));
}
