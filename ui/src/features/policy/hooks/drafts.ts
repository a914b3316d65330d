import { useCallback, useSyncExternalStore } from "react";
import { refKey, type WorkloadRef } from "../../../api/wire";
import { type Draft, emptyDraft } from "../api/draft";

/** Reviews in progress, a workload each: leaving the page must not lose decisions. */
class Drafts {
  private readonly byWorkload = new Map<string, Draft>();
  private readonly listeners = new Set<() => void>();

  get(key: string): Draft {
    return this.byWorkload.get(key) ?? emptyDraft;
  }

  change(key: string, step: (d: Draft) => Draft): void {
    this.byWorkload.set(key, step(this.get(key)));
    this.tell();
  }

  clear(): void {
    this.byWorkload.clear();
    this.tell();
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  private tell(): void {
    for (const l of this.listeners) {
      l();
    }
  }
}

export const drafts = new Drafts();

export function useDraft(ref: WorkloadRef) {
  const key = refKey(ref);
  const draft = useSyncExternalStore(drafts.subscribe, () => drafts.get(key));
  const change = useCallback((step: (d: Draft) => Draft) => drafts.change(key, step), [key]);
  return { draft, change };
}
