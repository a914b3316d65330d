import { QueryClient } from "@tanstack/react-query";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { status, workloads } from "../../test/shop";
import { CacheWriter, withActivity, withWorkload } from "./events";
import { queries } from "./queries";

const list = workloads()
  .map((w) => w.summary)
  .sort((a, b) => (a.workload.name < b.workload.name ? -1 : 1))
  .filter((w) => w.workload.namespace === "boutique");
const names = (l: typeof list | undefined) => l?.map((w) => w.workload.name);

describe("withWorkload", () => {
  const [first, second] = list;
  test("replaces in place", () => {
    const next = second && withWorkload(list, { ...second, edges: 99 });
    expect(names(next)).toEqual(names(list));
    expect(next?.[1]?.edges).toBe(99);
  });
  test("inserts a new one in order", () => {
    expect(first && names(withWorkload(list.slice(1), first))).toEqual(names(list));
  });
  test("leaves a list that was never loaded alone", () => {
    expect(first && withWorkload(undefined, first)).toBeUndefined();
  });
});

describe("withActivity", () => {
  const entry = (id: number) => ({ id, time: "", actor: "", action: "", text: "" });
  const data = { pages: [[entry(2), entry(1)], [entry(0)]], pageParams: [undefined, 1] };
  test("puts a new entry first", () => {
    expect(withActivity(data, entry(3))?.pages[0]?.map((a) => a.id)).toEqual([3, 2, 1]);
  });
  test("ignores one that was sent again", () => {
    expect(withActivity(data, entry(2))).toBe(data);
    expect(withActivity(undefined, entry(2))).toBeUndefined();
  });
});

describe("CacheWriter", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  function writer() {
    const queryClient = new QueryClient();
    const stale = vi.spyOn(queryClient, "invalidateQueries");
    queryClient.setQueryData(queries.workloads().queryKey, list);
    const asked = () => stale.mock.calls.map(([f]) => f?.queryKey?.[0]).sort();
    return { queryClient, asked, writer: new CacheWriter(queryClient, 1000) };
  }

  test("many summaries ask for the workload once a pause", () => {
    const { writer: w, asked, queryClient } = writer();
    const [one] = list;
    for (let i = 0; i < 50 && one; i++) {
      w.workload({ ...one, connections: i });
    }
    expect(asked()).toEqual([]);
    vi.advanceTimersByTime(1000);
    expect(asked()).toEqual(["workload"]);
    expect(queryClient.getQueryData(queries.workloads().queryKey)?.[0]?.connections).toBe(49);
  });

  test("a change of slots asks at once, for revisions too; new denials for them", () => {
    const { writer: w, asked } = writer();
    const [one] = list;
    if (one) {
      w.workload({ ...one, version: one.version + 1, wouldDeny: 5 });
    }
    vi.advanceTimersByTime(0);
    expect(asked()).toEqual(["revisions", "workload"]);
    vi.advanceTimersByTime(1000);
    expect(asked()).toEqual(["denials", "revisions", "workload"]);
  });

  test("a closed one asks for nothing more, and a status is kept as it is", () => {
    const { writer: w, asked, queryClient } = writer();
    const [one] = list;
    if (one) {
      w.workload({ ...one, version: 9 });
    }
    w.close();
    vi.advanceTimersByTime(5000);
    expect(asked()).toEqual([]);
    const s = status();
    w.status(s);
    expect(queryClient.getQueryData(queries.status().queryKey)).toBe(s);
  });
});
