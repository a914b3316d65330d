package conformance

// richPolicy has of everything that TestDisagreementsAreFound spoils, so written
// that no rule hides another.
const richPolicy = `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Ingress, Egress]
  ingress:
  - from: [{ipBlock: {cidr: 10.1.2.0/24, except: [10.1.2.128/28]}}]
    ports: [{protocol: TCP, port: 80, endPort: 443}]
  - from: [{podSelector: {matchLabels: {pod: b}}}]
    ports: [{protocol: UDP, port: 1024}]
  - from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [c]}]}}]
    ports: [{port: web}]
  egress:
  - to: [{podSelector: {matchLabels: {pod: c}}}, {ipBlock: {cidr: 198.51.100.0/24, except: [198.51.100.128/25]}}]
    ports: [{protocol: SCTP, port: 8191, endPort: 8192}]
`

// ownCases are judged in both families, their blocks translated. Addresses are
// those of places and strangers. "y" is quoted: bare it would be YAML's yes.
var ownCases = []ownCase{
	{
		name: "Exists",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: Exists}]}}]}]
`,
		allowed: []string{"x/b > x/a TCP 80", "x/a > x/c TCP 80"},
		denied:  []string{"x/c > x/a TCP 80", "y/b > x/a TCP 80", "198.51.100.7 > x/a TCP 80"},
	},
	{
		name: "DoesNotExist",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [{podSelector: {matchExpressions: [{key: tier, operator: DoesNotExist}]}, namespaceSelector: {}}]}]
`,
		allowed: []string{"x/c > x/a TCP 80", "z/c > x/a UDP 443"},
		denied:  []string{"x/b > x/a TCP 80", "y/a > x/a TCP 80", "10.1.2.200 > x/a TCP 80"},
	},
	{
		name: "NotIn, also of pods without the label",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchExpressions: [{key: tier, operator: NotIn, values: [back]}]}, namespaceSelector: {}}]}]
`,
		allowed: []string{"x/a > y/a TCP 80", "x/a > x/c SCTP 80", "x/a > z/c TCP 80"},
		denied:  []string{"x/a > x/b TCP 80", "x/a > z/b TCP 80", "x/a > 198.51.100.7 TCP 80"},
		differs: "the simulation's NotIn wants the label to be there; Kubernetes' does not",
	},
	{
		name: "NotIn of a namespace",
		policies: `
metadata: {namespace: "y"}
spec:
  podSelector: {}
  ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: kubernetes.io/metadata.name, operator: NotIn, values: [x, "y"]}]}}]}]
`,
		allowed: []string{"z/a > y/a TCP 80", "z/c > y/c SCTP 65535"},
		denied:  []string{"x/a > y/a TCP 80", "y/b > y/a TCP 80"},
	},
	{
		name: "several expressions hold at once",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: c}}
  ingress:
  - from:
    - podSelector:
        matchLabels: {pod: a}
        matchExpressions: [{key: tier, operator: In, values: [front, back]}, {key: mark, operator: Exists}]
      namespaceSelector: {}
`,
		allowed: []string{"y/a > x/c TCP 80"},
		denied:  []string{"y/b > x/c TCP 80", "x/a > x/c TCP 80", "z/a > x/c TCP 80"},
	},
	{
		name: "a label without a value is not no label",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {}
  ingress: [{from: [{podSelector: {matchLabels: {mark: ""}}, namespaceSelector: {}}]}]
`,
		allowed: []string{"y/a > x/a TCP 80"},
		denied:  []string{"z/a > x/a TCP 80", "x/b > x/a TCP 80"},
		differs: "the simulation takes a label that is not there for one without a value",
	},
	{
		name: "the target by expression",
		policies: `
metadata: {namespace: "y"}
spec:
  podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [a, b]}]}
  ingress: []
  policyTypes: [Ingress]
