import type { TFunction } from "i18next";
import type { Peer, Port, Rule } from "../../../api/wire";
import { reservedText } from "../../../components/partyText";
import type { Side } from "./draft";

/** A peer in a few words. */
export function peerText(t: TFunction, p: Peer): string {
  if (p.selector) {
    return selectorText(t, p.selector);
  }
  if (p.cidr) {
    return p.cidr.except?.length
      ? t("rule.cidrExcept", { prefix: p.cidr.prefix, except: p.cidr.except.join(", ") })
      : p.cidr.prefix;
  }
  if (p.fqdn) {
    return p.fqdn;
  }
  return p.reserved ? reservedText(t, p.reserved) : t("reserved.unknown");
}

type Selector = NonNullable<Peer["selector"]>;
type LabelSelector = NonNullable<Selector["namespaceSelector"]>;

function selectorText(t: TFunction, s: Selector): string {
  const ns = s.namespaceSelector;
  const namespace = ns
    ? ns.all
      ? t("rule.anyNamespace")
      : t("rule.namespaces", { labels: labelsText(ns) })
    : (s.namespace ?? "");
  return s.all
    ? t("rule.everyWorkload", { namespace })
    : t("rule.selector", { labels: labelsText(s), namespace });
}

/** Labels as kubectl writes them: app=cart, tier in (back, web), !canary. */
function labelsText(s: LabelSelector): string {
  const equal = Object.entries(s.matchLabels ?? {}).map(([k, v]) => `${k}=${v}`);
  const more = (s.matchExpressions ?? []).map((e) => {
    switch (e.operator) {
      case "Exists":
        return e.key;
      case "DoesNotExist":
        return `!${e.key}`;
      default:
        return `${e.key} ${e.operator === "In" ? "in" : "notin"} (${(e.values ?? []).join(", ")})`;
    }
  });
  return [...equal, ...more].join(", ");
}

/** A port with its protocol: TCP 8080, UDP 5000–5010, ICMP type 8. */
export function portText(t: TFunction, p: Port): string {
  if (/^icmp/i.test(p.protocol)) {
    return p.icmpType === undefined
      ? p.protocol
      : t("rule.icmp", { protocol: p.protocol, type: p.icmpType });
  }
  if (p.name) {
    return `${p.protocol} "${p.name}"`;
  }
  if (!p.port) {
    return t("rule.allPorts", { protocol: p.protocol });
  }
  return p.endPort && p.endPort !== p.port
    ? `${p.protocol} ${p.port}–${p.endPort}`
    : `${p.protocol} ${p.port}`;
}

/** An edited rule as a sentence; the server writes those of saved rules. */
export function ruleText(t: TFunction, r: Rule, side: Side): string {
  return t(`rule.sentence.${side}`, {
    peers: r.peers.map((p) => peerText(t, p)).join("; "),
    ports: r.ports.map((p) => portText(t, p)).join(", "),
  });
}
