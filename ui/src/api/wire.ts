import type { components, operations } from "./schema.gen";

// The names of the contract's types. Features turn them into view types.
type Schemas = components["schemas"];

export type AcceptedFlagged = Schemas["AcceptedFlagged"];
export type Actions = Schemas["Actions"];
export type Activity = Schemas["Activity"];
export type Completeness = Schemas["Completeness"];
export type Connection = Schemas["Connection"];
export type Coverage = Schemas["Coverage"];
export type Denial = Schemas["Denial"];
export type Denials = Schemas["Denials"];
export type Direction = Schemas["Direction"];
export type Endpoint = Schemas["Endpoint"];
export type ErrorBody = Schemas["Error"];
export type Explanation = Schemas["Explanation"];
export type Evidence = Schemas["Evidence"];
export type ExcludedEdge = Schemas["ExcludedEdge"];
export type Facet = Schemas["Facet"];
export type Flow = Schemas["Flow"];
export type NewRevision = Schemas["NewRevision"];
export type Flag = Schemas["Flag"];
export type Judgement = Schemas["Judgement"];
export type Node = Schemas["Node"];
export type NodeSlots = Schemas["NodeSlots"];
export type Party = Schemas["Party"];
export type Peer = Schemas["Peer"];
export type Policy = Schemas["Policy"];
export type PolicyCheck = Schemas["PolicyCheck"];
export type Port = Schemas["Port"];
export type Recommendation = Schemas["Recommendation"];
export type RecommendedRule = Schemas["RecommendedRule"];
export type Revision = Schemas["Revision"];
export type Rule = Schemas["Rule"];
export type RuleSentence = Schemas["RuleSentence"];
export type Session = Schemas["Session"];
export type Slot = Schemas["Slot"];
export type SlotResult = Schemas["SlotResult"];
export type SlotRevisions = Schemas["SlotRevisions"];
export type Stage = Schemas["Stage"];
export type Status = Schemas["Status"];
export type Workload = Schemas["Workload"];
export type WorkloadRef = Schemas["WorkloadRef"];
export type WorkloadSummary = Schemas["WorkloadSummary"];

/** A question about one connection. */
export type Ask = operations["explainConnection"]["parameters"]["query"];

export const refKey = (w: WorkloadRef): string => `${w.namespace}/${w.kind}/${w.name}`;

export const sameRef = (a: WorkloadRef, b: WorkloadRef): boolean =>
  a.namespace === b.namespace && a.kind === b.kind && a.name === b.name;
