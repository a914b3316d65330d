import type { Revision, Rule, Workload } from "../src/api/wire";
import {
  check,
  digestOf,
  recommendation,
  ref,
  sentence,
  status,
  withId,
  workloads,
} from "./fixtures.mjs";

export const cart = ref("cartservice");
export const cartPath = "/workloads/boutique/Host/cartservice";
export const cartApi = `/api/v1${cartPath}`;

export function cartWorkload(change: (w: Workload) => void = () => undefined): Workload {
  const w = workloads().find((x) => x.summary.workload.name === cart.name);
  if (!w) {
    throw new Error("the fixtures have no cartservice");
  }
  change(w);
  return w;
}

export function revision(number: number, part: Partial<Revision> = {}): Revision {
  const given = part.policy ?? {
    workload: cart,
    isolateIngress: true,
    isolateEgress: false,
    ingress: [],
    egress: [],
  };
  const policy = { ...given, ingress: given.ingress.map(withId), egress: given.egress.map(withId) };
  const sentences = (side: "ingress" | "egress") =>
    policy[side].map((r) => ({ id: r.id ?? "", direction: side, sentence: sentence(r, side) }));
  return {
    workload: cart,
    number,
    digest: digestOf(String(number)),
    origin: "recommendation",
    author: "admin",
    createdAt: "2026-01-02T03:04:05Z",
    rules: [...sentences("ingress"), ...sentences("egress")],
    ...part,
    policy,
  };
}

export const cidrRule = (prefix: string, port: number): Rule =>
  withId({ peers: [{ cidr: { prefix } }], ports: [{ protocol: "TCP", port }] });

/** What the application asks for on any page of cartservice. */
export const cartAnswers = (w: Workload, revisions: Revision[] = []) => ({
  "GET /api/v1/session": { user: "admin" },
  "GET /api/v1/status": status(),
  "GET /api/v1/workloads": workloads().map((x) => x.summary),
  [`GET ${cartApi}`]: w,
  [`GET ${cartApi}/revisions`]: revisions,
  [`GET ${cartApi}/recommendation`]: recommendation("cartservice"),
  [`GET ${cartApi}/check`]: check("cartservice", "live", 4),
});

export { recommendation, status, workloads };
