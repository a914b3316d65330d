import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useRouter } from "@tanstack/react-router";
import { login } from "../../../api/mutations";
import { queries } from "../../../api/queries";
import { safeNext } from "./next";

/** Logs in, then goes to where the visitor wanted to be. */
export function useLogin(next: string | undefined) {
  const router = useRouter();
  const queryClient = useQueryClient();
  return useMutation({
    mutationFn: ({ user, password }: { user: string; password: string }) => login(user, password),
    onSuccess: (session) => {
      // Nothing that an earlier session read may stay.
      queryClient.clear();
      queryClient.setQueryData(queries.session().queryKey, session);
      router.history.push(safeNext(next));
    },
  });
}
