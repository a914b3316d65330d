import type { Peer, Port, Rule } from "../../../api/wire";

/** A rule while it is edited: what was typed, not yet what it means. */
export interface RuleForm {
  peers: PeerForm[];
  ports: PortForm[];
}

export type PeerForm =
  | { kind: "fixed"; key: string; peer: Peer }
  | { kind: "cidr"; key: string; prefix: string; except: string };

export interface PortForm {
  key: string;
  protocol: string;
  from: string;
  to: string;
  /** Kept as it was: ICMP types and codes are not edited here. */
  icmp: Pick<Port, "icmpType" | "icmpCode">;
}

let keys = 0;
const nextKey = (): string => `${++keys}`;

export const hasPorts = (protocol: string): boolean => /^(tcp|udp|sctp)$/i.test(protocol);

export function formOf(r: Rule): RuleForm {
  return {
    peers: r.peers.map((peer) =>
      peer.cidr
        ? cidrForm(peer.cidr.prefix, (peer.cidr.except ?? []).join(", "))
        : { kind: "fixed", key: nextKey(), peer },
    ),
    ports: r.ports.map((p) => ({
      key: nextKey(),
      protocol: p.protocol,
      from: p.name ?? (p.port ? String(p.port) : ""),
      to: p.endPort ? String(p.endPort) : "",
      icmp: { icmpType: p.icmpType, icmpCode: p.icmpCode },
    })),
  };
}

export const cidrForm = (prefix = "", except = ""): PeerForm => ({
  kind: "cidr",
  key: nextKey(),
  prefix,
  except,
});

export const portForm = (): PortForm => ({
  key: nextKey(),
  protocol: "TCP",
  from: "",
  to: "",
  icmp: {},
});

export type FormError = "noPeer" | "noPort" | "cidr" | "port" | "range";

/** Where something is wrong (a row's key, or "" for the whole) and what. */
export type FormErrors = Record<string, FormError>;

const cidr = /^([0-9]{1,3}(\.[0-9]{1,3}){3}\/[0-9]{1,2}|[0-9a-f:.]*:[0-9a-f:.]*\/[0-9]{1,3})$/i;
const list = (s: string): string[] => s.split(/[\s,]+/).filter(Boolean);

/** Catches what is plainly wrong; the server judges the rest. */
export function checkForm(f: RuleForm): FormErrors {
  const errors: FormErrors = {};
  if (f.peers.length === 0) {
    errors[""] = "noPeer";
  } else if (f.ports.length === 0) {
    errors[""] = "noPort";
  }
  for (const p of f.peers) {
    if (p.kind === "cidr" && ![p.prefix.trim(), ...list(p.except)].every((c) => cidr.test(c))) {
      errors[p.key] = "cidr";
    }
  }
  for (const p of f.ports) {
    const error = checkPort(p);
    if (error) {
      errors[p.key] = error;
    }
  }
  return errors;
}

function checkPort(p: PortForm): FormError | undefined {
  if (!hasPorts(p.protocol)) {
    return undefined;
  }
  if (portName(p)) {
    return undefined;
  }
  const from = portNumber(p.from);
  const to = portNumber(p.to);
  if (from === null || to === null) {
    return "port";
  }
  return to !== undefined && (from === undefined || to < from) ? "range" : undefined;
}

/** The name that stands in a port's place, as Kubernetes allows them. */
function portName(p: PortForm): string | undefined {
  const s = p.from.trim();
  const name = /^(?=.*[a-z])(?!.*--)[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$/;
  return p.to.trim() === "" && name.test(s) ? s : undefined;
}

/** Undefined for an empty field, null for what is no port. */
function portNumber(s: string): number | undefined | null {
  if (s.trim() === "") {
    return undefined;
  }
  const n = Number(s);
  return Number.isInteger(n) && n >= 1 && n <= 65535 ? n : null;
}

export function ruleOf(f: RuleForm): Rule {
  return {
    peers: f.peers.map((p): Peer => {
      if (p.kind === "fixed") {
        return p.peer;
      }
      const except = list(p.except);
      return { cidr: { prefix: p.prefix.trim(), ...(except.length > 0 ? { except } : {}) } };
    }),
    ports: f.ports.map((p): Port => {
      if (!hasPorts(p.protocol)) {
        return { protocol: p.protocol, ...p.icmp };
      }
      const name = portName(p);
      if (name) {
        return { protocol: p.protocol, name };
      }
      const from = portNumber(p.from);
      const to = portNumber(p.to);
      return {
        protocol: p.protocol,
        ...(from ? { port: from } : {}),
        ...(to && to !== from ? { endPort: to } : {}),
      };
    }),
  };
}
