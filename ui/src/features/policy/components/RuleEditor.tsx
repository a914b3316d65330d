import { ActionIcon, Button, Modal, NativeSelect, TextInput } from "@mantine/core";
import { useState } from "react";
import { useTranslation } from "react-i18next";
import type { Rule } from "../../../api/wire";
import { Icon } from "../../../components/Icon";
import { peerText } from "../api/describe";
import type { Side } from "../api/draft";
import {
  checkForm,
  cidrForm,
  type FormErrors,
  formOf,
  hasPorts,
  type PeerForm,
  type PortForm,
  portForm,
  type RuleForm,
  ruleOf,
} from "../api/edit";
import classes from "./RuleEditor.module.css";

/** Narrows or corrects one rule: its address peers and its ports. */
export function RuleEditor({
  rule,
  side,
  edited,
  onClose,
  onSave,
}: {
  rule: Rule;
  side: Side;
  edited: boolean;
  onClose: () => void;
  /** Undefined takes an earlier edit back. */
  onSave: (r: Rule | undefined) => void;
}) {
  const { t } = useTranslation();
  const [form, setForm] = useState<RuleForm>(() => formOf(rule));
  const [errors, setErrors] = useState<FormErrors>({});
  const save = () => {
    const found = checkForm(form);
    setErrors(found);
    if (Object.keys(found).length === 0) {
      onSave(ruleOf(form));
    }
  };
  return (
    <Modal
      opened
      onClose={onClose}
      lockScroll={false}
      size="lg"
      centered
      title={t(`editor.title.${side}`)}
      closeButtonProps={{ "aria-label": t("dialog.close") }}
      classNames={{ title: classes.title, body: classes.body }}
      data-testid="rule-editor"
    >
      <Peers form={form} errors={errors} onChange={(peers) => setForm({ ...form, peers })} />
      <Ports form={form} errors={errors} onChange={(ports) => setForm({ ...form, ports })} />
      {errors[""] && (
        <p className={classes.error} role="alert">
          {t(`editor.error.${errors[""]}`)}
        </p>
      )}
      <p className={classes.note}>{t("editor.note")}</p>
      <div className={classes.buttons}>
        {edited && (
          <Button variant="subtle" color="gray" onClick={() => onSave(undefined)}>
            {t("editor.undo")}
          </Button>
        )}
        <Button variant="default" onClick={onClose}>
          {t("dialog.cancel")}
        </Button>
        <Button onClick={save} data-testid="editor-save">
          {t("editor.save")}
        </Button>
      </div>
    </Modal>
  );
}

interface PartProps<T> {
  form: RuleForm;
  errors: FormErrors;
  onChange: (rows: T[]) => void;
}

const replaced = <T extends { key: string }>(rows: T[], row: T): T[] =>
  rows.map((r) => (r.key === row.key ? row : r));

const without = <T extends { key: string }>(rows: T[], key: string): T[] =>
  rows.filter((r) => r.key !== key);

function Peers({ form, errors, onChange }: PartProps<PeerForm>) {
  const { t } = useTranslation();
  return (
    <fieldset className={classes.part}>
      <legend>{t("editor.peers")}</legend>
      {form.peers.map((p) => (
        <div key={p.key} className={classes.row}>
          {p.kind === "fixed" ? (
            <code className={classes.fixed}>{peerText(t, p.peer)}</code>
          ) : (
            <>
              <TextInput
                className={classes.grow}
                label={t("editor.prefix")}
                placeholder="10.0.0.0/24"
                value={p.prefix}
                error={errors[p.key] && t(`editor.error.${errors[p.key]}`)}
                onChange={(e) =>
                  onChange(replaced(form.peers, { ...p, prefix: e.currentTarget.value }))
                }
                data-testid="editor-prefix"
              />
              <TextInput
                className={classes.grow}
                label={t("editor.except")}
                value={p.except}
                onChange={(e) =>
                  onChange(replaced(form.peers, { ...p, except: e.currentTarget.value }))
                }
              />
            </>
          )}
          <Remove
            label={t("editor.removePeer")}
            onClick={() => onChange(without(form.peers, p.key))}
          />
        </div>
      ))}
      <Button
        variant="default"
        size="compact-sm"
        leftSection={<Icon name="plus" size={14} />}
        onClick={() => onChange([...form.peers, cidrForm()])}
        data-testid="editor-add-cidr"
      >
        {t("editor.addCidr")}
      </Button>
    </fieldset>
  );
}

const protocols = ["TCP", "UDP", "SCTP", "ICMP", "ICMPv6"];

function Ports({ form, errors, onChange }: PartProps<PortForm>) {
  const { t } = useTranslation();
  return (
    <fieldset className={classes.part}>
      <legend>{t("editor.ports")}</legend>
      {form.ports.map((p) => {
        const set = (part: Partial<PortForm>) => onChange(replaced(form.ports, { ...p, ...part }));
        return (
          <div key={p.key} className={classes.row}>
            <NativeSelect
              label={t("editor.protocol")}
              value={p.protocol}
              data={protocols.includes(p.protocol) ? protocols : [p.protocol, ...protocols]}
              onChange={(e) => set({ protocol: e.currentTarget.value })}
            />
            {hasPorts(p.protocol) && (
              <>
                <TextInput
                  className={classes.port}
                  label={t("editor.from")}
                  placeholder={t("editor.every")}
                  inputMode="numeric"
                  value={p.from}
                  error={errors[p.key] && t(`editor.error.${errors[p.key]}`)}
                  onChange={(e) => set({ from: e.currentTarget.value })}
                  data-testid="editor-port"
                />
                <TextInput
                  className={classes.port}
                  label={t("editor.to")}
                  inputMode="numeric"
                  value={p.to}
                  onChange={(e) => set({ to: e.currentTarget.value })}
                  data-testid="editor-end-port"
                />
              </>
            )}
            <Remove
              label={t("editor.removePort")}
              onClick={() => onChange(without(form.ports, p.key))}
            />
          </div>
        );
      })}
      <Button
        variant="default"
        size="compact-sm"
        leftSection={<Icon name="plus" size={14} />}
        onClick={() => onChange([...form.ports, portForm()])}
        data-testid="editor-add-port"
      >
        {t("editor.addPort")}
      </Button>
    </fieldset>
  );
}

function Remove({ label, onClick }: { label: string; onClick: () => void }) {
  return (
    <ActionIcon
      className={classes.remove}
      variant="subtle"
      color="gray"
      size="lg"
      aria-label={label}
      title={label}
      onClick={onClick}
    >
      <Icon name="cross" />
    </ActionIcon>
  );
}