`,
		allowed: []string{"x/a > y/a TCP 80", "y/c > y/b TCP 80"},
		denied:  []string{"x/a > y/c TCP 80", "10.1.2.200 > y/c UDP 80"},
	},
	{
		name: "several rules do not lend each other ports",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress:
  - {from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80}]}
  - {from: [{podSelector: {matchLabels: {pod: c}}}], ports: [{port: 443}, {port: 80, protocol: UDP}]}
`,
		allowed: []string{"x/b > x/a TCP 80", "x/c > x/a TCP 443", "x/c > x/a UDP 80"},
		denied:  []string{"x/b > x/a TCP 443", "x/c > x/a TCP 80", "x/b > x/a UDP 80", "x/c > x/a UDP 443"},
	},
	{
		name: "every peer of a rule on every port of it",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress:
  - to: [{podSelector: {matchLabels: {pod: b}}}, {namespaceSelector: {matchLabels: {ns: z}}}, {ipBlock: {cidr: 198.51.100.0/24}}]
    ports: [{port: 80}, {port: 8192, protocol: SCTP}]
`,
		allowed: []string{"x/a > x/b TCP 80", "x/a > z/c SCTP 8192", "x/a > 198.51.100.7 SCTP 8192", "x/a > 198.51.100.7 TCP 80"},
		denied:  []string{"x/a > x/b SCTP 80", "x/a > y/a TCP 80", "x/a > 198.51.100.7 TCP 81", "x/a > 10.1.2.200 TCP 80"},
	},
	{
		name: "several policies add up",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {tier: front}}
  ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]
---
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 443}]}]
---
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  policyTypes: [Egress]
  egress: [{to: [{podSelector: {matchLabels: {pod: a}}}]}]
`,
		allowed: []string{"x/b > x/a TCP 80", "y/a > x/a TCP 443"},
		denied:  []string{"x/c > x/a TCP 80", "y/a > x/a TCP 80", "x/b > x/a TCP 443", "y/a > x/b TCP 80", "x/b > y/a TCP 80", "x/a > x/b TCP 80"},
	},
	{
		name: "what one end allows the other may deny",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress: [{to: [{namespaceSelector: {matchLabels: {ns: "y"}}}], ports: [{port: 80}, {port: 81}]}]
---
metadata: {namespace: "y"}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {ns: x}}}], ports: [{port: 81}, {port: 443}]}]
`,
		allowed: []string{"x/a > y/b TCP 81", "x/a > y/a TCP 80", "x/b > y/b TCP 443"},
		denied:  []string{"x/a > y/b TCP 80", "x/a > y/b TCP 443", "x/b > y/b TCP 80"},
	},
	{
		name: "both selectors of a peer, and one each of two",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}, podSelector: {matchLabels: {pod: b}}}]}]
---
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress: [{from: [{namespaceSelector: {matchLabels: {ns: "y"}}}, {podSelector: {matchLabels: {pod: a}}}]}]
`,
		allowed: []string{"y/b > x/a TCP 80", "y/a > x/b TCP 80", "y/b > x/b TCP 80", "x/a > x/b TCP 80"},
		denied:  []string{"y/a > x/a TCP 80", "x/b > x/a TCP 80", "z/a > x/b TCP 80", "x/c > x/b TCP 80"},
	},
	{
		name: "exceptions, one within another",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [{ipBlock: {cidr: 10.1.0.0/16, except: [10.1.2.128/25, 10.1.2.130/32, 10.1.1.12/32]}}]}]
`,
		allowed: []string{"y/a > x/a TCP 80", "x/b > x/a TCP 80"},
		denied:  []string{"z/a > x/a TCP 80", "z/c > x/a TCP 80", "x/c > x/a TCP 80", "10.1.2.200 > x/a TCP 80", "198.51.100.7 > x/a TCP 80"},
	},
	{
		name: "what one block leaves out another one may hold",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 0.0.0.0/0, except: [10.1.2.0/24]}}]
  - {to: [{ipBlock: {cidr: 10.1.2.128/25, except: [10.1.2.192/26]}}], ports: [{port: 443}]}
  - {to: [{ipBlock: {cidr: 10.1.2.200/32}}], ports: [{port: 80}]}
`,
		allowed: []string{"x/a > x/b TCP 80", "x/a > 198.51.100.7 SCTP 81", "x/a > z/c TCP 443", "x/a > 10.1.2.200 TCP 80"},
		denied:  []string{"x/a > y/a TCP 443", "x/a > z/c TCP 80", "x/a > 10.1.2.200 TCP 443", "x/a > z/c UDP 443"},
	},
	{
		name: "a block and a selector of the same pods",
		policies: `
metadata: {namespace: z}
spec:
  podSelector: {matchLabels: {pod: c}}
  ingress:
  - {from: [{ipBlock: {cidr: 10.1.1.0/24, except: [10.1.1.11/32]}}], ports: [{port: 80}]}
  - {from: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {ns: x}}}], ports: [{port: 81}]}
`,
		allowed: []string{"x/a > z/c TCP 80", "x/b > z/c TCP 81"},
		denied:  []string{"x/b > z/c TCP 80", "x/a > z/c TCP 81"},
	},
	{
		name: "ranges with both of their ends",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress:
  - {from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 81, endPort: 1023}, {protocol: UDP, port: 8192, endPort: 65535}]}
  - {from: [{podSelector: {matchLabels: {pod: c}}}], ports: [{port: 1024, endPort: 1024}, {protocol: SCTP, port: 1, endPort: 65535}]}
