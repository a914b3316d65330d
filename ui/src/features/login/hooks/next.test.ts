import { expect, test } from "vitest";
import { safeNext } from "./next";

test.each([
  ["/workloads?stage=audit", "/workloads?stage=audit"],
  ["/", "/"],
  [undefined, "/"],
  [7, "/"],
  ["", "/"],
  ["https://example.org/", "/"],
  ["//example.org/", "/"],
  ["/\\example.org", "/"],
  ["javascript:alert(1)", "/"],
  ["/login?next=/", "/"],
])("%s goes to %s", (next, wanted) => {
  expect(safeNext(next)).toBe(wanted);
});
