import { Button, Modal, Textarea } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import { queries } from "../../../api/queries";
import type { Revision, Workload } from "../../../api/wire";
import { Icon } from "../../../components/Icon";
import { Notice } from "../../../components/Notice";
import { slotOf } from "../api/progress";
import type { SlotRequest } from "../hooks/useSlotChange";
import classes from "./ConfirmDialog.module.css";
import { DialogFacts } from "./DialogFacts";

interface DialogProps {
  request: SlotRequest | undefined;
  workload: Workload;
  revisions: Revision[] | undefined;
  onCancel: () => void;
  onConfirm: (request: SlotRequest) => void;
}

/** Says exactly what a click will do before it does it. */
export function ConfirmDialog(props: DialogProps) {
  const { t } = useTranslation();
  const { request, workload, onCancel } = props;
  return (
    <Modal
      opened={request !== undefined}
      onClose={onCancel}
      // Locking the scroll would need an inline style element.
      lockScroll={false}
      size="lg"
      centered
      closeButtonProps={{ "aria-label": t("dialog.close") }}
      title={
        request &&
        t(`dialog.title.${request.action}`, {
          name: workload.summary.workload.name,
          revision: request.revision,
        })
      }
      classNames={{ title: classes.title, body: classes.body }}
      data-testid="confirm"
    >
      {request && <Body {...props} request={request} />}
    </Modal>
  );
}

function Body({
  request,
  workload,
  revisions,
  onCancel,
  onConfirm,
}: DialogProps & { request: SlotRequest }) {
  const { t } = useTranslation();
  const status = useQuery(queries.status()).data;
  const changed = workload.summary.version !== request.version;
  const { action, unlearned } = request;
  const [why, setWhy] = useState("");
  return (
    <>
      <DialogFacts
        request={request}
        workload={workload}
        revision={revisions?.find((r) => r.number === request.revision)}
      />
      <ul className={classes.consequences}>
        <li>{t(`dialog.effect.${action}`, { revision: request.revision })}</li>
        {action === "enforce" && <li>{t("dialog.established")}</li>}
        {slotOf(action) === "live" && (
          <li>
            {status?.confirmSeconds
              ? t("dialog.revert", { count: status.confirmSeconds })
              : t("dialog.revertUnknown")}
          </li>
        )}
        <li>{t(`dialog.back.${action}`)}</li>
      </ul>
      {changed && (
        <Notice tone="warn" testId="confirm-changed">
          {t("dialog.changed")}
        </Notice>
      )}
      {unlearned && (
        <>
          <Notice tone="warn" title={t("dialog.unlearned")} testId="confirm-unlearned">
            <ul className={classes.denials}>
              {unlearned.map((m) => (
                <li key={m}>{m}</li>
              ))}
            </ul>
          </Notice>
          <Textarea
            label={t("dialog.anyway")}
            description={t("dialog.anywayText")}
            value={why}
            maxLength={500}
            autosize
            minRows={2}
            required
            onChange={(e) => setWhy(e.currentTarget.value)}
            data-testid="confirm-why"
          />
        </>
      )}
      <div className={classes.buttons}>
        <Button variant="default" onClick={onCancel} data-testid="confirm-cancel">
          {t("dialog.cancel")}
        </Button>
        <Button
          leftSection={<Icon name={action === "unstage" ? "cross" : action} />}
          disabled={unlearned !== undefined && why.trim() === ""}
          onClick={() => onConfirm(unlearned ? { ...request, anyway: why.trim() } : request)}
          data-testid="confirm-ok"
          data-autofocus
        >
          {t(`dialog.ok.${action}`, { revision: request.revision })}
        </Button>
      </div>
    </>
  );
}
