import { expect, test } from "vitest";
import { attacks } from "../../../../test/fixtures.mjs";
import { type GroupBy, groupDenials, groupings } from "./groups";

const denials = attacks();

test.each<[GroupBy, number[]]>([
  ["none", [20]],
  ["source", [16, 3, 1]],
  ["destination", [19, 1]],
  ["port", [14, 3, 2, 1]],
  ["direction", [19, 1]],
  ["reason", [20]],
])("by %s, most first, nothing lost", (by, wanted) => {
  const groups = groupDenials(denials, by);
  expect(groups.map((g) => g.connections)).toEqual(wanted);
  expect(groups.flatMap((g) => g.rows).length).toBe(denials.length);
  expect(groups.reduce((n, g) => n + g.packets, 0)).toBe(58);
});

test("a group spans its rows' times", () => {
  const [emails] = groupDenials(denials, "source");
  expect(emails?.firstSeen).toBe(denials[0]?.firstSeen);
  expect(emails?.lastSeen).toBe(denials[0]?.lastSeen);
});

test("every grouping has a case above", () => {
  expect(groupings.length).toBe(6);
});
