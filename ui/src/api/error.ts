import type { ErrorBody } from "./wire";

export type ErrorCode = ErrorBody["code"] | "unreachable";

/** What the server said was wrong, or that it could not be reached. */
export class ApiError extends Error {
  readonly status: number;
  readonly code: ErrorCode;
  readonly field: string | undefined;
  readonly missing: string[];
  /** Where in the field's text it is wrong, from 1. */
  readonly column: number | undefined;

  constructor(
    status: number,
    code: ErrorCode,
    message: string,
    field?: string,
    missing?: string[],
    column?: number,
  ) {
    super(message);
    this.name = "ApiError";
    this.status = status;
    this.code = code;
    this.field = field;
    this.missing = missing ?? [];
    this.column = column;
  }
}

export const isUnauthorized = (e: unknown): boolean => e instanceof ApiError && e.status === 401;

const isErrorBody = (v: unknown): v is ErrorBody =>
  typeof v === "object" && v !== null && "code" in v && "message" in v;

export function apiError(status: number, body: unknown): ApiError {
  if (isErrorBody(body)) {
    return new ApiError(status, body.code, body.message, body.field, body.missing, body.column);
  }
  return new ApiError(status, "internal", `The server answered ${status} without a reason.`);
}
