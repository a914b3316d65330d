import { useMediaQuery } from "@mantine/hooks";
import type { ReactNode } from "react";
import { useTranslation } from "react-i18next";
import classes from "./DataTable.module.css";
import { Icon } from "./Icon";

export interface Column<T> {
  id: string;
  header: string;
  cell: (row: T) => ReactNode;
  numeric?: boolean;
  /** Shown first and without its header where a row is a card. */
  lead?: boolean;
  sortable?: boolean;
  /** Has nothing to say of the row: a card leaves it out. */
  absent?: (row: T) => boolean;
  /** Takes a card's whole width: names, addresses and sentences. */
  wide?: boolean;
}

export interface Sort {
  column: string;
  descending: boolean;
}

interface DataTableProps<T> {
  label: string;
  columns: Column<T>[];
  rows: T[];
  rowKey: (row: T) => string;
  rowTestId?: (row: T) => string;
  onRow?: (row: T) => void;
  sort?: Sort;
  onSort?: (sort: Sort) => void;
}

/** A table where there is room for one, and a list of cards where there is not. */
export function DataTable<T>(props: DataTableProps<T>) {
  const narrow = useMediaQuery("(max-width: 48em)", false, { getInitialValueInEffect: false });
  return narrow ? <Cards {...props} /> : <Table {...props} />;
}

function Table<T>({
  label,
  columns,
  rows,
  rowKey,
  rowTestId,
  onRow,
  sort,
  onSort,
}: DataTableProps<T>) {
  return (
    // biome-ignore lint/a11y/noNoninteractiveTabindex: what scrolls must be reachable by keyboard
    <section className={classes.scroll} tabIndex={0} aria-label={label}>
      <table className={classes.table} aria-label={label}>
        <thead>
          <tr>
            {columns.map((c) => (
              <HeadCell key={c.id} column={c} sort={sort} onSort={onSort} />
            ))}
          </tr>
        </thead>
        <tbody>
          {rows.map((row) => (
            <tr
              key={rowKey(row)}
              data-testid={rowTestId?.(row)}
              data-clickable={onRow ? true : undefined}
              onClick={onRow && ((e) => followRow(e, () => onRow(row)))}
            >
              {columns.map((c) => (
                <td key={c.id} data-numeric={c.numeric || undefined}>
                  {c.cell(row)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </section>
  );
}

function HeadCell<T>({
  column,
  sort,
  onSort,
}: {
  column: Column<T>;
  sort: Sort | undefined;
  onSort: ((sort: Sort) => void) | undefined;
}) {
  const active = sort?.column === column.id;
  const order = !active ? "none" : sort.descending ? "descending" : "ascending";
  return (
    <th
      scope="col"
      data-numeric={column.numeric || undefined}
      aria-sort={column.sortable && onSort ? order : undefined}
    >
      {column.sortable && onSort ? (
        <button
          type="button"
          className={classes.sort}
          data-order={order}
          onClick={() =>
            onSort({
              column: column.id,
              descending: active ? !sort.descending : column.numeric === true,
            })
          }
        >
          {column.header}
          <Icon name="sort" size={11} className={classes.sortIcon} />
        </button>
      ) : (
        column.header
      )}
    </th>
  );
}

function Cards<T>({ label, columns, rows, rowKey, rowTestId, onRow }: DataTableProps<T>) {
  const { t } = useTranslation();
  const lead = columns.filter((c) => c.lead);
  const rest = columns.filter((c) => !c.lead);
  return (
    <ul className={classes.cards} aria-label={label}>
      {rows.map((row) => (
        // biome-ignore lint/a11y/useKeyWithClickEvents: a shortcut; the link in the card does the same
        <li
          key={rowKey(row)}
          data-testid={rowTestId?.(row)}
          data-clickable={onRow ? true : undefined}
          onClick={onRow && ((e) => followRow(e, () => onRow(row)))}
        >
          {lead.map((c) => (
            <div key={c.id} className={classes.lead}>
              {c.cell(row)}
            </div>
          ))}
          <dl className={classes.pairs} aria-label={t("table.details")}>
            {rest
              .filter((c) => !c.absent?.(row))
              .map((c) => (
                <div key={c.id} data-wide={c.wide || undefined}>
                  <dt>{c.header}</dt>
                  <dd>{c.cell(row)}</dd>
                </div>
              ))}
          </dl>
        </li>
      ))}
    </ul>
  );
}

// Links, buttons and selected text in a row keep their own meaning.
function followRow(e: React.MouseEvent, follow: () => void): void {
  const target = e.target as HTMLElement;
  if (!target.closest("a, button, input, label") && !window.getSelection()?.toString()) {
    follow();
  }
}
