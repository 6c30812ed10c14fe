import { createRootRoute, createRoute, createRouter, Outlet, redirect } from "@tanstack/react-router";

import { queryClient, sessionQuery } from "./api/queries";
import { parseSearch } from "./features/decisions/search";
import { LoginPage } from "./pages/login";
import { OverviewPage } from "./pages/overview";
import { FailurePage, NotFoundPage } from "./pages/problems";

const rootRoute = createRootRoute({
  component: Outlet,
  notFoundComponent: NotFoundPage,
  errorComponent: ({ error }) => <FailurePage error={error} />,
});

const loginRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/login",
  validateSearch: (search): { next?: string } => {
    const next = search["next"];
    // Only pages of this dashboard: never a way to another site.
    return typeof next === "string" && next.startsWith("/") && !next.startsWith("//") ? { next } : {};
  },
  component: LoginPage,
});

const overviewRoute = createRoute({
  getParentRoute: () => rootRoute,
  path: "/",
  validateSearch: parseSearch,
  beforeLoad: async ({ location }) => {
    const session = await queryClient.query(sessionQuery);
    if (!session) {
      throw redirect({ to: "/login", search: location.href === "/" ? {} : { next: location.href } });
    }
  },
  component: OverviewPage,
});

export const router = createRouter({
  routeTree: rootRoute.addChildren([overviewRoute, loginRoute]),
  defaultPendingMs: 500,
});

declare module "@tanstack/react-router" {
  interface Register {
    router: typeof router;
  }
}
