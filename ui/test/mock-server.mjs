// Serves the built application and a server's answers that exist only in memory.
// For tests of the pages and for screenshots; `npm run mock` starts it by hand.

import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";
import { fileURLToPath } from "node:url";
import * as fixtures from "./fixtures.mjs";

/** @import { IncomingMessage, ServerResponse } from "node:http" */
/** @import * as Wire from "../src/api/wire" */
/** @typedef {Wire.Workload & { revisions: Wire.Revision[], formerLive: (number | undefined)[] }} Held */

const dist = fileURLToPath(new URL("../dist", import.meta.url));
export const password = "correct horse battery staple";

// As strict as it can be: nothing inline, nothing from elsewhere.
export const policy =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; " +
  "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";

const types = /** @type {Record<string, string>} */ ({
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".css": "text/css",
  ".svg": "image/svg+xml",
  ".woff2": "font/woff2",
});

class Refusal extends Error {
  /** @param {number} status @param {Wire.ErrorBody} body */
  constructor(status, body) {
    super(body.message);
    this.status = status;
    this.body = body;
  }
}

/** @param {Wire.Policy} policy @param {Wire.RecommendedRule} r */
const holds = (policy, r) =>
  r.direction !== "unknown" &&
  policy[r.direction].some((own) => fixtures.withId(own).id === r.rule.id);

export class Mock {
  constructor() {
    /** @type {Map<string, Held>} */
    this.workloads = new Map();
    for (const w of fixtures.workloads()) {
      this.workloads.set(keyOf(w.summary.workload), { ...w, revisions: [], formerLive: [] });
    }
    this.status = fixtures.status();
    /** @type {Wire.Activity[]} */
    this.activity = [];
    /** @type {Set<ServerResponse>} */
    this.streams = new Set();
    /** @type {Map<string, Refusal | "hang">} */
    this.faults = new Map();
    /** @type {Set<string>} */
    this.sessions = new Set();
    this.confirmAfter = 600;
    /** What learning lacks of every workload. @type {string[]} */
    this.unlearned = [];
    this.empty = false;
    this.note("system", "started", "The server started; 13 workloads are in the inventory.");
  }

  /** Makes a route fail, hang or, without a fault, work again. @param {string} route @param {Wire.ErrorBody & { status: number } | "hang"} [fault] */
  fault(route, fault) {
    if (!fault) {
      this.faults.delete(route);
    } else if (fault === "hang") {
      this.faults.set(route, "hang");
    } else {
      const { status, ...body } = fault;
      this.faults.set(route, new Refusal(status, body));
    }
  }

  /** @param {string} event @param {unknown} data */
  tell(event, data) {
    for (const s of this.streams) {
      s.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    }
  }

  /** @param {string} actor @param {string} action @param {string} text @param {Wire.WorkloadRef} [workload] @param {number} [revision] */
  note(actor, action, text, workload, revision) {
    const entry = {
      id: this.activity.length + 1,
      time: fixtures.ago(0),
      actor,
      action,
      text,
      workload,
      revision,
    };
    this.activity.unshift(entry);
    this.tell("activity", entry);
  }

  /** @param {string} name */
  get(name) {
    const w = this.workloads.get(keyOf(fixtures.ref(name)));
    if (!w) {
      throw new Error(`no workload ${name}`);
    }
    return w;
  }

  /** @param {Held} w @param {Wire.NewRevision} body @param {"admin" | "system"} [author] @returns {Wire.Revision} */
  createRevision(w, body, author = "admin") {
    const newest = w.revisions[0]?.number ?? 0;
    if (body.parent !== newest) {
      throw refuse(
        409,
        "conflict",
        `revision ${newest} was made meanwhile; look at it and try again`,
      );
    }
    const missing = fixtures
      .recommendation(w.summary.workload.name)
      .rules.filter((r) => r.proposed === "review" && holds(body.policy, r))
      .filter((r) => !body.acceptedFlagged?.some((a) => a.rule === r.rule.id))
      .map((r) => `rule ${r.rule.id} (${r.sentence}) is flagged`);
    if (missing.length > 0) {
      throw new Refusal(409, {
        code: "not_ready",
        message: `flagged rules are accepted one by one: ${missing[0]}`,
        missing,
      });
    }
    const bad = [...body.policy.ingress, ...body.policy.egress]
      .flatMap((r) => r.peers)
      .find((p) => p.cidr?.prefix.startsWith("0.0.0.0/"));
    if (bad) {
      throw refuse(
        400,
        "invalid",
        "a prefix of every address allows everything; name a smaller one",
        "policy.egress",
      );
    }
    return this.addRevision(w, body.policy, body.origin, author, body.comment);
  }

