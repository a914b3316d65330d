import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
import en from "./en.json";

type Tree = { [key: string]: string | Tree };

const flat = (tree: Tree, path = ""): string[] =>
  Object.entries(tree).flatMap(([k, v]) =>
    typeof v === "string" ? [`${path}${k}`] : flat(v, `${path}${k}.`),
  );

const keys = [...new Set(flat(en).map((k) => k.replace(/_(zero|one|other)$/, "")))];

const sources = readdirSync("src", { recursive: true, encoding: "utf8" })
  .filter((f) => /\.tsx?$/.test(f) && !/\.(test|gen)\./.test(f))
  .map((f) => readFileSync(`src/${f}`, "utf8"))
  .join("\n");

/** Quoted texts that look like keys; ${…} stands for any part of one. */
const used = [
  ...sources.matchAll(/["`]([a-z][A-Za-z]*(?:\.(?:[A-Za-z0-9-]|\$\{[^`]*?\})+)+)["`]/g),
].map(
  (m) =>
    new RegExp(
      `^${(m[1] ?? "")
        .replaceAll(/\$\{.*?\}+/g, "[^.]+")
        .replaceAll(".", "\\.")
        .replaceAll("[^\\.]", "[^.]")}$`,
    ),
);

const roots = new Set(keys.map((k) => k.split(".")[0]));

test("every text that the code names exists", () => {
  const missing = used.filter(
    (u) => roots.has(u.source.slice(1).split("\\.")[0] ?? "") && !keys.some((k) => u.test(k)),
  );
  expect(missing).toEqual([]);
});

test("every text is used", () => {
  expect(keys.filter((k) => !used.some((u) => u.test(k)))).toEqual([]);
});

test("plurals are whole", () => {
  const all = flat(en);
  const ones = all.filter((k) => k.endsWith("_one"));
  expect(ones.filter((k) => !all.includes(k.replace(/_one$/, "_other")))).toEqual([]);
});
