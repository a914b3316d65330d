// A small shop for the mock server: workloads, who calls whom, and what was learned of it.

/** @import * as Wire from "../src/api/wire" */

export const hour = 3_600_000;
export const minute = 60_000;

/** @param {number} ms */
export const ago = (ms) => new Date(Date.now() - ms).toISOString();

/** @type {[name: string, endpoints: number][]} */
const names = [
  ["frontend", 2],
  ["adservice", 1],
  ["cartservice", 2],
  ["checkoutservice", 1],
  ["currencyservice", 1],
  ["dns", 1],
  ["emailservice", 1],
  ["loadgenerator", 1],
  ["paymentservice", 1],
  ["productcatalogservice", 1],
  ["recommendationservice", 1],
  ["redis-cart", 1],
  ["shippingservice", 1],
];

/** @type {[from: string, to: string, protocol: string, port: number][]} */
export const edges = [
  ["loadgenerator", "frontend", "TCP", 8080],
  ["frontend", "adservice", "TCP", 9555],
  ["frontend", "cartservice", "TCP", 7070],
  ["frontend", "checkoutservice", "TCP", 5050],
  ["frontend", "currencyservice", "TCP", 7000],
  ["frontend", "productcatalogservice", "TCP", 3550],
  ["frontend", "recommendationservice", "TCP", 8080],
  ["frontend", "shippingservice", "TCP", 50051],
  ["checkoutservice", "cartservice", "TCP", 7070],
  ["checkoutservice", "currencyservice", "TCP", 7000],
  ["checkoutservice", "emailservice", "TCP", 8080],
  ["checkoutservice", "paymentservice", "TCP", 50051],
  ["checkoutservice", "productcatalogservice", "TCP", 3550],
  ["checkoutservice", "shippingservice", "TCP", 50051],
  ["recommendationservice", "productcatalogservice", "TCP", 3550],
  ["cartservice", "redis-cart", "TCP", 6379],
  ["cartservice", "dns", "UDP", 53],
  ["frontend", "dns", "UDP", 53],
  ["checkoutservice", "dns", "UDP", 53],
];

/** @param {string} name @returns {Wire.WorkloadRef} */
export const ref = (name) => ({
  namespace: name === "loadgenerator" || name === "dns" ? "tools" : "boutique",
  kind: "Host",
  name,
});

/** @param {string} text */
function digest(text) {
  let h = 0x811c9dc5;
  for (const c of text) {
    h = Math.imul(h ^ c.charCodeAt(0), 0x01000193) >>> 0;
  }
  return h.toString(16).padStart(8, "0");
}

/** @param {Wire.Rule} r @returns {Wire.Rule} */
export const withId = (r) => ({ ...r, id: digest(JSON.stringify([r.peers, r.ports])) });

/** @param {string} text */
export const digestOf = (text) =>
  Array.from({ length: 8 }, (_, i) => digest(`${text}${i}`)).join("");

/** @param {Wire.Rule} rule @param {"ingress" | "egress"} side */
export function sentence(rule, side) {
  const peers = rule.peers
    .map((p) =>
      p.selector
        ? `workloads with ${Object.entries(p.selector.matchLabels ?? {})
            .map(([k, v]) => `${k}=${v}`)
            .join(", ")} in ${p.selector.namespace}`
        : (p.cidr?.prefix ?? p.reserved),
    )
    .join("; ");
  const ports = rule.ports
    .map((p) => `${p.protocol} ${p.port ?? "any port"}${p.endPort ? `–${p.endPort}` : ""}`)
    .join(", ");
  return side === "ingress"
    ? `${peers} may connect on ${ports}`
    : `may connect to ${peers} on ${ports}`;
}

/** @param {string} peer @param {string} protocol @param {number} port @returns {Wire.Rule} */
const ruleTo = (peer, protocol, port) =>
  withId({
    peers: [{ selector: { namespace: ref(peer).namespace, matchLabels: { app: peer } } }],
    ports: [{ protocol, port }],
  });

/** @param {Wire.Party} peer @param {string} protocol @param {number} port @param {number} connections @returns {Wire.Evidence} */
const evidence = (peer, protocol, port, connections) => ({
  peer,
  protocol,
  port,
  connections,
  answered: connections,
  bytesForward: connections * 1312,
  bytesReverse: connections * 8930,
  firstSeen: ago(26 * hour),
  lastSeen: ago(4_000),
  sourceEndpoints: 2,
  destinationEndpoints: 1,
  hours: 26,
  days: 2,
  weekHours: 24,
  observedAt: "both",
  filter: `to.port=${port} protocol=${protocol}`,
});