  /** @param {Held} w @param {Wire.Policy} policy @param {Wire.Revision["origin"]} origin @param {string} author @param {string} [comment] */
  addRevision(w, policy, origin, author, comment) {
    const parent = w.revisions[0]?.number;
    const saved = {
      ...policy,
      ingress: policy.ingress.map(fixtures.withId),
      egress: policy.egress.map(fixtures.withId),
    };
    /** @param {"ingress" | "egress"} side */
    const sentences = (side) =>
      saved[side].map((r) => ({
        id: r.id ?? "",
        direction: side,
        sentence: fixtures.sentence(r, side),
      }));
    /** @type {Wire.Revision} */
    const revision = {
      workload: w.summary.workload,
      number: (parent ?? 0) + 1,
      parent,
      digest: fixtures.digestOf(JSON.stringify(saved)),
      origin,
      author,
      comment,
      createdAt: fixtures.ago(0),
      policy: saved,
      rules: [...sentences("ingress"), ...sentences("egress")],
    };
    w.revisions.unshift(revision);
    this.note(
      author,
      "revision.created",
      `${author} created revision ${revision.number} of ${w.summary.workload.name}`,
      w.summary.workload,
      revision.number,
    );
    return revision;
  }

  /** @param {Held} w @param {Wire.Slot} slot @param {number | undefined} revision */
  setSlot(w, slot, revision) {
    w.summary.requested = { ...w.summary.requested, [slot]: revision };
    w.summary.effective = { ...w.summary.effective, [slot]: revision };
    for (const n of w.nodes) {
      n.effective = { ...n.effective, [slot]: revision };
      if (slot === "live") {
        n.switchedAt = fixtures.ago(0);
        n.confirmed = false;
        n.deadline = fixtures.ago(-10_000);
      }
    }
    w.summary.version++;
    this.restage(w);
  }

  /** @param {Held} w */
  restage(w) {
    const { live, staged } = w.summary.requested;
    const livePolicy = w.revisions.find((r) => r.number === live)?.policy;
    const stagedPolicy = w.revisions.find((r) => r.number === staged)?.policy;
    /** @param {"isolateIngress" | "isolateEgress"} side @returns {Wire.Stage} */
    const stage = (side) =>
      livePolicy?.[side] ? "enforce" : stagedPolicy?.[side] ? "audit" : "observe";
    w.summary.ingressStage = stage("isolateIngress");
    w.summary.egressStage = stage("isolateEgress");
    w.actions = {
      ...(staged ? {} : { enforce: "nothing is staged: audit a revision first" }),
      ...(staged && this.unlearned.length > 0
        ? {
            enforce: `revision ${staged} cannot be enforced yet: ${this.unlearned[0]} (and ${this.unlearned.length - 1} more)`,
            unlearned: this.unlearned,
          }
        : {}),
      ...(live ? {} : { rollback: "nothing is live" }),
    };
  }

  /** @param {Held} w */
  confirmLater(w) {
    w.summary.confirmed = false;
    setTimeout(() => {
      w.summary.confirmed = true;
      for (const n of w.nodes) {
        n.confirmed = true;
        n.deadline = undefined;
      }
      this.tell("workload", w.summary);
    }, this.confirmAfter).unref();
  }

  /** @param {Held} w @param {"stage" | "unstage" | "promote" | "rollback"} what @param {{ revision: number, version: number }} body @returns {Wire.SlotResult} */
  changeSlot(w, what, body) {
    const s = w.summary;
    if (body.version !== s.version) {
      throw refuse(409, "conflict", "the slots changed meanwhile; look again before you go on");
    }
    const requestedAt = fixtures.ago(0);
    const name = s.workload.name;
    if (what === "stage") {
      this.setSlot(w, "staged", body.revision);
      s.wouldDeny = name === "cartservice" ? 20 : 0;
      this.note(
        "admin",
        "slot.staged",
        `admin audits revision ${body.revision} of ${name}`,
        s.workload,
        body.revision,
      );
    } else if (what === "unstage") {
      this.setSlot(w, "staged", undefined);
      s.wouldDeny = 0;
      this.note(
        "admin",
        "slot.unstaged",
        `admin stopped auditing revision ${body.revision} of ${name}`,
        s.workload,
        body.revision,
      );
    } else if (what === "promote") {
      if (s.requested.live === body.revision) {
        throw refuse(409, "conflict", `revision ${body.revision} is already enforced`);
      }
      w.formerLive.push(s.requested.live);
      this.setSlot(w, "live", body.revision);
      this.setSlot(w, "staged", undefined);
      s.wouldDeny = 0;
      this.confirmLater(w);
      this.note(
        "admin",
        "slot.promoted",
        `admin enforces revision ${body.revision} of ${name}`,
        s.workload,
        body.revision,
      );
    } else {
      const former = w.revisions.find((r) => r.number === w.formerLive.pop());
      const open = {
        workload: s.workload,
        isolateIngress: false,
        isolateEgress: false,
        ingress: [],
        egress: [],
      };
      const back = this.addRevision(w, former?.policy ?? open, "rollback", "admin");
      this.setSlot(w, "staged", body.revision);
      this.setSlot(w, "live", back.number);
      s.denied = 0;
      this.confirmLater(w);
      this.note(
        "admin",
        "slot.rolledback",
        `admin rolled ${name} back from revision ${body.revision} to revision ${back.number}`,
        s.workload,
        back.number,
      );
    }
    this.tell("workload", s);
    const switchedAt = new Date(Date.parse(requestedAt) + 38).toISOString();
    return { summary: s, nodes: w.nodes, requestedAt, switchedAt };
  }

