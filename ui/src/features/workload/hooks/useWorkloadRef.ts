import { useParams } from "@tanstack/react-router";
import { useMemo } from "react";
import type { WorkloadRef } from "../../../api/wire";

/** The workload that the page's address names. */
export function useWorkloadRef(): WorkloadRef {
  const { namespace, kind, name } = useParams({ from: "/shell/workloads/$namespace/$kind/$name" });
  return useMemo(() => ({ namespace, kind, name }), [namespace, kind, name]);
}