/** @param {string} name @returns {Wire.RecommendedRule[]} */
function rulesOf(name) {
  return edges
    .filter(([from, to]) => from === name || to === name)
    .map(([from, to, protocol, port], i) => {
      const side = to === name ? "ingress" : "egress";
      const peer = to === name ? from : to;
      const rule = ruleTo(peer, protocol, port);
      return {
        rule,
        direction: side,
        sentence: sentence(rule, side),
        evidence: [evidence({ workload: ref(peer) }, protocol, port, 1204 + i * 317)],
        flags: [],
        proposed: "accept",
        alsoAdmits: [],
        mayAdmit: ["any later workload in boutique with app=adservice"],
      };
    });
}

/** @returns {Wire.RecommendedRule[]} */
function unusualRules() {
  const admin = ruleTo("adservice", "TCP", 22);
  const external = withId({
    peers: [{ cidr: { prefix: "203.0.113.10/32" } }, { cidr: { prefix: "2001:db8:5::10/128" } }],
    ports: [{ protocol: "TCP", port: 443 }],
  });
  const dnsTcp = ruleTo("dns", "TCP", 53);
  return [
    {
      rule: admin,
      direction: "ingress",
      sentence: sentence(admin, "ingress"),
      evidence: [
        {
          ...evidence({ workload: ref("adservice"), endpoint: "adservice-1" }, "TCP", 22, 1),
          bytesForward: 2100,
          bytesReverse: 3400,
          firstSeen: ago(41 * minute),
          lastSeen: ago(41 * minute),
          sourceEndpoints: 1,
          hours: 1,
          days: 2,
          weekHours: 24,
        },
      ],
      flags: [
        { code: "seen-once", reason: "Seen once: a single connection in the whole window" },
        { code: "admin-port", reason: "Port 22 is for administration" },
      ],
      proposed: "review",
      alsoAdmits: ["every other endpoint of adservice in boutique"],
      mayAdmit: [],
    },
    {
      rule: external,
      direction: "egress",
      sentence: sentence(external, "egress"),
      evidence: [
        {
          ...evidence({ address: "203.0.113.10", reserved: "world" }, "TCP", 443, 26),
          answered: 24,
          observedAt: "here",
        },
        {
          ...evidence({ address: "2001:db8:5::10", reserved: "world" }, "TCP", 443, 12),
          observedAt: "here",
        },
      ],
      flags: [{ code: "rare", reason: "Rare: about once an hour" }],
      proposed: "review",
      alsoAdmits: [],
      mayAdmit: [],
    },
    {
      rule: dnsTcp,
      direction: "egress",
      sentence: sentence(dnsTcp, "egress"),
      evidence: [],
      flags: [
        {
          code: "implied",
          reason:
            "not observed: DNS over UDP was, and falls back to TCP when an answer is too long",
        },
      ],
      proposed: "accept",
      implied: true,
      alsoAdmits: ["TCP 53 to the same resolver, which was not observed"],
      mayAdmit: [],
    },
  ];
}

/** @param {string} name @returns {Wire.Recommendation} */
export function recommendation(name) {
  const rules = [...rulesOf(name), ...(name === "cartservice" ? unusualRules() : [])];
  return {
    workload: ref(name),
    rules,
    ingressObserved: rules.some((r) => r.direction === "ingress"),
    egressObserved: rules.some((r) => r.direction === "egress"),
    isolateIngress: rules.some((r) => r.direction === "ingress"),
    isolateEgress: rules.some((r) => r.direction === "egress"),
    excluded:
      name === "cartservice"
        ? [
            {
              direction: "ingress",
              source: { workload: ref("shippingservice"), endpoint: "shippingservice-1" },
              destination: { workload: ref("cartservice"), endpoint: "cartservice-2" },
              protocol: "TCP",
              port: 6379,
              connections: 12,
              reason: "Never answered: 12 attempts",
            },
            {
              direction: "ingress",
              source: { reserved: "host", address: "10.20.1.1" },
              destination: { workload: ref("cartservice"), endpoint: "cartservice-1" },
              protocol: "TCP",
              port: 7070,
              connections: 312,
              reason: "Covered by failsafe: the node's own probes are always allowed",
            },
          ]
        : [],
    coverage: {
      since: ago(26 * hour),
      until: ago(0),
      seconds: 26 * 3600,
      coveredSeconds: 25.7 * 3600,
      lostRecords: 0,
      ready: true,
      missing: [],
      words:
        "Observed for 26 hours on both nodes; 18 minutes are missing while node-2 was restarted. No records were lost.",
    },
    completeness: {
      weekHours: 25,
      replicas: 2,
      watchedReplicas: 2,
      seenReplicas: 2,
      curve: [{ time: ago(hour), edges: rules.length }],
      estimate: {
        days: 4,
        edges: 6,
        once: 1,
        twice: 0,
        unseen: 0.004,
        expected: 0.006,
        low: 0,
        high: 0.021,
        unseenEdges: 0.4,
      },
      split: { at: ago(13 * hour), judged: 4100, denied: 12, deniedEdges: 1, share: 0.003 },
      words: "25 of 168 hours of the week watched without a loss.",
    },
  };
}

