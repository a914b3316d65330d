import { Button } from "@mantine/core";
import type { TFunction } from "i18next";
import { useId } from "react";
import { useTranslation } from "react-i18next";
import type { SlotAction } from "../../../api/mutations";
import { Icon } from "../../../components/Icon";
import type { ActionState, Blocked } from "../api/actions";
import classes from "./ActionButtons.module.css";

const looks: Record<SlotAction, { color: string; variant: string }> = {
  audit: { color: "gray", variant: "default" },
  unstage: { color: "gray", variant: "subtle" },
  enforce: { color: "fence", variant: "filled" },
  rollback: { color: "gray", variant: "default" },
};

/** Audit, Enforce and Roll back; one that cannot be pressed says why below. */
export function ActionButtons({
  states,
  pending,
  onAction,
}: {
  states: ActionState[];
  pending: SlotAction | undefined;
  onAction: (action: SlotAction, unlearned?: string[]) => void;
}) {
  const { t } = useTranslation();
  const id = useId();
  return (
    <div className={classes.actions}>
      <div className={classes.buttons}>
        {states.map(({ action, revision, blocked }) => {
          const off = blocked !== undefined || pending !== undefined;
          return (
            <Button
              key={action}
              {...looks[action]}
              leftSection={action !== "unstage" && <Icon name={action} />}
              loading={pending === action}
              // Not `disabled`: the reason must be reachable by keyboard and screen reader.
              data-disabled={off || undefined}
              aria-disabled={off}
              aria-describedby={blocked ? `${id}-${action}` : undefined}
              title={blocked && blockedText(t, blocked)}
              data-testid={`btn-${action}`}
              onClick={(e) => (off ? e.preventDefault() : onAction(action))}
            >
              {t(`action.${action}.button`)}
              {revision !== undefined &&
                !blocked &&
                (action === "audit" || action === "enforce") && (
                  <span className={classes.revision}>{t("slot.revision", { revision })}</span>
                )}
            </Button>
          );
        })}
      </div>
      {states.some((s) => s.blocked) && (
        <ul className={classes.reasons}>
          {states.map(
            (s) =>
              s.blocked && (
                <li key={s.action} id={`${id}-${s.action}`} data-testid={`reason-${s.action}`}>
                  <strong>{t(`action.${s.action}.button`)}:</strong> {blockedText(t, s.blocked)}
                  {s.unlearned && pending === undefined && (
                    <button
                      type="button"
                      className={classes.anyway}
                      onClick={() => onAction(s.action, s.unlearned)}
                      data-testid="btn-anyway"
                    >
                      {t("action.anyway")}
                    </button>
                  )}
                </li>
              ),
          )}
        </ul>
      )}
    </div>
  );
}

function blockedText(t: TFunction, b: Blocked): string {
  if ("words" in b) {
    return b.words;
  }
  return t(`action.blocked.${b.text}`, { revision: "revision" in b ? b.revision : undefined });
}
