import {
  createTheme,
  localStorageColorSchemeManager,
  type MantineColorsTuple,
  type MantineTheme,
  DEFAULT_THEME as mantineDefaults,
  mergeMantineTheme,
} from "@mantine/core";

const fence: MantineColorsTuple = [
  "#e8f6f7",
  "#cdeaec",
  "#9fd7db",
  "#6ec3c9",
  "#46b0b8",
  "#2a9ba4",
  "#17838d",
  "#0e6b75",
  "#0a545c",
  "#063d43",
];

const dark: MantineColorsTuple = [
  "#d3dadb",
  "#b9c3c5",
  "#93a1a4",
  "#65757a",
  "#3c4a4e",
  "#2d393d",
  "#222c30",
  "#181f22",
  "#12181a",
  "#0c1112",
];

export const theme = createTheme({
  colors: { fence, dark },
  primaryColor: "fence",
  primaryShade: 7,
  fontFamily: "'Inter Variable', system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif",
  fontFamilyMonospace: "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace",
  headings: {
    fontWeight: "620",
    sizes: {
      h1: { fontSize: "1.5rem", lineHeight: "1.25" },
      h2: { fontSize: "1.0625rem", lineHeight: "1.35" },
      h3: { fontSize: "0.9375rem", lineHeight: "1.4" },
    },
  },
  defaultRadius: "md",
  focusRing: "auto",
  cursorType: "pointer",
  respectReducedMotion: true,
});

export const fullTheme: MantineTheme = mergeMantineTheme(mantineDefaults, theme);

export const schemeManager = localStorageColorSchemeManager({ key: "ringfence-scheme" });