/** @param {string} name @param {Wire.Slot} slot @param {number} revision @returns {Wire.PolicyCheck} */
export function check(name, slot, revision) {
  const { workload, rules, coverage } = recommendation(name);
  const old = rules.filter((r) => !r.implied && r.proposed === "accept");
  const fresh = rules.filter((r) => r.proposed === "review");
  const unused = {
    code: "unused",
    reason: "nothing used it in the 23 of 30 days that were watched",
  };
  return {
    workload,
    slot,
    revision,
    made: ago(25 * hour),
    since: ago(26 * hour),
    until: ago(0),
    rules: [
      ...old.map((r, i) =>
        i > 0
          ? { ...r, proposed: /** @type {const} */ ("keep") }
          : { ...r, proposed: /** @type {const} */ ("remove"), evidence: [], flags: [unused] },
      ),
      ...fresh,
    ],
    excluded: [],
    coverage,
    unused: 1,
    shadowed: 0,
    broad: 0,
    new: fresh.length,
    toReview: fresh.length,
    words: `Of ${old.length} rules 1 unused, 0 shadowed, 0 broader than what was seen.`,
  };
}

/** @returns {Wire.Denial[]} */
export const attacks = () => [
  {
    direction: "ingress",
    source: { workload: ref("emailservice"), endpoint: "emailservice-1", address: "10.20.2.14" },
    destination: { workload: ref("cartservice"), endpoint: "cartservice-1" },
    protocol: "TCP",
    port: 7070,
    reason: "default-deny",
    connections: 14,
    packets: 42,
    firstSeen: ago(31 * minute),
    lastSeen: ago(3 * minute),
  },
  {
    direction: "ingress",
    source: { workload: ref("adservice"), endpoint: "adservice-1" },
    destination: { workload: ref("cartservice"), endpoint: "cartservice-2" },
    protocol: "TCP",
    port: 22,
    reason: "default-deny",
    connections: 3,
    packets: 9,
    firstSeen: ago(12 * minute),
    lastSeen: ago(11 * minute),
  },
  {
    direction: "egress",
    source: { workload: ref("cartservice"), endpoint: "cartservice-1" },
    destination: { reserved: "world", address: "2001:db8:bad::66" },
    protocol: "TCP",
    port: 4444,
    reason: "default-deny",
    connections: 1,
    packets: 5,
    firstSeen: ago(9 * minute),
    lastSeen: ago(9 * minute),
  },
  {
    direction: "ingress",
    source: { workload: ref("emailservice"), endpoint: "emailservice-1" },
    destination: { workload: ref("cartservice"), endpoint: "cartservice-2" },
    protocol: "UDP",
    port: 161,
    reason: "default-deny",
    connections: 2,
    packets: 2,
    firstSeen: ago(8 * minute),
    lastSeen: ago(8 * minute),
  },
];

/** @param {string} name @param {number} endpoints @param {number} i @returns {Wire.Workload} */
function workload(name, endpoints, i) {
  const nodes = endpoints > 1 ? ["node-1", "node-2"] : [i % 2 ? "node-2" : "node-1"];
  const observedSince = name === "shippingservice" ? ago(9 * minute) : ago(26 * hour);
  const rules = rulesOf(name);
  return {
    summary: {
      workload: ref(name),
      labels: { app: name },
      endpoints,
      ingressStage: "observe",
      egressStage: "observe",
      requested: {},
      effective: {},
      confirmed: true,
      version: 1,
      edges: rules.length + (name === "cartservice" ? 2 : 0),
      connections: rules.length * 4821 + i,
      wouldDeny: 0,
      denied: 0,
      lastSeen: ago(name === "emailservice" ? 4 * minute : 3_000),
      observedSince,
    },
    endpoints: Array.from({ length: endpoints }, (_, n) => ({
      name: `${name}-${n + 1}`,
      node: nodes[n % nodes.length] ?? "node-1",
      interface: `rf${i}x${n}`,
      host: false,
      addresses: [`10.20.${(n % 2) + 1}.${10 + i}`, `fd00:20:${(n % 2) + 1}::${10 + i}`],
    })),
    nodes: nodes.map((node) => ({
      node,
      connected: true,
      effective: {},
      endpoints: Math.ceil(endpoints / nodes.length),
      observedSince,
      confirmed: true,
    })),
    actions: {},
    guardrails: [
      {
        name: "no-metadata",
        sentence: "no workload may connect to 169.254.169.254 on any port of any protocol",
      },
    ],
  };
}

/** @returns {Wire.Workload[]} */
export const workloads = () => names.map(([name, n], i) => workload(name, n, i));

