import i18next from "./i18n";

const language = () => i18next.resolvedLanguage ?? "en";

export const formatCount = (n: number): string => new Intl.NumberFormat(language()).format(n);

export const formatPercent = (share: number): string =>
  new Intl.NumberFormat(language(), { style: "percent", maximumFractionDigits: 1 }).format(
    // 99.96 % is not all of it.
    share < 1 ? Math.floor(share * 1000) / 1000 : 1,
  );

const byteUnits = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte"] as const;

export function formatBytes(n: number): string {
  const step = Math.min(byteUnits.length - 1, n < 1 ? 0 : Math.floor(Math.log10(n) / 3));
  return new Intl.NumberFormat(language(), {
    style: "unit",
    unit: byteUnits[step],
    unitDisplay: step === 0 ? "long" : "short",
    maximumSignificantDigits: 3,
  }).format(n / 1000 ** step);
}

const timeUnits = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
  ["second", 1],
] as const;

/** The two largest units: "3 hr 12 min". */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.floor(seconds));
  const first = timeUnits.findIndex(([, size]) => whole >= size);
  if (first < 0) {
    return unit(0, "second");
  }
  const parts: string[] = [];
  let rest = whole;
  for (const [name, size] of timeUnits.slice(first, first + 2)) {
    const n = Math.floor(rest / size);
    rest -= n * size;
    if (n > 0) {
      parts.push(unit(n, name));
    }
  }
  return parts.join(" ");
}

const unit = (n: number, name: string): string =>
  new Intl.NumberFormat(language(), { style: "unit", unit: name, unitDisplay: "short" }).format(n);

/** A duration short enough that milliseconds matter. */
export function formatMillis(ms: number): string {
  const seconds = ms >= 1000;
  return new Intl.NumberFormat(language(), {
    style: "unit",
    unit: seconds ? "second" : "millisecond",
    unitDisplay: "short",
    maximumFractionDigits: seconds ? 1 : 0,
  }).format(seconds ? ms / 1000 : ms);
}

/** "12 min. ago"; a time just ahead of this machine's clock is "now". */
export function formatAgo(time: Date, now: number): string {
  const seconds = Math.max(0, Math.floor((now - time.getTime()) / 1000));
  const format = new Intl.RelativeTimeFormat(language(), { numeric: "auto", style: "short" });
  const [name, size] = timeUnits.find(([, s]) => seconds >= s) ?? ["second", 1];
  return format.format(-Math.floor(seconds / size), name);
}

export const formatTime = (time: Date): string =>
  new Intl.DateTimeFormat(language(), { dateStyle: "medium", timeStyle: "medium" }).format(time);

/** A time to the millisecond, by which records are told apart. */
export const formatMoment = (time: Date): string =>
  new Intl.DateTimeFormat(language(), {
    year: "numeric",
    month: "short",
    day: "numeric",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
    fractionalSecondDigits: 3,
    hourCycle: "h23",
  }).format(time);

/** Reads a time of the API; a missing one and Go's zero time are none. */
export function parseTime(s: string | undefined): Date | undefined {
  if (!s || s.startsWith("0001-")) {
    return undefined;
  }
  const t = new Date(s);
  return Number.isNaN(t.getTime()) ? undefined : t;
}

/** Milliseconds from one time of the API to another. */
export function millisBetween(
  from: string | undefined,
  to: string | undefined,
): number | undefined {
  const a = parseTime(from);
  const b = parseTime(to);
  return a && b ? b.getTime() - a.getTime() : undefined;
}
