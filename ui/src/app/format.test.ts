import { expect, test } from "vitest";
import {
  formatAgo,
  formatBytes,
  formatDuration,
  formatMillis,
  formatMoment,
  formatPercent,
  millisBetween,
  parseTime,
} from "./format";

test.each([
  [0, "0 bytes"],
  [1, "1 byte"],
  [999, "999 bytes"],
  [1000, "1 kB"],
  [1_582_000, "1.58 MB"],
  [7.2e15, "7,200 TB"],
])("formatBytes %d", (n, text) => {
  expect(formatBytes(n)).toBe(text);
});

test.each([
  [-5, "0 sec"],
  [0.4, "0 sec"],
  [59, "59 sec"],
  [60, "1 min"],
  [3_725, "1 hr 2 min"],
  [86_400 + 60, "1 day"],
  [200_000, "2 days 7 hr"],
])("formatDuration %d", (n, text) => {
  expect(formatDuration(n)).toBe(text);
});

test.each([
  [37.6, "38 ms"],
  [1_250, "1.3 sec"],
])("formatMillis %d", (n, text) => {
  expect(formatMillis(n)).toBe(text);
});

test.each([
  [1, "100%"],
  [0.9996, "99.9%"],
  [0, "0%"],
])("formatPercent %d never rounds up to all", (n, text) => {
  expect(formatPercent(n)).toBe(text);
});

test("formatAgo takes a clock that is ahead for now", () => {
  const now = Date.parse("2026-01-02T03:04:05Z");
  expect(formatAgo(new Date(now + 2000), now)).toBe("now");
  expect(formatAgo(new Date(now - 61_000), now)).toBe("1 min. ago");
});

test("parseTime knows Go's zero time and nonsense for none", () => {
  expect(parseTime("0001-01-01T00:00:00Z")).toBeUndefined();
  expect(parseTime("yesterday")).toBeUndefined();
  expect(parseTime(undefined)).toBeUndefined();
  expect(millisBetween("2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05.038Z")).toBe(38);
});

test("formatMoment tells records of one second apart", () => {
  expect(formatMoment(new Date(2026, 10, 22, 15, 4, 5, 67))).toBe("Nov 22, 2026, 15:04:05.067");
});