/** @returns {Wire.Status} */
export const status = () => ({
  version: "v0.1.0",
  startedAt: ago(26.2 * hour),
  now: ago(0),
  confirmSeconds: 10,
  warmUpSeconds: 3600,
  nodes: [
    {
      name: "node-1",
      connected: true,
      version: "v0.1.0",
      lastReport: ago(2_000),
      endpoints: 9,
      panicked: false,
      generation: 14,
    },
    {
      name: "node-2",
      connected: true,
      version: "v0.1.0",
      lastReport: ago(1_000),
      endpoints: 6,
      panicked: false,
      generation: 14,
    },
  ],
  store: { embedded: true, healthy: true, detail: "26.7.3" },
  learning: {
    since: ago(26 * hour),
    edges: 21,
    connections: 187_204,
    lostRecords: 0,
    coverage: 0.988,
    newestEdgeAt: ago(41 * minute),
  },
});

/** The record number n, from the newest. @param {number} n @returns {Wire.Flow} */
export function flow(n) {
  const at = new Date(Date.now() - n * 1700).toISOString();
  const outcome = ["forwarded", "forwarded", "audited", "forwarded", "dropped"][n % 5] ?? "";
  const external = n % 7 === 3;
  return {
    id: n.toString(16),
    stored: at,
    time: at,
    firstSeen: at,
    node: `node-${1 + (n % 2)}`,
    event: ["new", "end"][n % 2] ?? "",
    direction: n % 3 ? "egress" : "ingress",
    source: external
      ? { reserved: "world" }
      : {
          workload: { namespace: "boutique", kind: "Host", name: "cartservice" },
          endpoint: "cartservice-1",
          labels: { app: "cartservice", tier: "web" },
        },
    destination: {
      workload: { namespace: "boutique", kind: "Host", name: "redis-cart" },
      endpoint: "redis-cart-1",
      labels: { app: "redis-cart", tier: "db" },
    },
    sourceAddress: external ? "2001:db8:ffff:1234:5678:9abc:def0:1" : "10.89.1.20",
    destinationAddress: "10.89.1.21",
    sourcePort: 40000 + n,
    port: 6379,
    protocol: "TCP",
    connections: n % 2,
    packetsForward: 12 + n,
    packetsReverse: 9,
    bytesForward: 1280 * (n + 1),
    bytesReverse: 640,
    outcome,
    live: { verdict: "unknown", reason: "no-policy" },
    staged: { verdict: "deny", reason: "default-deny", revision: 2 },
  };
}

/** @returns {Wire.Facet[]} */
export function facets() {
  /** @param {string} field @param {string[]} values */
  const facet = (field, values) => ({
    field,
    values: values.map((value, i) => ({
      value,
      term: `${field}=${value}`,
      records: 12000 >> (2 * i),
      connections: 6000 >> (2 * i),
    })),
  });
  return [
    facet("from.namespace", ["boutique", "tools"]),
    facet("from.workload", [
      "boutique/Host/cartservice",
      "boutique/Host/a-workload-of-a-name-that-is-too-long-for-its-place",
      "boutique/Host/frontend",
    ]),
    facet("to.workload", ["boutique/Host/redis-cart", "boutique/Host/checkoutservice"]),
    facet("from.reserved", ["world"]),
    facet("to.port", ["6379", "53", "8080"]),
    facet("protocol", ["TCP", "UDP"]),
    facet("verdict", ["forwarded", "audited", "dropped"]),
    facet("direction", ["egress", "ingress"]),
    facet("staged.reason", ["rule", "default-deny"]),
    facet("node", ["node-1", "node-2"]),
  ];
}

/** Why a connection to cartservice is denied. @param {URLSearchParams} asked @returns {{ connections: Wire.Connection[], judgedBy: [] }} */
export function explanation(asked) {
  const source = asked.get("source") ?? "";
  const destination = asked.get("destination") ?? "";
  const port = Number(asked.get("port"));
  const why = [`${source} is not in namespace boutique`, `port ${port}/TCP is not among them`];
  return {
    connections: [
      {
        source,
        destination,
        protocol: "TCP",
        port,
        allowed: false,
        summary: `ingress of ${destination}: denied, since the direction is isolated and none of its 2 rules matches`,
        ingress: {
          verdict: "deny",
          reason: "default-deny",
          summary: "denied: none of 2 rules matches",
          rules: [
            {
              index: 0,
              id: "r1",
              sentence: "workloads with app=frontend in boutique may connect to TCP 7070",
              matched: false,
              why,
            },
            {
              index: 1,
              id: "r2",
              sentence: "workloads with app=checkoutservice in boutique may connect to TCP 7070",
              matched: false,
              why,
            },
          ],
        },
      },
    ],
    judgedBy: [],
  };
}
