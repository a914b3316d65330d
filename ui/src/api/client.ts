import createClient from "openapi-fetch";
import { ApiError, apiError } from "./error";
import type { paths } from "./schema.gen";

export const client = createClient<paths>({
  baseUrl: window.location.origin,
  credentials: "same-origin",
  // Sent with every request: the server refuses a cookie's unsafe requests of another type.
  headers: { "Content-Type": "application/json", Accept: "application/json" },
  fetch: (request) => globalThis.fetch(request),
});

interface Answer<T> {
  data?: T;
  error?: unknown;
  response: Response;
}

/** Resolves to the body, or throws an ApiError. */
export async function unwrap<T>(answer: Promise<Answer<T>>): Promise<T> {
  let result: Answer<T>;
  try {
    result = await answer;
  } catch (e) {
    if (e instanceof DOMException && e.name === "AbortError") {
      throw e;
    }
    throw new ApiError(
      0,
      "unreachable",
      "The server does not answer. Check that ringfence is running.",
    );
  }
  if (!result.response.ok) {
    throw apiError(result.response.status, result.error);
  }
  return result.data as T;
}
