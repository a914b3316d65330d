import type { TFunction } from "i18next";
import type { Party } from "../api/wire";

/** One end of a flow in a few words. */
export function partyText(t: TFunction, p: Party): string {
  if (p.workload?.name) {
    return p.workload.name;
  }
  if (p.reserved && p.address) {
    return `${reservedText(t, p.reserved)} ${p.address}`;
  }
  return p.address || (p.reserved ? reservedText(t, p.reserved) : t("reserved.unknown"));
}

export const reservedText = (t: TFunction, name: string): string =>
  t([`reserved.${name}`, "reserved.other"], { name });
