import { readFileSync } from "node:fs";
import react from "@vitejs/plugin-react";
import type { Plugin } from "vite";
import { defineConfig } from "vitest/config";

// dist/.gitkeep stays, so that Go compiles from a clean checkout; the font's
// licence goes with the font.
function extraFiles(): Plugin {
  return {
    name: "extra-files",
    apply: "build",
    generateBundle() {
      this.emitFile({ type: "asset", fileName: ".gitkeep", source: "" });
      this.emitFile({
        type: "asset",
        fileName: "licenses/inter.txt",
        source: readFileSync("node_modules/@fontsource-variable/inter/LICENSE"),
      });
    },
  };
}

export default defineConfig({
  plugins: [react(), extraFiles()],
  build: {
    target: "es2022",
    // Inlined assets would need data: in the content security policy.
    assetsInlineLimit: 0,
    license: { fileName: "licenses/packages.md" },
    chunkSizeWarningLimit: 900,
  },
  server: {
    host: "127.0.0.1",
    proxy: { "/api": process.env.RINGFENCE_API ?? "http://127.0.0.1:8080" },
  },
  test: {
    environment: "jsdom",
    setupFiles: ["test/setup.ts"],
    include: ["{src,test}/**/*.test.{ts,tsx}"],
    restoreMocks: true,
    unstubGlobals: true,
    testTimeout: 30_000,
  },
});
