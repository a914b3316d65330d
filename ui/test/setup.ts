import { cleanup, configure } from "@testing-library/react";
import { afterEach, vi } from "vitest";
import "../src/app/i18n";

// jsdom lacks what Mantine asks the browser for.
window.matchMedia = vi.fn().mockImplementation((query: string) => ({
  matches: false,
  media: query,
  addEventListener: () => undefined,
  removeEventListener: () => undefined,
  addListener: () => undefined,
  removeListener: () => undefined,
  dispatchEvent: () => false,
}));
class NoResizeObserver {
  observe() {}
  unobserve() {}
  disconnect() {}
}
window.ResizeObserver = NoResizeObserver as unknown as typeof ResizeObserver;
window.HTMLElement.prototype.scrollIntoView = () => undefined;
window.scrollTo = () => undefined;
Object.defineProperty(document, "fonts", { value: new EventTarget() });

// A busy machine is slow, not wrong; and a whole page is no help in a failure.
configure({
  asyncUtilTimeout: 5000,
  getElementError: (message) => new Error(message ?? "not found"),
});

afterEach(cleanup);
