import { client, unwrap } from "./client";
import type {
  Denials,
  NewRevision,
  Policy,
  Revision,
  Session,
  SlotResult,
  WorkloadRef,
} from "./wire";

/** What moves a revision between slots, as the buttons name it. */
export type SlotAction = "audit" | "unstage" | "enforce" | "rollback";

const params = (ref: WorkloadRef) => ({
  path: { namespace: ref.namespace, kind: ref.kind, name: ref.name },
});

export const login = (user: string, password: string): Promise<Session> =>
  unwrap(client.POST("/api/v1/session", { body: { user, password } }));

export const logout = (): Promise<unknown> => unwrap(client.DELETE("/api/v1/session"));

export const createRevision = (ref: WorkloadRef, body: NewRevision): Promise<Revision> =>
  unwrap(
    client.POST("/api/v1/workloads/{namespace}/{kind}/{name}/revisions", {
      params: params(ref),
      body,
    }),
  );

export const replay = (ref: WorkloadRef, policy: Policy, since?: string): Promise<Denials> =>
  unwrap(
    client.POST("/api/v1/workloads/{namespace}/{kind}/{name}/replay", {
      params: params(ref),
      body: { policy, since },
    }),
  );

export function changeSlot(
  action: SlotAction,
  ref: WorkloadRef,
  revision: number,
  version: number,
  /** Why to enforce although learning is not complete. */
  anyway?: string,
): Promise<SlotResult> {
  const init = { params: params(ref), body: { revision, version } };
  switch (action) {
    case "audit":
      return unwrap(client.POST("/api/v1/workloads/{namespace}/{kind}/{name}/stage", init));
    case "unstage":
      return unwrap(client.POST("/api/v1/workloads/{namespace}/{kind}/{name}/unstage", init));
    case "enforce":
      return unwrap(
        client.POST("/api/v1/workloads/{namespace}/{kind}/{name}/promote", {
          ...init,
          body: { ...init.body, anyway },
        }),
      );
    case "rollback":
      return unwrap(client.POST("/api/v1/workloads/{namespace}/{kind}/{name}/rollback", init));
  }
}