  /** @param {Held} w @param {string | null} slot @returns {Wire.Denials} */
  denials(w, slot) {
    const revision = w.summary.requested[slot === "live" ? "live" : "staged"];
    const has = w.summary.workload.name === "cartservice" && slot === "staged" && revision;
    const denials = has ? fixtures.attacks() : [];
    return {
      revision,
      since: fixtures.ago(40 * fixtures.minute),
      judged: revision ? 4821 : 0,
      denied: denials.reduce((n, d) => n + d.connections, 0),
      denials,
    };
  }
}

/** @param {Wire.WorkloadRef} r */
const keyOf = (r) => `${r.namespace}/${r.kind}/${r.name}`;

/** @param {number} status @param {Wire.ErrorBody["code"]} code @param {string} message @param {string} [field] */
const refuse = (status, code, message, field) => new Refusal(status, { code, message, field });

/** @param {IncomingMessage} req */
async function bodyOf(req) {
  const parts = [];
  for await (const part of req) {
    parts.push(part);
  }
  return JSON.parse(Buffer.concat(parts).toString() || "{}");
}

/** @param {Mock} mock @param {IncomingMessage} req @param {ServerResponse} res @param {URL} url */
async function api(mock, req, res, url) {
  const route = `${req.method} ${url.pathname}`;
  const fault = mock.faults.get(route);
  if (fault === "hang") {
    return undefined;
  }
  if (fault) {
    throw fault;
  }
  const cookie = /ringfence_session=(\w+)/.exec(req.headers.cookie ?? "")?.[1] ?? "";
  if (route === "POST /api/v1/session") {
    const body = await bodyOf(req);
    if (body.password !== password) {
      throw refuse(401, "unauthorized", "the user or the password is wrong");
    }
    const id = Math.random().toString(36).slice(2);
    mock.sessions.add(id);
    res.setHeader("Set-Cookie", `ringfence_session=${id}; Path=/; HttpOnly; SameSite=Strict`);
    return { user: body.user };
  }
  if (!mock.sessions.has(cookie)) {
    throw refuse(401, "unauthorized", "log in first");
  }
  switch (route) {
    case "GET /api/v1/session":
      return { user: "admin" };
    case "DELETE /api/v1/session":
      mock.sessions.delete(cookie);
      return null;
    case "GET /api/v1/status":
      return { ...mock.status, now: fixtures.ago(0) };
    case "GET /api/v1/workloads":
      return mock.empty ? [] : [...mock.workloads.values()].map((w) => w.summary).sort(byName);
    case "GET /api/v1/activity":
      return mock.activity.filter((a) => {
        const wanted = url.searchParams.get("workload");
        return !wanted || (a.workload && keyOf(a.workload) === wanted);
      });
    case "GET /api/v1/explain":
      return fixtures.explanation(url.searchParams);
    case "GET /api/v1/flows":
      return flowsPage(url);
    case "GET /api/v1/flows/facets":
      return fixtures.facets();
  }
  return workloadApi(mock, req, url);
}

/** @param {Wire.WorkloadSummary} a @param {Wire.WorkloadSummary} b */
const byName = (a, b) => (keyOf(a.workload) < keyOf(b.workload) ? -1 : 1);

/** @param {Mock} mock @param {IncomingMessage} req @param {URL} url */
async function workloadApi(mock, req, url) {
  const [namespace = "", kind = "", name = "", what] = url.pathname
    .replace("/api/v1/workloads/", "")
    .split("/")
    .map(decodeURIComponent);
  const w = mock.workloads.get(keyOf({ namespace, kind, name }));
  if (!w) {
    throw refuse(404, "not_found", `there is no workload ${namespace}/${kind}/${name}`);
  }
  switch (`${req.method} ${what ?? ""}`) {
    case "GET ":
      mock.restage(w);
      return {
        summary: w.summary,
        endpoints: w.endpoints,
        nodes: w.nodes,
        actions: w.actions,
        guardrails: w.guardrails,
      };
    case "GET recommendation":
      return fixtures.recommendation(name);
    case "GET check": {
      const slot = url.searchParams.get("slot") === "staged" ? "staged" : "live";
      return fixtures.check(name, slot, w.summary.requested[slot] ?? 0);
    }
    case "GET revisions":
      return w.revisions;
    case "POST revisions":
      return mock.createRevision(w, await bodyOf(req));
    case "GET denials":
      return mock.denials(w, url.searchParams.get("slot"));
    case "POST replay":
      return { judged: 15_204, denied: 0, denials: [] };
    case "POST stage":
    case "POST unstage":
    case "POST promote":
    case "POST rollback":
      return mock.changeSlot(
        w,
        /** @type {"stage" | "unstage" | "promote" | "rollback"} */ (what),
        await bodyOf(req),
      );
  }
  throw refuse(404, "not_found", "there is no such route");
}

