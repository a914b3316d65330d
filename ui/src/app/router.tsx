import type { QueryClient } from "@tanstack/react-query";
import {
  createRootRouteWithContext,
  createRoute,
  createRouter,
  Outlet,
  type RouterHistory,
  redirect,
} from "@tanstack/react-router";
import { queries } from "../api/queries";
import { ActivityPage } from "../features/activity/components/ActivityPage";
import { AuditPage } from "../features/audit/components/AuditPage";
import { readFlowSearch } from "../features/flows/api/filter";
import { FlowsPage } from "../features/flows/components/FlowsPage";
import { LoginPage } from "../features/login/components/LoginPage";
import { safeNext } from "../features/login/hooks/next";
import { NodesPage } from "../features/nodes/components/NodesPage";
import { ReviewPage } from "../features/policy/components/ReviewPage";
import { RevisionsPage } from "../features/policy/components/RevisionsPage";
import { EndpointsPage } from "../features/workload/components/EndpointsPage";
import { WorkloadLayout } from "../features/workload/components/WorkloadLayout";
import { readWorkloadSearch } from "../features/workloads/api/search";
import { WorkloadsPage } from "../features/workloads/components/WorkloadsPage";
import { NotFound, PageError, PagePending } from "./pages";
import { Shell } from "./Shell";

interface RouterContext {
  queryClient: QueryClient;
}

const rootRoute = createRootRouteWithContext<RouterContext>()({ component: Outlet });

const loginRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/login",
  validateSearch: (search: Record<string, unknown>): { next?: string } => {
    const next = safeNext(search.next);
    return next === "/" ? {} : { next };
  },
  beforeLoad: async ({ context, search }) => {
    if (await context.queryClient.ensureQueryData(queries.session())) {
      throw redirect({ href: safeNext(search.next) });
    }
  },
  component: LoginPage,
});

const shellRoute = createRoute({
  getParentRoute: () => rootRoute,
  id: "shell",
  beforeLoad: async ({ context, location }) => {
    if (!(await context.queryClient.ensureQueryData(queries.session()))) {
      throw redirect({ to: "/login", search: { next: safeNext(location.href) } });
    }
  },
  component: Shell,
});

const indexRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/",
  beforeLoad: () => {
    throw redirect({ to: "/workloads" });
  },
});

const workloadsRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/workloads",
  validateSearch: readWorkloadSearch,
  component: WorkloadsPage,
});

const workloadRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/workloads/$namespace/$kind/$name",
  component: WorkloadLayout,
});

const reviewRoute = createRoute({
  getParentRoute: () => workloadRoute,
  path: "/",
  component: ReviewPage,
});

const auditRoute = createRoute({
  getParentRoute: () => workloadRoute,
  path: "/audit",
  component: AuditPage,
});

const revisionsRoute = createRoute({
  getParentRoute: () => workloadRoute,
  path: "/revisions",
  component: RevisionsPage,
});

const endpointsRoute = createRoute({
  getParentRoute: () => workloadRoute,
  path: "/endpoints",
  component: EndpointsPage,
});

const activityRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/activity",
  validateSearch: (search: Record<string, unknown>): { workload?: string } =>
    typeof search.workload === "string" && search.workload ? { workload: search.workload } : {},
  component: ActivityPage,
});

const flowsRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/flows",
  validateSearch: readFlowSearch,
  component: FlowsPage,
});

const nodesRoute = createRoute({
  getParentRoute: () => shellRoute,
  path: "/nodes",
  component: NodesPage,
});

const routeTree = rootRoute.addChildren([
  loginRoute,
  shellRoute.addChildren([
    indexRoute,
    workloadsRoute,
    workloadRoute.addChildren([reviewRoute, auditRoute, revisionsRoute, endpointsRoute]),
    flowsRoute,
    activityRoute,
    nodesRoute,
  ]),
]);

export function newRouter(queryClient: QueryClient, history?: RouterHistory) {
  return createRouter({
    routeTree,
    history,
    context: { queryClient },
    defaultPreload: false,
    scrollRestoration: true,
    defaultErrorComponent: PageError,
    defaultPendingComponent: PagePending,
    defaultNotFoundComponent: NotFound,
  });
}

export type AppRouter = ReturnType<typeof newRouter>;

declare module "@tanstack/react-router" {
  interface Register {
    router: AppRouter;
  }
}
