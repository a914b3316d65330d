import { Anchor, type AnchorProps } from "@mantine/core";
import { createLink } from "@tanstack/react-router";
import type { ComponentProps, ReactNode } from "react";
import type { WorkloadRef } from "../api/wire";

/** A link within the application, as text. */
export const TextLink = createLink(
  (props: Omit<AnchorProps, "component"> & Omit<ComponentProps<"a">, keyof AnchorProps>) => (
    <Anchor {...props} />
  ),
);

export function WorkloadLink({
  workload,
  strong,
  children,
}: {
  workload: WorkloadRef;
  strong?: boolean;
  children: ReactNode;
}) {
  const { namespace, kind, name } = workload;
  return (
    <TextLink
      to="/workloads/$namespace/$kind/$name"
      params={{ namespace, kind, name }}
      fw={strong ? 600 : undefined}
      inherit
    >
      {children}
    </TextLink>
  );
}