/** @param {Mock} mock @param {IncomingMessage} req @param {ServerResponse} res */
function stream(mock, req, res) {
  const cookie = /ringfence_session=(\w+)/.exec(req.headers.cookie ?? "")?.[1] ?? "";
  if (!mock.sessions.has(cookie)) {
    res.writeHead(401).end();
    return;
  }
  res.writeHead(200, { "Content-Type": "text/event-stream", "Cache-Control": "no-store" });
  res.write(`event: status\ndata: ${JSON.stringify(mock.status)}\n\n`);
  mock.streams.add(res);
  req.on("close", () => mock.streams.delete(res));
}

/** A page of records; a filter that names a field "vredict" is wrong, and one of "nobody" finds none. @param {URL} url */
function flowsPage(url) {
  const filter = url.searchParams.get("filter") ?? "";
  const wrong = filter.indexOf("vredict");
  if (wrong >= 0) {
    throw new Refusal(400, {
      code: "invalid",
      message: `filter: column ${wrong + 1}: unknown field "vredict": did you mean verdict? want one of namespace, workload, label, address, port`,
      field: "filter",
      column: wrong + 1,
    });
  }
  const from = Number(url.searchParams.get("cursor") ?? 0);
  const limit = Number(url.searchParams.get("limit") ?? 100);
  const end = Math.min(filter.includes("nobody") ? 0 : 450, from + limit);
  return {
    flows: Array.from({ length: Math.max(0, end - from) }, (_, i) => fixtures.flow(from + i)),
    next: end > 0 && end < 450 ? String(end) : undefined,
  };
}

/** @param {Mock} mock @param {IncomingMessage} req @param {ServerResponse} res */
function tail(mock, req, res) {
  stream(mock, req, res);
  res.write("event: flows\ndata: []\n\n");
  let n = 1000;
  const timer = setInterval(
    () => res.write(`event: flows\ndata: ${JSON.stringify([fixtures.flow(n++)])}\n\n`),
    100,
  );
  req.on("close", () => clearInterval(timer));
}

/** @param {ServerResponse} res @param {string} path */
function file(res, path) {
  let name = join(dist, normalize(path));
  if (!existsSync(name) || !statSync(name).isFile()) {
    name = join(dist, "index.html");
  }
  res.writeHead(200, {
    "Content-Type": types[extname(name)] ?? "application/octet-stream",
    "Content-Security-Policy": policy,
  });
  createReadStream(name).pipe(res);
}

/** Starts a mock on a free or the given port. @param {Mock} mock @param {number} [port] */
export async function serve(mock, port = 0) {
  const server = createServer(async (req, res) => {
    const url = new URL(req.url ?? "/", "http://localhost");
    if (!url.pathname.startsWith("/api/")) {
      file(res, url.pathname);
      return;
    }
    if (url.pathname === "/api/v1/events") {
      stream(mock, req, res);
      return;
    }
    if (url.pathname === "/api/v1/flows/tail") {
      tail(mock, req, res);
      return;
    }
    try {
      const body = await api(mock, req, res, url);
      if (body !== undefined) {
        const made = req.method === "POST" && url.pathname.endsWith("/revisions");
        res.writeHead(body === null ? 204 : made ? 201 : 200, {
          "Content-Type": "application/json",
        });
        res.end(body === null ? undefined : JSON.stringify(body));
      }
    } catch (e) {
      const known = e instanceof Refusal ? e : refuse(500, "internal", String(e));
      res.writeHead(known.status, { "Content-Type": "application/json" });
      res.end(JSON.stringify(known.body));
    }
  });
  await new Promise((done) => server.listen(port, "127.0.0.1", () => done(undefined)));
  const address = server.address();
  return {
    url: `http://127.0.0.1:${typeof address === "object" ? address?.port : port}`,
    close: () => {
      server.closeAllConnections();
      server.close();
    },
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { url } = await serve(new Mock(), Number(process.env.PORT ?? 4173));
  console.log(`${url}  user admin, password: ${password}`);
}
