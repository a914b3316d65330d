import { useSyncExternalStore } from "react";

// One timer for every relative time on the page, so that they change together.
const listeners = new Set<() => void>();
let now = Date.now();
let timer: ReturnType<typeof setInterval> | undefined;

function subscribe(listener: () => void): () => void {
  if (listeners.size === 0) {
    timer = setInterval(() => {
      now = Date.now();
      for (const l of listeners) {
        l();
      }
    }, 1000);
  }
  listeners.add(listener);
  return () => {
    listeners.delete(listener);
    if (listeners.size === 0) {
      clearInterval(timer);
    }
  };
}

/** The time, renewed every second. */
export function useNow(): number {
  return useSyncExternalStore(subscribe, () => now);
}
