import { useEffect } from "react";

/** Names the page in the browser's tab while mounted. */
export function useTitle(title: string): void {
  useEffect(() => {
    document.title = `${title} · ringfence`;
  }, [title]);
}