`,
		allowed: []string{"x/b > x/a TCP 81", "x/b > x/a TCP 1023", "x/b > x/a UDP 8192", "x/b > x/a UDP 65535", "x/c > x/a TCP 1024", "x/c > x/a SCTP 65535"},
		denied:  []string{"x/b > x/a TCP 80", "x/b > x/a TCP 1024", "x/b > x/a UDP 8191", "x/b > x/a SCTP 443", "x/c > x/a TCP 1023", "x/c > x/a UDP 1024"},
	},
	{
		name: "a protocol without a port, and a port without a protocol",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{ports: [{protocol: UDP}, {port: 443}]}]
---
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress: [{ports: [{protocol: SCTP}]}]
---
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: c}}
  ingress: [{ports: [{}]}]
`,
		allowed: []string{"y/a > x/a UDP 80", "y/a > x/a UDP 65535", "198.51.100.7 > x/a TCP 443", "z/a > x/b SCTP 1024", "y/a > x/c TCP 81"},
		denied:  []string{"y/a > x/a TCP 80", "y/a > x/a SCTP 443", "z/a > x/b TCP 1024", "z/a > x/b UDP 1024", "y/a > x/c UDP 81", "198.51.100.7 > x/c SCTP 81"},
	},
	{
		name: "one port of SCTP",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {}
  policyTypes: [Egress]
  egress: [{to: [{namespaceSelector: {}}], ports: [{protocol: SCTP, port: 80}]}]
`,
		allowed: []string{"x/a > y/a SCTP 80"},
		denied:  []string{"x/a > y/a TCP 80", "x/a > y/a UDP 80", "x/a > y/a SCTP 81", "x/a > 198.51.100.7 SCTP 80"},
	},
	{
		name: "a named port is each server's own",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress:
  - ports: [{port: web}, {protocol: UDP, port: metrics}, {port: 81}]
---
metadata: {namespace: z}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress:
  - ports: [{port: web}]
`,
		allowed: []string{"x/a > y/a TCP 80", "x/a > z/b TCP 443", "x/a > y/a UDP 8191", "x/a > z/b UDP 8192", "y/a > z/a TCP 443", "x/a > 198.51.100.7 TCP 81"},
		denied:  []string{"x/a > y/a TCP 443", "x/a > z/b TCP 80", "x/a > z/b UDP 8191", "x/a > 198.51.100.7 TCP 80", "y/a > z/a TCP 80", "x/a > z/a TCP 81"},
	},
	{
		name: "a named port behind a block",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Egress]
  egress:
  - to: [{ipBlock: {cidr: 10.1.2.0/24, except: [10.1.2.132/32]}}]
    ports: [{port: web}]
`,
		allowed: []string{"x/a > y/a TCP 80", "x/a > z/a TCP 443"},
		denied:  []string{"x/a > z/a TCP 80", "x/a > z/c TCP 443", "x/a > 10.1.2.200 TCP 80", "x/a > x/b TCP 80"},
	},
	{
		name: "a port that nobody has by that name, or not for that protocol",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  policyTypes: [Ingress, Egress]
  ingress: [{ports: [{port: nothing}]}, {ports: [{protocol: SCTP, port: web}, {port: 443}]}]
  egress: [{ports: [{protocol: UDP, port: web}]}]
`,
		allowed: []string{"x/b > x/a TCP 443"},
		denied:  []string{"x/b > x/a TCP 80", "x/b > x/a SCTP 80", "x/a > x/b UDP 80", "x/a > x/b TCP 80"},
	},
	{
		name: "a peer that is nobody is not everybody",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [{podSelector: {matchLabels: {pod: nobody}}}]}, {from: [{namespaceSelector: {matchLabels: {ns: z}}}], ports: [{port: 80}]}]
`,
		allowed: []string{"z/a > x/a TCP 80", "x/a > x/b TCP 80"},
		denied:  []string{"x/b > x/a TCP 80", "z/a > x/a TCP 81", "198.51.100.7 > x/a TCP 80"},
	},
	{
		name: "an empty list of peers is everybody, no rules nobody",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  ingress: [{from: [], ports: []}]
---
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: b}}
  ingress: []
`,
		allowed: []string{"198.51.100.7 > x/a SCTP 8191", "z/a > x/a UDP 80", "x/b > y/a TCP 80"},
		denied:  []string{"z/a > x/b TCP 80", "198.51.100.7 > x/b TCP 80"},
	},
	{
		name: "types that are not given",
		policies: `
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: a}}
  egress: [{to: [{podSelector: {matchLabels: {pod: b}}}]}]
---
metadata: {namespace: x}
spec:
  podSelector: {matchLabels: {pod: c}}
`,
		allowed: []string{"x/a > x/b TCP 80", "x/c > y/a TCP 80"},
		denied:  []string{"x/b > x/a TCP 80", "x/a > y/a TCP 80", "x/b > x/c TCP 80"},
	},
	{
		name:     "everything that mutations spoil",
		policies: richPolicy,
		allowed: []string{
			"y/a > x/a TCP 443", "10.1.2.200 > x/a TCP 80", "x/b > x/a UDP 1024", "x/c > x/a TCP 80", "x/a > x/c SCTP 8192", "x/a > 198.51.100.7 SCTP 8191",
		},
		denied: []string{"z/a > x/a TCP 443", "x/b > x/a TCP 443", "y/a > x/a TCP 1023", "x/a > x/c UDP 8192", "x/a > x/b SCTP 8192", "x/c > x/a TCP 81", "x/b > x/a TCP 80"},
	},
}
