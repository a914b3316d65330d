import { useMediaQuery } from "@mantine/hooks";
import { useVirtualizer } from "@tanstack/react-virtual";
import { useLayoutEffect, useRef } from "react";
import { useTranslation } from "react-i18next";
import type { Flow } from "../../../api/wire";
import { formatBytes, formatMoment, parseTime } from "../../../app/format";
import classes from "./FlowTable.module.css";
import { FlowEnd, VerdictBadge } from "./parts";

const columns = ["time", "from", "to", "port", "bytes", "verdict", "node"] as const;

/** Any number of records: only those in sight are in the page. A press on one shows all of it. */
export function FlowTable({ flows, onOpen }: { flows: Flow[]; onOpen: (flow: Flow) => void }) {
  const { t } = useTranslation();
  const narrow = useMediaQuery("(max-width: 48em)", false, { getInitialValueInEffect: false });
  const frame = useRef<HTMLDivElement>(null);
  const rows = useVirtualizer({
    count: flows.length,
    getScrollElement: () => frame.current,
    estimateSize: () => (narrow ? 104 : 52),
    getItemKey: (i) => `${flows[i]?.id} ${i}`,
    overscan: 10,
  });
  // biome-ignore lint/correctness/useExhaustiveDependencies: heights are those of the layout
  useLayoutEffect(() => rows.measure(), [narrow]);
  const seen = rows.getVirtualItems();
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <section ref={frame} className={classes.frame} tabIndex={0} aria-label={t("flows.list")}>
      {/* biome-ignore lint/a11y/useSemanticElements: rows are laid out freely, which those of a table are not */}
      <div role="table" aria-label={t("flows.list")} aria-rowcount={flows.length + 1}>
        {/* biome-ignore lint/a11y/useSemanticElements: as above */}
        <div role="rowgroup" className={classes.head}>
          {/* biome-ignore lint/a11y/useSemanticElements: as above */}
          {/* biome-ignore lint/a11y/useFocusableInteractive: its cells hold what is pressed */}
          <div role="row" aria-rowindex={1} className={classes.row}>
            {columns.map((c) => (
              // biome-ignore lint/a11y/useSemanticElements: as above
              // biome-ignore lint/a11y/useFocusableInteractive: as above
              <span key={c} role="columnheader" className={classes.cell} data-column={c}>
                {t(`flows.columns.${c}`)}
              </span>
            ))}
          </div>
        </div>
        {/* biome-ignore lint/a11y/useSemanticElements: as above */}
        <div role="rowgroup" className={classes.body} style={{ height: rows.getTotalSize() }}>
          {seen.map((item) => {
            const flow = flows[item.index];
            return (
              flow && (
                // biome-ignore lint/a11y/useSemanticElements: as above
                // biome-ignore lint/a11y/useFocusableInteractive: the button in it does the same
                // biome-ignore lint/a11y/useKeyWithClickEvents: as above
                <div
                  key={item.key}
                  role="row"
                  aria-rowindex={item.index + 2}
                  className={classes.row}
                  data-testid="flow-row"
                  data-verdict={flow.outcome}
                  style={{ height: item.size, transform: `translateY(${item.start}px)` }}
                  onClick={() => !window.getSelection()?.toString() && onOpen(flow)}
                >
                  <FlowCells flow={flow} onOpen={onOpen} />
                </div>
              )
            );
          })}
        </div>
      </div>
    </section>
  );
}

function FlowCells({ flow: f, onOpen }: { flow: Flow; onOpen: (flow: Flow) => void }) {
  const { t } = useTranslation();
  const at = parseTime(f.time);
  const cells = {
    time: (
      <button
        type="button"
        className={classes.open}
        aria-label={t("flows.open", { time: at ? clock(at) : "" })}
        onClick={(e) => {
          e.stopPropagation();
          onOpen(f);
        }}
      >
        <time dateTime={f.time} title={at && formatMoment(at)}>
          {at ? clock(at) : ""}
        </time>
      </button>
    ),
    from: <FlowEnd party={f.source} address={f.sourceAddress} />,
    to: <FlowEnd party={f.destination} address={f.destinationAddress} />,
    port: `${f.protocol} ${f.port || ""}`,
    bytes: formatBytes(f.bytesForward + f.bytesReverse),
    verdict: <VerdictBadge verdict={f.outcome} />,
    node: f.node,
  };
  return columns.map((c) => (
    // biome-ignore lint/a11y/useSemanticElements: rows are laid out freely, which those of a table are not
    <div key={c} role="cell" className={classes.cell} data-column={c}>
      {cells[c]}
    </div>
  ));
}

const two = (n: number) => String(n).padStart(2, "0");

const clock = (d: Date): string =>
  `${two(d.getMonth() + 1)}-${two(d.getDate())} ${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}.${String(d.getMilliseconds()).padStart(3, "0")}`;
