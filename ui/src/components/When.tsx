import { useTranslation } from "react-i18next";
import { formatAgo, formatTime, parseTime } from "../app/format";
import { useNow } from "./useNow";

/** A time as how long ago it was; the exact one on hover. */
export function When({ time }: { time: string | undefined }) {
  const { t } = useTranslation();
  const now = useNow();
  const date = parseTime(time);
  if (!date) {
    return <span>{t("time.never")}</span>;
  }
  return (
    <time dateTime={date.toISOString()} title={formatTime(date)}>
      {formatAgo(date, now)}
    </time>
  );
}
