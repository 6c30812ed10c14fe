import { QueryCache, QueryClient, queryOptions } from "@tanstack/react-query";

import { answer, ApiError, client, type SessionInfo } from "./client";

/** Called when the server says that the session is over; the router is told from outside to avoid a circle. */
let whenSignedOut: () => void = () => undefined;
export function onSignedOut(callback: () => void): void {
  whenSignedOut = callback;
}

export const queryClient = new QueryClient({
  queryCache: new QueryCache({
    onError: (error) => {
      if (error instanceof ApiError && error.status === 401) {
        whenSignedOut();
      }
    },
  }),
  defaultOptions: {
    queries: {
      retry: (count, error) => !(error instanceof ApiError && error.status < 500) && count < 2,
      refetchOnWindowFocus: false,
    },
  },
});

/** The session, or null when nobody is signed in. */
export const sessionQuery = queryOptions({
  queryKey: ["session"],
  queryFn: async (): Promise<SessionInfo | null> => {
    const { data, error, response } = await client.GET("/api/session");
    if (response.status === 401) {
      return null;
    }
    if (!data) {
      throw new ApiError(response.status, error);
    }
    return data;
  },
  staleTime: 60_000,
});

export const postureQuery = queryOptions({
  queryKey: ["posture"],
  queryFn: ({ signal }) => answer(client.GET("/api/posture", { signal })),
  refetchInterval: 2_000,
});

export const servicesQuery = queryOptions({
  queryKey: ["services"],
  queryFn: ({ signal }) => answer(client.GET("/api/services", { signal })),
  refetchInterval: 30_000,
  staleTime: 15_000,
});

export const clustersQuery = queryOptions({
  queryKey: ["clusters"],
  queryFn: ({ signal }) => answer(client.GET("/api/clusters", { signal })),
  refetchInterval: 30_000,
  staleTime: 15_000,
});

export const whyQuery = (id: string) =>
  queryOptions({
    queryKey: ["why", id],
    queryFn: ({ signal }) =>
      answer(client.GET("/api/decisions/{id}/why", { params: { path: { id } }, signal })),
    // What was decided does not change.
    staleTime: Infinity,
  });

export async function signIn(token: string): Promise<void> {
  const session = await answer(client.POST("/api/session", { body: { token } }));
  queryClient.clear();
  queryClient.setQueryData(sessionQuery.queryKey, session);
}

export async function signOut(): Promise<void> {
  await client.DELETE("/api/session");
  queryClient.clear();
}
