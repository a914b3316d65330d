import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import ts from "typescript";
import { expect, test } from "vitest";

const here = import.meta.dirname;
const dashboards = join(here, "../../deploy/grafana/dashboards");

interface Dashboard {
  panels: { type: string; options?: unknown; fieldConfig?: { defaults?: { custom?: unknown } } }[];
}

// Grafana publishes its schema as types, so the compiler is what knows it. JSON has enums by
// their values, and a dashboard may leave out what has a default within a panel.
const schema = `
import type * as dashboard from "../node_modules/@grafana/schema/dist/types/raw/dashboard/x/types.gen";
import type * as stat from "../node_modules/@grafana/schema/dist/types/raw/composable/stat/panelcfg/x/types.gen";
import type * as table from "../node_modules/@grafana/schema/dist/types/raw/composable/table/panelcfg/x/types.gen";
import type * as timeseries from "../node_modules/@grafana/schema/dist/types/raw/composable/timeseries/panelcfg/x/types.gen";
type Json<T> = unknown extends T ? T : T extends string ? \`\${T}\` : T extends number | boolean | null | undefined ? T
  : T extends (infer U)[] ? Json<U>[] : T extends object ? { [K in keyof T]: Json<T[K]> } : T;
type Part<T> = T extends (infer U)[] ? Part<U>[] : T extends object ? { [K in keyof T]?: Part<T[K]> } : T;
`;

/** A dashboard as a program that compiles when it is one. */
function program(text: string): string {
  const { panels }: Dashboard = JSON.parse(text);
  const lines = panels.flatMap(({ type, options = {}, fieldConfig }) => [
    `(${JSON.stringify(options)}) satisfies Part<Json<${type}.Options>>;`,
    fieldConfig?.defaults?.custom
      ? `(${JSON.stringify(fieldConfig.defaults.custom)}) satisfies Part<Json<${type}.FieldConfig>>;`
      : "",
  ]);
  return `${schema}(${text}) satisfies Json<dashboard.Dashboard>;\n${lines.join("\n")}`;
}

/** What the compiler says of a program. */
function faults(source: string): string[] {
  const name = join(here, "dashboard.ts");
  const options: ts.CompilerOptions = {
    strict: true,
    noEmit: true,
    skipLibCheck: true,
    target: ts.ScriptTarget.ES2022,
    module: ts.ModuleKind.ESNext,
    moduleResolution: ts.ModuleResolutionKind.Bundler,
    types: [],
  };
  const host = ts.createCompilerHost(options);
  const read = host.getSourceFile;
  host.getSourceFile = (file, target, ...rest) =>
    file === name
      ? ts.createSourceFile(file, source, target)
      : read.call(host, file, target, ...rest);
  return ts
    .getPreEmitDiagnostics(ts.createProgram([name], options, host))
    .map((d) => ts.flattenDiagnosticMessageText(d.messageText, "\n"));
}

const files = readdirSync(dashboards);

test.each(files)(
  "%s is a dashboard by Grafana's schema",
  (file) => {
    expect(faults(program(readFileSync(join(dashboards, file), "utf8")))).toEqual([]);
  },
  60_000,
);

test.each([
  ['"timeseries"', '"timeseries","legend":1', `'"legend"' does not exist`],
  ['"sort": "desc"', '"sort": "down"', '"down"'],
  ['"drawStyle": "line"', '"drawStyle": "dots"', '"dots"'],
  ['"refresh": 1', '"refresh": "1"', "Type 'string' is not assignable"],
])(
  "%s as %s is noticed",
  (right, wrong, said) => {
    const text = readFileSync(join(dashboards, "traffic.json"), "utf8");
    expect(text).toContain(right);
    expect(faults(program(text.replace(right, wrong))).join("\n")).toContain(said);
  },
  60_000,
);
