import { readFileSync, writeFileSync } from "node:fs";
import { convertCssVariables, defaultCssVariablesResolver } from "@mantine/core";
import { expect, test } from "vitest";
import { fullTheme } from "./theme";

// The theme's variables are a file, so that the content security policy can
// forbid inline styles. `npm run theme` writes it.
test("theme.gen.css holds the theme's variables", () => {
  const want = `/* Written by \`npm run theme\` from theme.ts. */\n${convertCssVariables(
    defaultCssVariablesResolver(fullTheme),
    ":root",
  )}\n`;
  const file = "src/app/theme.gen.css";
  if (process.env.UPDATE_THEME) {
    writeFileSync(file, want);
  }
  expect(readFileSync(file, "utf8") === want, "stale: run `npm run theme`").toBe(true);
});
