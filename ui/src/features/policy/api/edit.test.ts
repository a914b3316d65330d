import { describe, expect, test } from "vitest";
import type { Rule } from "../../../api/wire";
import { checkForm, cidrForm, formOf, portForm, type RuleForm, ruleOf } from "./edit";

describe("a rule survives the form", () => {
  const rules: [string, Rule][] = [
    [
      "selector and port",
      {
        peers: [{ selector: { namespace: "boutique", matchLabels: { app: "frontend" } } }],
        ports: [{ protocol: "TCP", port: 7070 }],
      },
    ],
    [
      "prefixes with exceptions and a port range",
      {
        peers: [
          { cidr: { prefix: "10.0.0.0/8", except: ["10.1.0.0/16", "10.2.0.0/16"] } },
          { cidr: { prefix: "2001:db8::/32" } },
        ],
        ports: [{ protocol: "UDP", port: 5000, endPort: 5010 }],
      },
    ],
    [
      "labels by expression, a DNS name and a named port",
      {
        peers: [
          {
            selector: {
              namespaceSelector: { all: true },
              matchExpressions: [{ key: "tier", operator: "NotIn", values: ["back"] }],
            },
          },
          { fqdn: "*.example.com" },
        ],
        ports: [{ protocol: "TCP", name: "web" }],
      },
    ],
    [
      "every port, ICMP and a number for a protocol",
      {
        peers: [{ reserved: "world" }],
        ports: [
          { protocol: "TCP" },
          { protocol: "ICMP", icmpType: 8, icmpCode: 0 },
          { protocol: "47" },
        ],
      },
    ],
  ];
  test.each(rules)("%s", (_name, rule) => {
    expect(JSON.parse(JSON.stringify(ruleOf(formOf(rule))))).toEqual(rule);
  });
});

describe("checkForm", () => {
  const port = (from: string, to = "", protocol = "TCP") => ({ ...portForm(), protocol, from, to });
  const peer = (prefix: string, except = "") => cidrForm(prefix, except);
  const ok = { peers: [peer("10.0.0.0/8")], ports: [port("80")] };
  const cases: [string, RuleForm, string | undefined][] = [
    ["good", ok, undefined],
    ["good IPv6", { ...ok, peers: [peer("2001:db8::/32", "2001:db8:1::/48")] }, undefined],
    ["every port", { ...ok, ports: [port("")] }, undefined],
    ["ports do not matter to ICMP", { ...ok, ports: [port("x", "", "ICMP")] }, undefined],
    ["no peer", { ...ok, peers: [] }, "noPeer"],
    ["no port", { ...ok, ports: [] }, "noPort"],
    ["no prefix length", { ...ok, peers: [peer("10.0.0.1")] }, "cidr"],
    ["empty prefix", { ...ok, peers: [peer("")] }, "cidr"],
    ["bad exception", { ...ok, peers: [peer("10.0.0.0/8", "10.1.0.0/16, x")] }, "cidr"],
    ["port too large", { ...ok, ports: [port("65536")] }, "port"],
    ["port zero", { ...ok, ports: [port("0")] }, "port"],
    ["a port's name", { ...ok, ports: [port("http")] }, undefined],
    ["no port's name", { ...ok, ports: [port("ht tp")] }, "port"],
    ["a name in a range", { ...ok, ports: [port("http", "90")] }, "port"],
    ["range backwards", { ...ok, ports: [port("90", "80")] }, "range"],
    ["range without a start", { ...ok, ports: [port("", "80")] }, "range"],
  ];
  test.each(cases)("%s", (_name, form, error) => {
    expect(Object.values(checkForm(form))[0]).toBe(error);
  });
});
