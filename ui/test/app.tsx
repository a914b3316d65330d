import { createMemoryHistory } from "@tanstack/react-router";
import { render } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { vi } from "vitest";
import { App } from "../src/app/App";
import { newQueryClient } from "../src/app/queryClient";
import { newRouter } from "../src/app/router";

export interface Call {
  route: string;
  search: URLSearchParams;
  body: unknown;
}

/** What a route answers: a body for 200, or a status with a body; a function sees the call. */
type Answer = unknown | ((call: Call) => unknown);

export class Refused {
  readonly status: number;
  readonly body: unknown;

  constructor(status: number, code: string, message: string, more: object = {}) {
    this.status = status;
    this.body = { code, message, ...more };
  }
}

/** An EventSource that the test speaks through. */
export class FakeEvents {
  static readonly CLOSED = 2;
  static last: FakeEvents | undefined;
  readyState = 1;
  onopen: (() => void) | null = null;
  onerror: (() => void) | null = null;
  private readonly listeners = new Map<string, (e: { data: string }) => void>();

  constructor() {
    FakeEvents.last = this;
  }

  addEventListener(type: string, listener: (e: { data: string }) => void): void {
    this.listeners.set(type, listener);
  }

  say(type: string, data: unknown): void {
    this.listeners.get(type)?.({ data: JSON.stringify(data) });
  }

  close(): void {
    this.readyState = FakeEvents.CLOSED;
  }
}

/** Runs the whole application at a path, over answers by route: "GET /api/v1/status". */
export function start(path: string, answers: Record<string, Answer>) {
  const calls: Call[] = [];
  vi.stubGlobal("EventSource", FakeEvents);
  vi.stubGlobal("fetch", async (request: Request) => {
    const url = new URL(request.url);
    const text = await request.text();
    const call: Call = {
      route: `${request.method} ${url.pathname}`,
      search: url.searchParams,
      body: text ? JSON.parse(text) : undefined,
    };
    calls.push(call);
    const known = answers[call.route];
    const answer = typeof known === "function" ? known(call) : known;
    if (answer === undefined) {
      return Response.json({ code: "not_found", message: `no ${call.route}` }, { status: 404 });
    }
    return answer instanceof Refused
      ? Response.json(answer.body, { status: answer.status })
      : Response.json(answer);
  });
  const queryClient = newQueryClient();
  const history = createMemoryHistory({ initialEntries: [path] });
  const router = newRouter(queryClient, history);
  render(<App router={router} queryClient={queryClient} />);
  return {
    calls,
    router,
    history,
    queryClient,
    user: userEvent.setup(),
    called: (route: string) => calls.filter((c) => c.route === route),
  };
}
