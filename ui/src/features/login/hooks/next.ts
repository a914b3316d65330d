/** Where to go after the login: a path of this application, never another site. */
export function safeNext(next: unknown): string {
  if (typeof next !== "string" || !next.startsWith("/") || /^\/[/\\]/.test(next)) {
    return "/";
  }
  return next === "/login" || next.startsWith("/login?") ? "/" : next;
}
