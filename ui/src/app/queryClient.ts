import { MutationCache, QueryCache, QueryClient } from "@tanstack/react-query";
import { ApiError, isUnauthorized } from "../api/error";
import { queries } from "../api/queries";

/** A cache that ends the session when the server says it has ended. */
export function newQueryClient(): QueryClient {
  const ended = (e: unknown) => {
    if (isUnauthorized(e)) {
      queryClient.setQueryData(queries.session().queryKey, null);
    }
  };
  const queryClient: QueryClient = new QueryClient({
    queryCache: new QueryCache({ onError: ended }),
    mutationCache: new MutationCache({ onError: ended }),
    defaultOptions: {
      queries: {
        staleTime: 5000,
        retry: (failures, e) =>
          failures < 2 && !(e instanceof ApiError && e.status >= 400 && e.status < 500),
      },
      mutations: { retry: false },
    },
  });
  return queryClient;
}
